"""A proof that the rows of a batch are computed apart from each other, and in the same way.

Two imports of one model with different numbers of rows are compared, operator by operator. All
tensors whose shapes differ must have rows: one axis, with as many entries for each row in both. In
each kernel, the elements of row r may be computed from row r of other tensors and from what both
imports have in common, by expressions that are equal in both and do not contain r. Then a row of
the result is a function of the same row of the inputs, whatever the number of rows and its place
among them. What the proof does not understand is not proven.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, s_tir, tirx
from tvm.ir import Call, GenericConst, IRModule, Range, TensorLoad
from tvm.sym import Analyzer
from tvm.target import Target

from hios_tvm.passes.dataflow import bindings, operator_name
from hios_tvm.passes.tir_trees import nodes_of as tree_nodes
from hios_tvm.passes.tir_trees import with_values
from hios_tvm.schema.node_names import NODE_NAMES, nodes_of

_SPATIAL = 0  # the kind of a block's axis whose steps are independent


class NotProven(Exception):
    """The rows of a batch may influence each other; the message says where, in words."""


def prove_batch(smaller: IRModule, larger: IRModule, axes: Mapping[str, int]) -> dict[str, int]:
    """Prove that both modules compute each row of a batch alike, and apart from the others.

    Parameters
    ----------
    smaller, larger : IRModule
        A frontend's module for two sizes of a batch.
    axes : mapping of str to int
        The axis of the rows, by the name of the input.

    Returns
    -------
    dict
        The axis of the rows, by the name of the output; others are the same for all rows.

    Raises
    ------
    NotProven
        If they do not, or it cannot be shown.
    """
    first, second = map(_as_kernels, (smaller, larger))
    mains = first["main"], second["main"]
    names = [str(name) for name in mains[0].attrs["input_names"]]
    name, axis = next(iter(axes.items()))
    rows = [_shape(main.params[names.index(name)])[axis] for main in mains]
    proof = _Proof((first, second), rows)
    proof.go_through()
    outputs = [str(name) for name in mains[0].attrs["output_names"]]
    return {
        name: found.axis
        for name, found in zip(outputs, proof.results(), strict=True)
        if found is not None
    }


def _as_kernels(mod: IRModule) -> IRModule:
    """Return each operator as a kernel of its own, by TVM's own rules."""
    steps = [relax.transform.DecomposeOpsForInference(), relax.transform.LegalizeOps()]
    try:
        with Target("llvm"):
            return tvm.transform.Sequential(steps)(mod)
    except Exception as error:  # TVM raises what its checks find, in all of Python's types
        raise NotProven("as TVM cannot write its operators one by one") from error


def _shape(value: relax.Expr) -> tuple[int, ...]:
    return tuple(map(int, value.ty.shape.values))


@dataclass(frozen=True)
class _Rows:
    """Where a tensor has its rows: `entries` for each along `axis`."""

    axis: int
    entries: int


class _Proof:
    """Goes through two modules of `rows` rows side by side."""

    def __init__(self, modules: tuple[IRModule, IRModule], rows: Sequence[int]) -> None:
        self._modules = modules
        self._rows = rows
        self._twin: dict[relax.Var, relax.Var] = {}
        self._proven: set[tuple[str, str]] = set()

    def go_through(self) -> None:
        """Prove all operators, in their order."""
        mains = self._mains
        self._pair(mains[0].params, mains[1].params)
        pairs = [list(bindings(main)) for main in mains]
        if len(pairs[0]) != len(pairs[1]):
            raise NotProven("as the model has other operators for other sizes")
        for one, other in zip(*pairs, strict=True):
            self._check_values(one.value, other.value, self._name_of(one.var))
            self._pair([one.var], [other.var])

    def _name_of(self, var: relax.Var) -> str:
        """Return what to call what computes `var`."""
        attrs = self._mains[0].attrs
        names = attrs.get(NODE_NAMES, [])
        nodes = nodes_of(var.name)
        return repr(str(names[nodes[0]])) if nodes and nodes[0] < len(names) else var.name

    def results(self) -> list[_Rows | None]:
        """Return where each output has its rows."""
        values = [_fields(main.body.body) for main in self._mains]
        for one, other in zip(*values, strict=True):
            self._check_values(one, other, "an output")
        return [
            self._rows_of(_shape(one), _shape(other), "an output")
            for one, other in zip(*values, strict=True)
        ]

    @property
    def _mains(self) -> tuple[relax.Function, relax.Function]:
        return self._modules[0]["main"], self._modules[1]["main"]

    def _pair(self, ones: Sequence[relax.Var], others: Sequence[relax.Var]) -> None:
        for one, other in zip(ones, others, strict=True):
            self._twin[one] = other

    def _check_values(self, one: relax.Expr, other: relax.Expr, where: str) -> None:
        """Check two bound values, whose operands have been checked."""
        if isinstance(one, relax.Var):
            if not (isinstance(other, relax.Var) and self._twin[one].same_as(other)):
                raise NotProven(f"as {where} reads another tensor for other sizes")
        elif isinstance(one, GenericConst):
            self._check_constants(one, other, where)
        elif isinstance(one, relax.Tuple) and isinstance(other, relax.Tuple):
            for own, its in zip(one.fields, other.fields, strict=True):
                self._check_values(own, its, where)
        elif isinstance(one, relax.TupleGetItem) and isinstance(other, relax.TupleGetItem):
            if one.index != other.index:
                raise NotProven(f"as {where} reads another tensor for other sizes")
            self._check_values(one.tuple_value, other.tuple_value, where)
        elif operator_name(one) == operator_name(other) == "relax.call_tir":
            self._check_calls(one, other, where)
        else:
            name = operator_name(one) or type(one).__name__
            raise NotProven(f"as it is not known what {name} ({where}) does")

    def _check_constants(self, one: GenericConst, other: relax.Expr, where: str) -> None:
        """Constants are equal, or of equal rows."""
        if not isinstance(other, GenericConst):
            raise NotProven(f"as {where} reads no constant for other sizes")
        arrays = [constant.value.numpy() for constant in (one, other)]
        found = self._rows_of(arrays[0].shape, arrays[1].shape, where)
        if found is not None:
            by_row = [
                np.moveaxis(array, found.axis, 0).reshape(rows, -1)
                for array, rows in zip(arrays, self._rows, strict=True)
            ]
            arrays = [rows[:1] for rows in by_row]
            if not all((rows == rows[:1]).all() for rows in by_row):
                raise NotProven(f"as {where} reads constants that differ from row to row")
        if arrays[0].tobytes() != arrays[1].tobytes():
            raise NotProven(f"as {where} reads other constants for other sizes")

    def _check_calls(self, one: Call, other: Call, where: str) -> None:
        operands = [_fields(call.args[1]) for call in (one, other)]
        if len(operands[0]) != len(operands[1]) or len(one.args) != len(other.args):
            raise NotProven(f"as {where} has other operands for other sizes")
        for own, its in zip(*operands, strict=True):
            self._check_values(own, its, where)
        names = [call.args[0] for call in (one, other)]
        key = names[0].name_hint, names[1].name_hint
        if key not in self._proven:
            functions = [m[n.name_hint] for m, n in zip(self._modules, names, strict=True)]
            self._check_kernels([_Kernel.of(func, where) for func in functions], where)
            self._proven.add(key)

    def _check_kernels(self, kernels: Sequence[_Kernel], where: str) -> None:
        for what in ("buffers", "stages"):
            if len({len(getattr(kernel, what)) for kernel in kernels}) > 1:
                raise NotProven(f"as {where} takes other steps for other sizes")
        tensors = [
            self._rows_of(_sizes(one), _sizes(other), where)
            for one, other in zip(*(kernel.buffers for kernel in kernels), strict=True)
        ]
        for stages in zip(*(kernel.stages for kernel in kernels), strict=True):
            row = tirx.Var("row", "int64")
            sides = [
                _Side(kernel, tensors, row, rows, where)
                for kernel, rows in zip(kernels, self._rows, strict=True)
            ]
            self._bind_axes(sides, stages, where)
            self._check_stores(sides, stages, where)

    def _bind_axes(
        self, sides: Sequence[_Side], stages: Sequence[s_tir.SBlock], where: str
    ) -> None:
        """Give the axes of two blocks common names; one of them may be that of the rows."""
        axes = [list(stage.iter_vars) for stage in stages]
        if len({tuple(int(axis.iter_type) for axis in own) for own in axes}) > 1:
            raise NotProven(f"as {where} has other loops for other sizes")
        with_rows = 0
        for one, other in zip(*axes, strict=True):
            found = self._rows_of([int(one.dom.extent)], [int(other.dom.extent)], where)
            if found is not None and int(one.iter_type) != _SPATIAL:
                raise NotProven(f"as {where} computes with all rows at once")
            with_rows += found is not None
            if with_rows > 1:
                raise NotProven(f"as {where} goes through the rows for each row")
            entry = tirx.Var(one.var.name, "int64")
            for side, axis in zip(sides, (one, other), strict=True):
                side.bind(axis, entry, None if found is None else found.entries)

    def _check_stores(
        self, sides: Sequence[_Side], stages: Sequence[s_tir.SBlock], where: str
    ) -> None:
        """Check that two blocks write the same, if they are told what they read."""
        stores = [[stage.body, *([stage.init] if stage.init else [])] for stage in stages]
        if len(stores[0]) != len(stores[1]):
            raise NotProven(f"as {where} begins otherwise for other sizes")
        for pair in zip(*stores, strict=True):
            found = [side.written(store) for side, store in zip(sides, pair, strict=True)]
            if len(found[0]) != len(found[1]) or not all(
                tvm_ffi.structural_equal(*expressions) for expressions in zip(*found, strict=True)
            ):
                raise NotProven(f"as {where} computes something else for other sizes")

    def _rows_of(self, one: Sequence[int], other: Sequence[int], where: str) -> _Rows | None:
        """Return where a tensor of these two shapes has its rows; None where it has none."""
        if len(one) != len(other):
            raise NotProven(f"as {where} has other dimensions for other sizes")
        pairs = list(zip(one, other, strict=True))
        different = [axis for axis, pair in enumerate(pairs) if pair[0] != pair[1]]
        if not different:
            return None
        first, second = map(divmod, pairs[different[0]], self._rows)
        if len(different) > 1 or first != second or first[1] != 0:
            raise NotProven(f"as the shape of {where} is not so many entries for each row")
        return _Rows(different[0], first[0])


@dataclass(frozen=True)
class _Kernel:
    """The blocks of a kernel in their order, and its tensors: parameters, then its own."""

    stages: Sequence[s_tir.SBlock]
    buffers: Sequence[tirx.Var]

    @staticmethod
    def of(func: tirx.PrimFunc, where: str) -> _Kernel:
        """Return what is known of `func`, which must be loops around blocks and nothing else."""
        root = func.body
        if not isinstance(root, s_tir.SBlockRealize):
            raise NotProven(f"as it is not known what the loops of {where} do")
        body = root.block.body
        steps = list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]
        stages = [_block_of(step, where) for step in steps]
        return _Kernel(stages, [*func.params, *root.block.alloc_buffers])


def _block_of(step: tirx.Stmt, where: str) -> s_tir.SBlock:
    """Return the block inside of loops, each of which is one axis of it."""
    loops: dict[tirx.Var, int] = {}
    while isinstance(step, tirx.For):
        if not isinstance(step.extent, tirx.IntImm) or int(step.min) != 0:
            raise NotProven(f"as a loop of {where} has no fixed end")
        loops[step.loop_var] = int(step.extent)
        step = step.body
    unknown = NotProven(f"as it is not known what the loops of {where} do")
    if not isinstance(step, s_tir.SBlockRealize) or step.block.match_buffers:
        raise unknown
    if not (isinstance(step.predicate, tirx.IntImm) and int(step.predicate) == 1):
        raise unknown
    for axis, value in zip(step.block.iter_vars, step.iter_values, strict=True):
        is_zero = isinstance(value, tirx.IntImm) and int(value) == 0
        extent = 1 if is_zero else loops.pop(value, None) if isinstance(value, tirx.Var) else None
        if int(axis.dom.min) != 0 or extent != int(axis.dom.extent):
            raise unknown
    if any(extent != 1 for extent in loops.values()):
        raise unknown
    return step.block


class _Side:
    """A block for one of the sizes; what it writes, in terms of a row and what it has in common.

    Parameters
    ----------
    kernel : _Kernel
    tensors : sequence of _Rows or None
        Where each of the kernel's tensors has its rows.
    row : Var
    rows : int
        The number of rows.
    where : str
        For messages.
    """

    def __init__(
        self,
        kernel: _Kernel,
        tensors: Sequence[_Rows | None],
        row: tirx.Var,
        rows: int,
        where: str,
    ) -> None:
        self._number = {buffer: i for i, buffer in enumerate(kernel.buffers)}
        self._tensors = tensors
        self._row = row
        self._where = where
        self._analyzer = Analyzer()
        self._analyzer.bind(row, Range.from_min_extent(tirx.IntImm("int64", 0), rows))
        self._values: dict[tirx.Var, tirx.Expr] = {}

    def bind(self, axis: tirx.IterVar, entry: tirx.Var, entries: int | None) -> None:
        """Call an axis `entry`; or `row` and `entry` of `entries` where it is that of the rows."""
        extent = int(axis.dom.extent) if entries is None else entries
        self._analyzer.bind(entry, Range.from_min_extent(tirx.IntImm("int64", 0), extent))
        value = entry if entries is None else self._row * entries + entry
        self._values[axis.var] = value

    def written(self, store: tirx.Stmt) -> list[tirx.Expr]:
        """Return where and what a statement writes, as expressions without the row."""
        is_store = isinstance(store, tirx.BufferStore)
        if not is_store or any(tree_nodes(index, TensorLoad) for index in store.indices):
            raise NotProven(f"as it is not known what the loops of {self._where} do")
        indices = [with_values(index, self._values) for index in store.indices]
        has_rows = self._tensors[self._number[store.buffer]] is not None
        value = self._without_loads(with_values(store.value, self._values), has_rows=has_rows)
        found = [*self._place(store.buffer, indices), value]
        for expr in found:
            if any(var.same_as(self._row) for var in tree_nodes(expr, tirx.Var)):
                raise NotProven(f"as {self._where} computes rows by their number")
        return found

    def _place(self, tensor: tirx.Var, indices: Sequence[tirx.Expr]) -> list[tirx.Expr]:
        """Return the tensor's number and indices; of that of the rows what follows the row."""
        number = self._number[tensor]
        rows = self._tensors[number]
        places = [self._analyzer.simplify(index) for index in indices]
        if rows is not None:
            index = places[rows.axis]
            if not self._analyzer.can_prove_equal(tirx.floordiv(index, rows.entries), self._row):
                raise NotProven(f"as {self._where} uses other rows than its own")
            places[rows.axis] = self._analyzer.simplify(index - self._row * rows.entries)
        return [tirx.IntImm("int64", number), *places]

    def _without_loads(self, value: tirx.Expr, *, has_rows: bool) -> tirx.Expr:
        """Return `value` with a call that says where each tensor is read in place of reading it."""

        problems: list[NotProven] = []  # TVM would make other errors of them

        def read(load: TensorLoad) -> tirx.Expr:
            try:
                if not has_rows and self._tensors[self._number[load.source]] is not None:
                    raise NotProven(f"as {self._where} computes with all rows at once")
                place = self._place(load.source, load.indices)
            except NotProven as problem:
                problems.append(problem)
                return load
            return tirx.call_extern(load.ty.dtype, "read", *place)

        value = tvm_ffi.structural_map(value, [(TensorLoad, read)])
        for problem in problems:
            raise problem
        return self._analyzer.simplify(value)


def _sizes(tensor: tirx.Var) -> tuple[int, ...]:
    return tuple(map(int, tensor.shape))


def _fields(arguments: relax.Expr) -> list[relax.Expr]:
    return list(arguments.fields) if isinstance(arguments, relax.Tuple) else [arguments]
