"""A pass that computes half-precision models in single precision, for CPUs."""

import numpy as np
import tvm
from tvm import relax, topi
from tvm.ir import Call, GenericConst, IRModule, Op

from hios_tvm.passes.dataflow import bindings, operator_name
from hios_tvm.passes.legalize_elementwise import OPAQUE
from hios_tvm.passes.narrow_weights import HALF

_WIDE = "float32"


@tvm.transform.module_pass(opt_level=0, name="WidenHalf")
class WidenHalf:
    """Make every half-precision tensor of `main` one of single precision.

    Inputs and outputs keep their types, and are converted. CPUs convert before and after each step
    of half-precision arithmetic, and no rule writes loops for it: convolutions took 500 times as
    long. ONNX Runtime also computes such models in single precision on CPUs. What makes whole
    numbers of half-precision ones, and kernels that a frontend wrote itself, keep their types, with
    conversions around them.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        main = mod["main"]
        if not any(map(_is_half, _types(main))):
            return mod
        others = {var: func for var, func in mod.functions_items() if var.name_hint != "main"}
        builder = relax.BlockBuilder(IRModule(others, attrs=mod.attrs))
        attrs = dict(main.attrs) if main.attrs else {}
        attrs.pop("global_symbol", None)
        with builder.function("main", list(main.params), attrs=attrs):
            with builder.dataflow():
                widener = _Widener(builder)
                for param in main.params:
                    widener.wide[param] = widener.converted(param, _WIDE)
                for binding in bindings(main):
                    widener.bind(binding)
                result = builder.emit_output(widener.narrow(main.body.body))
            builder.emit_func_output(result)
        return relax.transform.DeadCodeElimination()(builder.finalize())


class _Widener:
    """The new block under construction; `wide` has what the old variables are in it."""

    def __init__(self, builder: relax.BlockBuilder) -> None:
        self.wide: dict[relax.Var, relax.Expr] = {}
        self._builder = builder
        self._constants: dict[GenericConst, relax.Expr] = {}
        self._half: dict[relax.Expr, relax.Expr] = {}  # what was converted to single, by the result
        self._rounding: dict[relax.Var, str] = {}  # the type that an old variable is rounded to
        self._name = ""

    def bind(self, binding: relax.Binding) -> None:
        """Compute the value of a binding in single precision."""
        self._name = binding.var.name
        if operator_name(binding.value) == "relax.astype":
            self._note_rounding(binding.var, binding.value.args[0])
        self._note_rounding(binding.var, binding.var)
        value = self._widened(binding.value)
        is_bound = isinstance(value, relax.Var | GenericConst | relax.Tuple)
        self.wide[binding.var] = value if is_bound else self._builder.emit(value, self._name)

    def _note_rounding(self, var: relax.Var, source: relax.Expr) -> None:
        """Note that `var` has the values of `source`, where these are of half precision."""
        if _is_half(source.ty) and _dtype(var.ty).startswith(("float", "bfloat")):
            self._rounding.setdefault(var, _dtype(source.ty))

    def converted(self, value: relax.Expr, dtype: str) -> relax.Expr:
        """Convert a tensor if it, or what it has to be, is of half precision."""
        if _dtype(value.ty) == dtype or not (_is_half(value.ty) or dtype in HALF):
            return value
        if value in self._half and _dtype(self._half[value].ty) == dtype:
            return self._half[value]
        result = self._builder.emit(relax.op.astype(value, dtype), self._name)
        if dtype == _WIDE:
            self._half[result] = value
        return result

    def narrow(self, old: relax.Expr) -> relax.Expr:
        """Return what was computed for `old`, in its own type."""
        if isinstance(old, relax.Tuple):
            return relax.Tuple([self.narrow(field) for field in old.fields])
        if not isinstance(old, relax.Var | GenericConst):
            return old
        wide = self._widened(old)
        if isinstance(old.ty, tvm.ir.TupleType):
            fields = zip(_fields(wide), old.ty.fields, strict=True)
            return relax.Tuple([self._narrowed(field, ty) for field, ty in fields])
        return self._narrowed(wide, old.ty)

    def _narrowed(self, wide: relax.Expr, ty: tvm.ir.Type) -> relax.Expr:
        return self.converted(wide, _dtype(ty)) if _is_half(ty) else wide

    def _rounded(self, old: relax.Expr) -> relax.Expr:
        """As `narrow`, by a kernel of its own: in one with its readers, TVM drops the rounding."""
        if isinstance(old, relax.Tuple):
            return relax.Tuple([self._rounded(field) for field in old.fields])
        dtype = self._rounding.get(old, "") if isinstance(old, relax.Var) else ""
        if not dtype:
            return self.narrow(old)
        wide = self.wide[old]
        if wide in self._half:
            half = self._half[wide]
        else:
            cast = self._builder.call_te(
                lambda x: topi.cast(x, dtype),
                wide,
                primfunc_name_hint="cast",
                primfunc_attrs={"op_pattern": OPAQUE},
            )
            half = self._builder.emit(cast, self._name)
        return self.converted(half, _dtype(old.ty))

    def _decides(self, value: Call) -> bool:
        """Whether rounding decides the result: whole numbers or truth values of half precision."""
        if not _dtype(value.ty).startswith(("int", "uint", "bool")):
            return False
        fields = (field for arg in value.args for field in getattr(arg, "fields", [arg]))
        return any(isinstance(field, relax.Var) and field in self._rounding for field in fields)

    def _widened(self, value: relax.Expr) -> relax.Expr:
        if isinstance(value, relax.Var):
            return self.wide[value]
        if isinstance(value, GenericConst):
            return self._constant(value)
        if isinstance(value, relax.Tuple):
            return relax.Tuple([self._widened(field) for field in value.fields])
        if isinstance(value, relax.TupleGetItem):
            source = self._widened(value.tuple_value)
            if isinstance(source, relax.Tuple):
                return source.fields[value.index]
            return relax.TupleGetItem(source, value.index)
        if not isinstance(value, Call):
            return value
        is_own = not isinstance(value.op, Op) or operator_name(value).startswith("relax.call_")
        if is_own or self._decides(value):
            return self._in_its_own_types(value)
        if operator_name(value) == "relax.astype":
            operand = self._widened(value.args[0])
            dtype = _WIDE if _is_half(value.ty) else _dtype(value.ty)
            return operand if _dtype(operand.ty) == dtype else relax.op.astype(operand, dtype)
        args = [self._widened(arg) for arg in value.args]
        return Call(value.op, args, _wide_attributes(value.attrs), value.ty_args, value.span)

    def _constant(self, value: GenericConst) -> relax.Expr:
        if not _is_half(value.ty):
            return value
        if value not in self._constants:
            array = value.value.numpy().astype(np.float32)
            self._constants[value] = relax.const(array, _WIDE)
        return self._constants[value]

    def _in_its_own_types(self, value: Call) -> relax.Expr:
        own = self._rounded if self._decides(value) else self.narrow
        args = [own(arg) for arg in value.args]
        result = self._builder.emit(Call(value.op, args, value.attrs, value.ty_args), self._name)
        if not isinstance(result.ty, tvm.ir.TupleType):
            return self.converted(result, _WIDE) if _is_half(result.ty) else result
        items = [
            self._builder.emit(relax.TupleGetItem(result, i)) for i in range(len(result.ty.fields))
        ]
        return relax.Tuple([self.converted(i, _WIDE) if _is_half(i.ty) else i for i in items])


def _fields(value: relax.Expr) -> list[relax.Expr]:
    if isinstance(value, relax.Tuple):
        return list(value.fields)
    return [relax.TupleGetItem(value, i) for i in range(len(value.ty.fields))]


def _wide_attributes(attrs: tvm.ir.Attrs | None) -> tvm.ir.Attrs | None:
    """Return attributes whose types, of results, are single where they were half."""
    if attrs is None:
        return None
    info = type(attrs).__tvm_ffi_type_info__
    fields = {field.name: getattr(attrs, field.name) for field in info.fields}
    if not any(str(value) in HALF for value in fields.values()):
        return attrs
    wide = {name: _WIDE if str(value) in HALF else value for name, value in fields.items()}
    return tvm.ir.make_node(info.type_key, **wide)


def _types(main: relax.Function) -> list[tvm.ir.Type]:
    return [var.ty for var in (*main.params, *(binding.var for binding in bindings(main)))]


def _dtype(ty: tvm.ir.Type) -> str:
    is_tensor = isinstance(ty, relax.TensorType) and ty.dtype is not None
    return str(ty.dtype.dtype) if is_tensor else ""


def _is_half(ty: tvm.ir.Type) -> bool:
    return _dtype(ty) in HALF
