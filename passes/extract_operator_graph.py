"""The operator graph of a lowered module (after CanonicalizeOperators)."""

import tvm
from tvm import relax
from tvm.ir import IRModule

from hios_tvm.errors import CompileError
from hios_tvm.passes.canonicalize_operators import NUM_INPUT
from hios_tvm.passes.dataflow import bindings
from hios_tvm.schema.graph import Operator, OperatorGraph, Tensor
from hios_tvm.schema.node_names import OPERATOR_NODES


def extract_operator_graph(mod: IRModule, name: str = "model") -> OperatorGraph:
    """Return the operators of `main`, one per `R.call_tir`, and the tensors between them.

    The only result of an operator has the operator's name; several have its name, a dot and a
    number. A copy on another device (`R.to_vdevice`) is the same tensor.

    Raises
    ------
    CompileError
        If `main` holds anything but calls of kernels, copies, tuples and their items, or a tensor
        has no static shape.
    """
    main = mod["main"]
    num_input = int(main.attrs[NUM_INPUT])
    nodes_of_operator = main.attrs.get(OPERATOR_NODES, {})
    names: dict[relax.Var, tuple[str, ...]] = {}
    tensors: list[Tensor] = []
    operators: list[Operator] = []

    def add_tensors(var: relax.Var) -> None:
        types = tensor_types(var.ty)
        names[var] = tensor_names(var.name, len(types))
        for tensor, ty in zip(names[var], types, strict=True):
            tensors.append(Tensor(tensor, _static_shape(ty, tensor), str(ty.dtype)))

    for param in main.params:
        add_tensors(param)
    for binding in bindings(main):
        if is_call_tir(binding.value):
            kernel, args = binding.value.args[0].name_hint, binding.value.args[1]
            reads = tuple(name for field in args.fields for name in _names_of(field, names))
            add_tensors(binding.var)
            nodes = tuple(map(str, nodes_of_operator.get(binding.var.name, ())))
            operators.append(Operator(binding.var.name, kernel, reads, names[binding.var], nodes))
        else:
            names[binding.var] = _names_of(binding.value, names)
    return OperatorGraph(
        name=name,
        operators=tuple(operators),
        tensors=tuple(tensors),
        inputs=tuple(param.name for param in main.params[:num_input]),
        constants=tuple(param.name for param in main.params[num_input:]),
        outputs=_names_of(main.body.body, names),
    )


def is_call_tir(value: relax.Expr) -> bool:
    """Whether `value` calls a kernel."""
    return isinstance(value, relax.Call) and value.op == tvm.ir.Op.get("relax.call_tir")


def tensor_names(operator: str, count: int) -> tuple[str, ...]:
    """Names of the tensors that `operator` writes.

    >>> tensor_names("conv", 1), tensor_names("split", 2)
    (('conv',), ('split.0', 'split.1'))
    """
    return (operator,) if count == 1 else tuple(f"{operator}.{i}" for i in range(count))


def _names_of(expr: relax.Expr, names: dict[relax.Var, tuple[str, ...]]) -> tuple[str, ...]:
    if isinstance(expr, relax.Var):
        return names[expr]
    if isinstance(expr, relax.Tuple):
        return tuple(name for field in expr.fields for name in _names_of(field, names))
    if isinstance(expr, relax.TupleGetItem):
        return (_names_of(expr.tuple_value, names)[expr.index],)
    if isinstance(expr, relax.Call) and expr.op == tvm.ir.Op.get("relax.to_vdevice"):
        return _names_of(expr.args[0], names)
    raise CompileError(f"{expr!s:.200} is not a tensor of main; lower the module first")


def tensor_types(ty: tvm.ir.Type) -> list[relax.TensorType]:
    """Types of the tensors of a value: of a tuple's fields, or of the tensor that it is."""
    return list(ty.fields) if isinstance(ty, tvm.ir.TupleType) else [ty]


def _static_shape(ty: relax.TensorType, tensor: str) -> tuple[int, ...]:
    try:
        return tuple(int(dim) for dim in ty.shape)
    except (TypeError, ValueError) as error:
        raise CompileError(f"tensor {tensor!r} has no static shape: {ty}") from error
