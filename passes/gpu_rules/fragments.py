"""Fragments of matrices that the tensor cores of a warp multiply, as intrinsics of TVM."""

from dataclasses import dataclass
from functools import cache

from tvm import tirx
from tvm.ir import Expr
from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

from hios_tvm.schema.dtypes import element_type
from hios_tvm.schema.precisions import Precision

SIDE = 16
"""Rows and columns of a fragment of results."""

WARP = 32
"""Threads that hold a fragment together."""


SHARED = "shared.dyn"
"""Scope of shared memory whose parts may serve for one thing after the other."""

ROUND_TF32 = "hios_round_to_tf32"
"""A function of device code: rounds a fragment of an array of them, in place."""


@dataclass(frozen=True)
class FragmentFormat:
    """How operands are rounded, and how much of the reduced axis is multiplied at a time.

    `depth` is that of a fragment, `slices` what may lie in shared memory. Rows of a tile begin
    `skew` elements later than the ones before, in other banks. `rate` is how many products a
    multiprocessor of an A100 does in a cycle.
    """

    name: Precision
    shared_dtype: str
    fragment_dtype: str
    depth: int
    slices: tuple[int, ...]
    skew: int
    rate: float

    @property
    def nbytes(self) -> int:
        """Bytes of an element in shared memory."""
        return element_type(self.shared_dtype).nbytes

    def intrinsic(self, name: str) -> str:
        """Return the name under which TVM knows one of the format's intrinsics."""
        return f"hios_{self.name}_{name}"


# TVM 0.27 knows no fragments of TF32. Those of half precision with a depth of 8, which do not
# exist, stand for them here, and `hios_tvm.backends.cuda.codegen` writes what is meant
_FORMATS = {
    "tf32": FragmentFormat("tf32", "float32", "float16", 8, (16, 32, 64), skew=4, rate=512),
    "fp16": FragmentFormat("fp16", "float16", "float16", 16, (32, 64, 128), skew=8, rate=1024),
}


@cache
def fragment_format(precision: Precision) -> FragmentFormat:
    """Return the format of a precision; its intrinsics are known to TVM from then on."""
    form = _FORMATS[precision]
    for name, (description, code) in {
        "load_a": _load(form, "wmma.matrix_a", SIDE, form.depth),
        "load_b": _load(form, "wmma.matrix_b", form.depth, SIDE),
        "fill": _fill(form),
        "multiply": _multiply(form),
        "store": _store(form),
    }.items():
        TensorIntrin.register(form.intrinsic(name), description, code)
    return form


# What follows is written here, since importing TVM's own of half precision (0.27) parses hundreds
# of others, which takes 45 seconds


def _matrix(
    handle: T.handle,
    rows: int,
    columns: int,
    dtype: str,
    scope: str,
    strides: list[tirx.Var] | None = None,
) -> tirx.Buffer:
    return T.match_buffer(
        handle,
        (rows, columns),
        dtype,
        align=64,
        offset_factor=columns,
        scope=scope,
        strides=strides,
    )


def _index(fragments: tirx.Buffer, stride: tirx.Var, rows: int, columns: int) -> Expr:
    """Return which of an array of fragments a part of a matrix is in."""
    row, column = fragments.elem_offset // stride, fragments.elem_offset % stride
    return row // rows * (stride // columns) + column // columns


def _load(
    form: FragmentFormat, scope: str, rows: int, columns: int
) -> tuple[tirx.PrimFunc, tirx.PrimFunc]:
    """Load a fragment from shared memory; round it where its type is another."""
    from_dtype, to_dtype, depth = form.shared_dtype, form.fragment_dtype, form.depth
    is_rounded = from_dtype != to_dtype

    @T.prim_func(s_tir=True)
    def description(a: T.handle, c: T.handle) -> None:
        A = _matrix(a, rows, columns, from_dtype, SHARED)
        C = _matrix(c, rows, columns, to_dtype, scope)
        with T.sblock("root"):
            T.reads(A[0:rows, 0:columns])
            T.writes(C[0:rows, 0:columns])
            for i, j in T.grid(rows, columns):
                with T.sblock("load"):
                    row, column = T.axis.remap("SS", [i, j])
                    C[row, column] = (
                        T.Cast(to_dtype, A[row, column]) if is_rounded else A[row, column]
                    )

    @T.prim_func(s_tir=True)
    def code(a: T.handle, c: T.handle) -> None:
        a1, a0, c1, c0 = T.int32(), T.int32(), T.int32(), T.int32()
        A = _matrix(a, rows, columns, from_dtype, SHARED, [a1, a0])
        C = _matrix(c, rows, columns, to_dtype, scope, [c1, c0])
        with T.sblock("root"):
            T.reads(A[0:rows, 0:columns])
            T.writes(C[0:rows, 0:columns])
            T.evaluate(
                T.tvm_load_matrix_sync(
                    C.data,
                    SIDE,
                    SIDE,
                    depth,
                    _index(C, c1, rows, columns),
                    A.access_ptr("r", ptr_type=from_dtype),
                    a1,
                    "row_major",
                    dtype="void",
                )
            )
            if is_rounded:
                T.evaluate(T.call_extern("void", ROUND_TF32, C.data, _index(C, c1, rows, columns)))

    return description, code


def _fill(form: FragmentFormat) -> tuple[tirx.PrimFunc, tirx.PrimFunc]:
    """Set a fragment of results to zero."""
    depth = form.depth

    @T.prim_func(s_tir=True)
    def description(c: T.handle) -> None:
        C = _matrix(c, SIDE, SIDE, "float32", "wmma.accumulator")
        with T.sblock("root"):
            T.reads()
            T.writes(C[0:SIDE, 0:SIDE])
            for i, j in T.grid(SIDE, SIDE):
                with T.sblock("fill"):
                    row, column = T.axis.remap("SS", [i, j])
                    C[row, column] = T.float32(0)

    @T.prim_func(s_tir=True)
    def code(c: T.handle) -> None:
        c1, c0 = T.int32(), T.int32()
        C = _matrix(c, SIDE, SIDE, "float32", "wmma.accumulator", [c1, c0])
        with T.sblock("root"):
            T.reads()
            T.writes(C[0:SIDE, 0:SIDE])
            T.evaluate(
                T.tvm_fill_fragment(
                    C.data, SIDE, SIDE, depth, _index(C, c1, SIDE, SIDE), T.float32(0), dtype="void"
                )
            )

    return description, code


def _multiply(form: FragmentFormat) -> tuple[tirx.PrimFunc, tirx.PrimFunc]:
    """Add the product of two fragments to one of results."""
    dtype, depth = form.fragment_dtype, form.depth

    @T.prim_func(s_tir=True)
    def description(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = _matrix(a, SIDE, depth, dtype, "wmma.matrix_a")
        B = _matrix(b, depth, SIDE, dtype, "wmma.matrix_b")
        C = _matrix(c, SIDE, SIDE, "float32", "wmma.accumulator")
        with T.sblock("root"):
            T.reads(C[0:SIDE, 0:SIDE], A[0:SIDE, 0:depth], B[0:depth, 0:SIDE])
            T.writes(C[0:SIDE, 0:SIDE])
            for i, j, k in T.grid(SIDE, SIDE, depth):
                with T.sblock("multiply"):
                    row, column, at = T.axis.remap("SSR", [i, j, k])
                    C[row, column] = C[row, column] + T.Cast("float32", A[row, at]) * T.Cast(
                        "float32", B[at, column]
                    )

    @T.prim_func(s_tir=True)
    def code(a: T.handle, b: T.handle, c: T.handle) -> None:
        a1, a0, b1, b0, c1, c0 = T.int32(), T.int32(), T.int32(), T.int32(), T.int32(), T.int32()
        A = _matrix(a, SIDE, depth, dtype, "wmma.matrix_a", [a1, a0])
        B = _matrix(b, depth, SIDE, dtype, "wmma.matrix_b", [b1, b0])
        C = _matrix(c, SIDE, SIDE, "float32", "wmma.accumulator", [c1, c0])
        with T.sblock("root"):
            T.reads(C[0:SIDE, 0:SIDE], A[0:SIDE, 0:depth], B[0:depth, 0:SIDE])
            T.writes(C[0:SIDE, 0:SIDE])
            T.evaluate(
                T.tvm_mma_sync(
                    C.data,
                    _index(C, c1, SIDE, SIDE),
                    A.data,
                    _index(A, a1, SIDE, depth),
                    B.data,
                    _index(B, b1, depth, SIDE),
                    C.data,
                    _index(C, c1, SIDE, SIDE),
                    dtype="void",
                )
            )

    return description, code


def _store(form: FragmentFormat) -> tuple[tirx.PrimFunc, tirx.PrimFunc]:
    """Store a fragment of results to shared memory."""
    depth = form.depth

    @T.prim_func(s_tir=True)
    def description(a: T.handle, c: T.handle) -> None:
        A = _matrix(a, SIDE, SIDE, "float32", "wmma.accumulator")
        C = _matrix(c, SIDE, SIDE, "float32", SHARED)
        with T.sblock("root"):
            T.reads(A[0:SIDE, 0:SIDE])
            T.writes(C[0:SIDE, 0:SIDE])
            for i, j in T.grid(SIDE, SIDE):
                with T.sblock("store"):
                    row, column = T.axis.remap("SS", [i, j])
                    C[row, column] = A[row, column]

    @T.prim_func(s_tir=True)
    def code(a: T.handle, c: T.handle) -> None:
        a1, a0, c1, c0 = T.int32(), T.int32(), T.int32(), T.int32()
        A = _matrix(a, SIDE, SIDE, "float32", "wmma.accumulator", [a1, a0])
        C = _matrix(c, SIDE, SIDE, "float32", SHARED, [c1, c0])
        with T.sblock("root"):
            T.reads(A[0:SIDE, 0:SIDE])
            T.writes(C[0:SIDE, 0:SIDE])
            T.evaluate(
                T.tvm_store_matrix_sync(
                    A.data,
                    SIDE,
                    SIDE,
                    depth,
                    _index(A, a1, SIDE, SIDE),
                    C.access_ptr("w", ptr_type="float32"),
                    c1,
                    "row_major",
                    dtype="void",
                )
            )

    return description, code
