"""The functions that recurrent layers name in their attribute ``activations``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tvm import te, tirx

from hios_tvm.frontends.onnx.operators.call import OperatorCall

Activation: TypeAlias = Callable[[tirx.Expr], tirx.Expr]
"""Of one element."""


@dataclass(frozen=True)
class _Kind:
    """A family of functions, with the parameters' defaults.

    `alpha` and `beta` are None where the function has no such parameter, and NaN where it has one
    without a default.
    """

    function: Callable[[tirx.Expr, float, float], tirx.Expr]
    alpha: float | None = None
    beta: float | None = None


def _number(value: float, x: tirx.Expr) -> tirx.Expr:
    return tirx.const(value, str(x.ty.dtype))


def _affine(x: tirx.Expr, alpha: float, beta: float) -> tirx.Expr:
    return _number(alpha, x) * x + _number(beta, x)


def _leaky_relu(x: tirx.Expr, alpha: float, beta: float) -> tirx.Expr:
    return tirx.Select(x < _number(0, x), _number(alpha, x) * x, x)


def _hard_sigmoid(x: tirx.Expr, alpha: float, beta: float) -> tirx.Expr:
    line = _affine(x, alpha, beta)
    zero, one = _number(0, x), _number(1, x)
    return tirx.Select(line < zero, zero, tirx.Select(line > one, one, line))


def _elu(x: tirx.Expr, alpha: float, beta: float) -> tirx.Expr:
    negative = _number(alpha, x) * (te.exp(x) - _number(1, x))
    return tirx.Select(x < _number(0, x), negative, x)


def _softplus(x: tirx.Expr, alpha: float, beta: float) -> tirx.Expr:
    zero = _number(0, x)
    positive = tirx.Select(x < zero, zero, x)
    return positive + te.log(_number(1, x) + te.exp(zero - tirx.abs(x)))


_NO_DEFAULT = float("nan")

_KINDS: Mapping[str, _Kind] = {
    "affine": _Kind(_affine, _NO_DEFAULT, _NO_DEFAULT),
    "elu": _Kind(_elu, 1.0),
    "hardsigmoid": _Kind(_hard_sigmoid, 0.2, 0.5),
    "leakyrelu": _Kind(_leaky_relu, 0.01),
    "relu": _Kind(lambda x, alpha, beta: _leaky_relu(x, 0.0, beta)),
    "scaledtanh": _Kind(
        lambda x, alpha, beta: _number(alpha, x) * te.tanh(_number(beta, x) * x),
        _NO_DEFAULT,
        _NO_DEFAULT,
    ),
    "sigmoid": _Kind(lambda x, alpha, beta: te.sigmoid(x)),
    "softplus": _Kind(_softplus),
    "softsign": _Kind(lambda x, alpha, beta: x / (_number(1, x) + tirx.abs(x))),
    "tanh": _Kind(lambda x, alpha, beta: te.tanh(x)),
    "thresholdedrelu": _Kind(  # ONNX Runtime's is not ONNX's
        lambda x, alpha, beta: tirx.Select(x < _number(alpha, x), _number(0, x), x), _NO_DEFAULT
    ),
}


def activations(
    call: OperatorCall, defaults: Sequence[str], directions: int
) -> list[tuple[Activation, ...]]:
    """The functions of each direction, whose arguments are clipped as the node says.

    That of an LSTM's cell state, the third, is not: ONNX Runtime clips the sums of gates alone.
    Functions take alpha and beta from the node's lists in their order, as far as they have such
    parameters and the lists reach.

    Parameters
    ----------
    call : OperatorCall
    defaults : sequence of str
        Functions of one direction of a node that names none.
    directions : int
    """
    attributes = call.attributes
    names = attributes.texts("activations", [*defaults] * directions)
    wanted = len(defaults) * directions
    if len(names) < wanted:
        raise ValueError(f"it names {len(names)} activations, {wanted} are needed")
    alphas = iter(attributes.numbers("activation_alpha", []))
    betas = iter(attributes.numbers("activation_beta", []))
    size = len(defaults)
    clip = attributes.number("clip") if "clip" in attributes else None
    functions = []
    for i, name in enumerate(names[:wanted]):
        kind = _KINDS.get(name.lower())
        if kind is None:
            raise ValueError(f"the activation {name!r} is not one of {', '.join(sorted(_KINDS))}")
        alpha = 0.0 if kind.alpha is None else next(alphas, kind.alpha)
        beta = 0.0 if kind.beta is None else next(betas, kind.beta)
        if alpha != alpha or beta != beta:
            raise ValueError(f"the activation {name!r} needs activation_alpha and activation_beta")
        functions.append(_clipped(kind, alpha, beta, clip if i % size < 2 else None))
    return [tuple(functions[i * size : (i + 1) * size]) for i in range(directions)]


def _clipped(kind: _Kind, alpha: float, beta: float, clip: float | None) -> Activation:
    def function(x: tirx.Expr) -> tirx.Expr:
        if clip is not None:
            low, high = _number(-clip, x), _number(clip, x)
            x = tirx.Select(x < low, low, tirx.Select(x > high, high, x))
        return kind.function(x, alpha, beta)

    return function
