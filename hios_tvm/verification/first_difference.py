"""The search for the first operator that differs, and for the smallest model that shows it."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from tvm.ir import IRModule

from hios_tvm.errors import HiosError
from hios_tvm.verification.deviation import SINGLE, Arrays, Tolerance
from hios_tvm.verification.judgement import Judgement, judge
from hios_tvm.verification.reference import Reference, Step


@dataclass(frozen=True)
class Observation:
    """What a compiled model returned for each draw of inputs, and its kernels, in words."""

    outputs: tuple[Arrays, ...]
    kernels: tuple[str, ...]


Compile = Callable[[IRModule, Sequence[Arrays]], Observation]
"""Compiles a module exactly as the artifact was compiled, and runs it on each draw."""


@dataclass(frozen=True)
class Difference:
    """A model whose outputs differ from the reference's.

    `step` is the operator that computes the first tensor that differs. `model` is the smallest one
    around it that was found to show the difference, `kernels` are those that it is compiled to.
    """

    step: Step
    model: Reference
    judgement: Judgement
    kernels: tuple[str, ...]
    inputs: tuple[Arrays, ...]
    outputs: tuple[Arrays, ...]
    expected: tuple[Arrays, ...]


def first_difference(
    reference: Reference,
    inputs: Sequence[Arrays],
    compile_and_run: Compile,
    tolerance: Tolerance = SINGLE,
) -> Difference | None:
    """Find the first operator of a model that differs from the reference.

    Prefixes of the model are compiled, with all that later steps read as outputs: whatever an
    early step gets wrong is among the results of every longer prefix, and bisection finds it with
    about log2(steps) compiles. The step that it finds is then compiled alone, on what the
    reference computes before it, and with more and more of the steps before it until the
    difference shows again.

    Returns
    -------
    Difference or None
        None where the whole model agrees: then the fault is in what `compile_and_run` does not do.

    Raises
    ------
    HiosError
        If the whole model cannot be compiled or run.
    """
    return _Search(reference, tuple(inputs), compile_and_run, tolerance).run()


def first_wrong_layer(
    layers: Reference,
    inputs: Sequence[Arrays],
    compile_and_run: Compile,
    tolerance: Tolerance = SINGLE,
) -> tuple[Judgement, Difference | None]:
    """Compare the outputs of layers that do not depend on each other, as `Reference.in_layers`.

    Returns
    -------
    Judgement
        Of all layers.
    Difference or None
        The smallest model around the first wrong one, if any.

    Raises
    ------
    HiosError
        If the layers cannot be compiled or run.
    """
    return _Search(layers, tuple(inputs), compile_and_run, tolerance).run_layers()


class _Search:
    """Compiles parts of a model, runs them on all draws, and compares."""

    def __init__(
        self,
        reference: Reference,
        inputs: tuple[Arrays, ...],
        compile_and_run: Compile,
        tolerance: Tolerance,
    ) -> None:
        self._reference = reference
        self._inputs = inputs
        self._compile = compile_and_run
        self._tolerance = tolerance

    def run(self) -> Difference | None:
        prefix = self._first_wrong_prefix()
        return None if prefix is None else self._narrowed(prefix)

    def run_layers(self) -> tuple[Judgement, Difference | None]:
        whole = self._compare(self._reference, self._inputs)
        return whole.judgement, self._narrowed(whole) if whole.judgement.wrong else None

    def _narrowed(self, found: Difference) -> Difference | None:
        """Return the smallest model around the first of the wrong outputs that were found."""
        wrong = [output.output for output in found.judgement.wrong]
        known = [name for name in wrong if name in self._reference.writer]
        if not known:
            return None  # an input that is returned as it is, or a constant
        first = min(self._reference.writer[name] for name in known)
        step = self._reference.steps[first]
        outputs = [name for name in known if name in step.writes]
        return self._smallest(first, outputs) or replace(found, step=step)

    def _first_wrong_prefix(self) -> Difference | None:
        """Return the shortest wrong prefix before which all others that were tried agree."""
        steps = self._reference.steps
        wrong = self._compare(self._reference, self._inputs)
        if not wrong.judgement.wrong:
            return None
        ends = [i + 1 for i, step in enumerate(steps[:-1]) if step.is_computed]
        while ends:
            middle = ends[len(ends) // 2]
            outputs = self._reference.frontier(middle)
            found = self._look_at(range(middle), self._inputs, outputs)
            if found is None:  # a place where the model cannot be cut
                ends.remove(middle)
            elif found.judgement.wrong:
                wrong = found
                ends = [end for end in ends if end < middle]
            else:
                ends = [end for end in ends if end > middle]
        return wrong

    def _smallest(self, step: int, outputs: Sequence[str]) -> Difference | None:
        """Return the first of ever larger parts that end at `step` and differ."""
        chosen = {step}
        while True:
            values = self._values_before(chosen, step)
            found = None if values is None else self._look_at(chosen, values, outputs)
            if found is not None and found.judgement.wrong:
                return replace(found, step=self._reference.steps[step])
            before = chosen  # add one level while there are few steps, then several at once
            for _ in range(1 + len(chosen) // 8):
                chosen = self._reference.before(chosen)
            if chosen == before:
                return None

    def _values_before(self, chosen: Collection[int], step: int) -> tuple[Arrays, ...] | None:
        """Return what the part with the `chosen` steps reads, as the reference computes it."""
        writer = self._reference.writer
        computed = [name for name in self._reference.needed(chosen) if name in writer]
        if not computed:
            return self._inputs
        try:
            before = self._reference.part(range(step), self._inputs[0], computed)
            return tuple({**draw, **before.run(draw)} for draw in self._inputs)
        except HiosError:
            return None

    def _look_at(
        self, chosen: Collection[int], values: Sequence[Arrays], outputs: Sequence[str]
    ) -> Difference | None:
        """Compare a part; None where it cannot be cut out, compiled or run by itself."""
        try:
            return self._compare(self._reference.part(chosen, values[0], outputs), values)
        except Exception:  # also TVM's own: what is known already must not be lost to them
            return None

    def _compare(self, part: Reference, values: Sequence[Arrays]) -> Difference:
        module = part.module()
        names = list(map(str, module["main"].attrs["input_names"]))
        inputs = tuple({name: draw[name] for name in names} for draw in values)
        expected = tuple(map(part.run, inputs))
        seen = self._compile(module, inputs)
        found = judge(seen.outputs, inputs, expected, part, self._tolerance)
        step = part.steps[-1]
        return Difference(step, part, found, seen.kernels, inputs, seen.outputs, expected)
