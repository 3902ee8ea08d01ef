"""Outputs of several draws against those of a reference: equal, or not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hios_tvm.errors import ModelError
from hios_tvm.verification.deviation import (
    Arrays,
    Deviation,
    Rule,
    Spread,
    Tolerance,
    deviations,
    over_draws,
    reference_spread,
)
from hios_tvm.verification.reference import Reference


@dataclass(frozen=True)
class Judgement:
    """How far each output is from its reference, and what is allowed.

    `spread` is empty where it was not needed.
    """

    deviations: tuple[Deviation, ...]
    tolerance: Tolerance
    spread: Mapping[str, Spread] = field(default_factory=dict)

    def rule(self, found: Deviation) -> Rule | None:
        """Return why `found` counts as equal, or None where it is wrong."""
        return found.rule(self.tolerance, self._spread_of(found))

    @property
    def wrong(self) -> tuple[Deviation, ...]:
        """The outputs that differ."""
        return self.by_rule(None)

    def by_rule(self, rule: Rule | None) -> tuple[Deviation, ...]:
        """Return the outputs that count as equal by `rule`."""
        return tuple(found for found in self.deviations if self.rule(found) == rule)

    def allowed(self, found: Deviation) -> float:
        """The largest error that `found` might have; 0 where outputs have to be equal."""
        return found.allowed(self.tolerance, self._spread_of(found))

    def _spread_of(self, found: Deviation) -> Spread:
        return self.spread.get(found.output, Spread())


def judge(
    outputs: Sequence[Arrays],
    inputs: Sequence[Arrays],
    expected: Sequence[Arrays],
    reference: Reference,
    tolerance: Tolerance,
) -> Judgement:
    """Compare the outputs of each draw of inputs with what the reference returned for it.

    Only where they differ is the reference run again, to see what rounding alone does.
    """
    shapes = {
        name: (outputs[0][name].shape, array.shape)
        for name, array in expected[0].items()
        if name in outputs[0] and outputs[0][name].shape != array.shape
    }
    if shapes:
        found = tuple(Deviation.of_shapes(name, *both) for name, both in shapes.items())
        return Judgement(found, tolerance)
    found = deviations(over_draws(outputs), over_draws(expected), reference.output_steps)
    plain = Judgement(found, tolerance)
    if not plain.wrong:
        return plain
    try:
        rounding = tolerance.rounding
        reruns = zip(*(list(reference.run_otherwise(x, rounding)) for x in inputs), strict=True)
        spread = reference_spread(map(over_draws, reruns), over_draws(expected))
    except ModelError:  # it cannot run without its optimisations: then nothing more is known
        return plain
    return Judgement(found, tolerance, spread)
