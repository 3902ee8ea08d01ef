"""What an operator mainly does, by the name of its kernel."""

import re
from collections.abc import Iterable

_WORDS = {
    "convolution": "conv",
    "depthwise convolution": "depthwise",
    "matrix product": "matmul dense gemm einsum",
    "pooling": "pool",
    "reduction": "softmax norm lrn sum mean variance max min prod argmax argmin cumsum topk "
    "extremes",
    "elementwise": "add subtract multiply divide power negative abs exp log sqrt rsqrt tanh "
    "sigmoid erf gelu silu relu clip maximum minimum floor ceil round cast where select equal less "
    "greater",
    "attention": "attention",
    "data movement": "concatenate transpose reshape slice pad take gather scatter split tile "
    "resize broadcast expand squeeze flatten stack flip repeat layout",
    "other": "",
}
OPERATOR_TYPES = tuple(_WORDS)
"""All types, in the order of their colours."""

# A fused kernel is named after all its parts: the one that takes most time says what it is.
_HEAVIEST_FIRST = (
    "attention", "depthwise convolution", "convolution", "matrix product", "pooling", "reduction",
    "elementwise", "data movement",
)  # fmt: skip
_KNOWN = {name: frozenset(words.split()) for name, words in _WORDS.items()}


def operator_type(kernel: str) -> str:
    """Return one of `OPERATOR_TYPES`.

    Softmax and normalizations are reductions; data movement computes nothing.

    >>> operator_type("fused_conv2d17_add13_relu13"), operator_type("layer_norm")
    ('convolution', 'reduction')
    >>> operator_type("fused_reshape_multiply_add"), operator_type("fused_strided_slice_pad")
    ('elementwise', 'data movement')
    """
    words = set(re.findall("[a-z]+", kernel.lower()))
    return next((name for name in _HEAVIEST_FIRST if words & _KNOWN[name]), "other")


def time_by_type(times: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Add up milliseconds by type, the largest sum first.

    >>> time_by_type([("pooling", 1.0), ("convolution", 2.0), ("pooling", 0.5)])
    {'convolution': 2.0, 'pooling': 1.5}
    """
    sums: dict[str, float] = {}
    for name, ms in times:
        sums[name] = sums.get(name, 0.0) + ms
    return dict(sorted(sums.items(), key=lambda item: -item[1]))
