"""The geometry of the windows of convolutions and poolings."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from hios_tvm.frontends.onnx.operators.call import OperatorCall

AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


@dataclass(frozen=True)
class Windows:
    """Windows on the spatial axes of an image, one number for each axis.

    Attributes
    ----------
    image, kernel, strides, dilations : tuple of int
    before, after : tuple of int
        Padding, in elements; negative where elements are cut off.
    out : tuple of int
        How many windows there are.
    """

    image: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    out: tuple[int, ...]

    @property
    def rank(self) -> int:
        return len(self.image)

    @property
    def size(self) -> int:
        """Elements of a window."""
        return prod(self.kernel)

    @property
    def overhang(self) -> tuple[int, ...]:
        """How far the last window reaches beyond the padding, as ``ceil_mode`` allows."""
        reach = zip(
            self.image, self.before, self.after, self.out, self.strides, self.spans, strict=True
        )
        return tuple(
            max(0, (out - 1) * stride + span - (before + size + after))
            for size, before, after, out, stride, span in reach
        )

    @property
    def spans(self) -> tuple[int, ...]:
        """Extents of a window with the gaps in it."""
        return tuple(
            (extent - 1) * step + 1
            for extent, step in zip(self.kernel, self.dilations, strict=True)
        )

    @property
    def is_padded(self) -> bool:
        """Whether any window reaches beyond the image."""
        return any((*self.before, *self.after, *self.overhang))


def read_windows(
    call: OperatorCall,
    image: Sequence[int],
    kernel: Sequence[int],
    *,
    ceil_mode: bool = False,
    may_crop: bool = False,
) -> Windows:
    """The windows of a convolution or pooling, from the attributes that describe them.

    Parameters
    ----------
    call : OperatorCall
    image : sequence of int
        Extents of the spatial axes.
    kernel : sequence of int
        Extents of a window.
    ceil_mode : bool
        Whether a last window may reach beyond the padding, if it begins before its end.
    may_crop : bool
        Whether ``auto_pad`` may give negative padding, where strides leave elements out: ONNX
        Runtime's poolings take it as it comes, its convolutions take it for none.
    """
    rank = len(image)
    strides = axis_sizes(call, "strides", rank)
    dilations = axis_sizes(call, "dilations", rank)
    mode = call.attributes.choice("auto_pad", AUTO_PADS, "NOTSET")
    pads = read_pads(call, rank)
    before, after, outs = [], [], []
    for i, size in enumerate(image):
        span = (kernel[i] - 1) * dilations[i] + 1
        first, last = pads[i] if mode == "NOTSET" else (0, 0)
        if mode.startswith("SAME"):
            out = -(-size // strides[i])
            total = (out - 1) * strides[i] + span - size
            first, last = split_padding(total if may_crop else max(0, total), mode)
        else:
            out = _windows_along(size, first, last, span, strides[i], ceil_mode)
        before.append(first)
        after.append(last)
        outs.append(out)
    return Windows(
        tuple(image),
        tuple(kernel),
        tuple(strides),
        tuple(dilations),
        tuple(before),
        tuple(after),
        tuple(outs),
    )


def axis_sizes(call: OperatorCall, name: str, rank: int) -> list[int]:
    """An attribute with a positive number for each spatial axis, by default 1."""
    sizes = call.attributes.integers(name, [1] * rank)
    if len(sizes) != rank or min(sizes, default=1) < 1:
        raise ValueError(f"{name} {sizes} does not fit {rank} spatial axes")
    return sizes


def read_pads(call: OperatorCall, rank: int) -> list[tuple[int, int]]:
    """The attribute ``pads``: before and after each spatial axis."""
    pads = call.attributes.integers("pads", [0] * (2 * rank))
    if len(pads) != 2 * rank or min(pads, default=0) < 0:
        raise ValueError(f"pads {pads} does not fit {rank} spatial axes")
    return list(zip(pads[:rank], pads[rank:], strict=True))


def split_padding(total: int, mode: str) -> tuple[int, int]:
    """Padding before and after an axis; an odd one goes after it only for SAME_UPPER."""
    first = int((total if mode == "SAME_UPPER" else total + 1) / 2)
    return first, total - first


def _windows_along(
    size: int, before: int, after: int, span: int, stride: int, ceil_mode: bool
) -> int:
    rest = before + size + after - span
    # Where not even one window fits, the standard rounds up too.
    rounds_up = ceil_mode or rest < 0
    count = (-(-rest // stride) if rounds_up else rest // stride) + 1
    if count < 0:
        raise ValueError(f"a window of {span} does not fit an axis of {before + size + after}")
    if ceil_mode and (count - 1) * stride >= size + before:
        count -= 1  # a window must not begin behind the image
    return max(0, count)
