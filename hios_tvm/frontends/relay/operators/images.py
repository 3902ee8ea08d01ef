"""Resizing and sampling of images and volumes."""

from __future__ import annotations

from typing import Any

from tvm import relax, topi

from hios_tvm.frontends.indexing import checked_indices, checked_regions
from hios_tvm.frontends.relay.operators.call import Converter, OperatorCall
from hios_tvm.frontends.relay.operators.convolution import SPATIAL, sizes
from hios_tvm.frontends.relay.values import Value
from hios_tvm.frontends.tensors import dtype_of, shape_of

# Relay's names of methods and those of Relax.
_METHODS = {
    "nearest_neighbor": "nearest_neighbor",
    "nearest": "nearest_neighbor",
    **dict.fromkeys(("linear", "bilinear", "trilinear"), "linear"),
    **dict.fromkeys(("cubic", "bicubic"), "cubic"),
}


def resize(rank: int, cubic: str = "cubic") -> Converter:
    """`image.resize1d` to `image.resize3d`; `cubic` is how names of attributes begin."""

    def convert(call: OperatorCall) -> Value:
        attributes = call.attributes
        roi = attributes.value("roi")
        return _resize(
            call,
            rank,
            sizes(call, "size", rank),
            method=_method(call, "linear"),
            mode=attributes.text("coordinate_transformation_mode", "half_pixel"),
            rounding=attributes.text("rounding_method", "round"),
            alpha=attributes.number(f"{cubic}_alpha", -0.5),
            exclude=attributes.integer(f"{cubic}_exclude", 0),
            roi=roi if isinstance(roi, list) else [],
            extrapolation=attributes.number("extrapolation_value", 0.0),
        )

    return convert


def upsampling(rank: int) -> Converter:
    """`nn.upsampling` and `nn.upsampling3d`: resizing by factors."""

    def convert(call: OperatorCall) -> Value:
        attributes = call.attributes
        layout = attributes.text("layout", "NC" + SPATIAL[rank])
        out = []
        for axis in SPATIAL[rank]:
            size = shape_of(call.tensor(0))[layout.index(axis)]
            out.append(round(size * attributes.number(f"scale_{axis.lower()}", 1.0)))
        mode = "align_corners" if attributes.flag("align_corners") else "asymmetric"
        if rank == 3:
            mode = attributes.text("coordinate_transformation_mode", "half_pixel")
        return _resize(
            call, rank, out, method=_method(call, "nearest_neighbor"), mode=mode, rounding=""
        )

    return convert


def _method(call: OperatorCall, default: str) -> str:
    return _METHODS[call.attributes.choice("method", tuple(_METHODS), default)]


def _resize(
    call: OperatorCall,
    rank: int,
    out: list[int],
    *,
    method: str,
    mode: str,
    rounding: str,
    alpha: float = -0.5,
    exclude: int = 0,
    roi: list[Any] | None = None,
    extrapolation: float = 0.0,
) -> relax.Expr:
    data = call.tensor(0)
    layout = call.attributes.text("layout", "NC" + SPATIAL[rank])
    out_dtype = call.attributes.dtype("out_dtype", dtype_of(data))
    if layout not in ("NC" + SPATIAL[rank], f"N{SPATIAL[rank]}C"):
        raise call.unsupported(f"with the layout {layout!r}")
    if len(out) != rank or min(out) < 1:
        raise call.error(f"the size {out} does not fit {rank} dimensions")
    if method == "nearest_neighbor" and not rounding:  # as Relay's kernels choose
        rounding = "round" if mode == "align_corners" else "floor"
    box = roi or [0.0] * (2 * rank)
    if rank == 1:
        options = (layout, method, mode, rounding, alpha, exclude, extrapolation)
        result = call.compute(topi.image.resize1d, data, box, tuple(out), *options)
    else:
        function = relax.op.image.resize2d if rank == 2 else relax.op.image.resize3d
        result = call.emit(
            function(
                data,
                relax.ShapeExpr(out),
                roi=tuple(float(value) for value in box),
                layout=layout,
                method=method,
                coordinate_transformation_mode=mode,
                rounding_method=rounding,
                cubic_alpha=alpha,
                cubic_exclude=exclude,
                extrapolation_value=extrapolation,
            )
        )
    return call.cast(result, out_dtype)


def grid_sample(call: OperatorCall) -> Value:
    attributes = call.attributes
    rank = len(shape_of(call.tensor(0)))
    return call.compute(
        topi.image.grid_sample,
        call.tensor(0),
        call.tensor(1),
        method=attributes.choice("method", ("bilinear", "nearest", "bicubic"), "bilinear"),
        layout=attributes.choice("layout", ("NCHW", "NCDHW"), "NCHW" if rank == 4 else "NCDHW"),
        padding_mode=attributes.choice("padding_mode", ("zeros", "border", "reflection"), "zeros"),
        align_corners=attributes.flag("align_corners", True),
    )


def affine_grid(call: OperatorCall) -> Value:
    target = call.attributes.integers("target_shape")
    return call.compute(topi.image.affine_grid, call.tensor(0), tuple(target))


def crop_and_resize(call: OperatorCall) -> Value:
    attributes = call.attributes
    data, boxes, indices = (call.tensor(i) for i in range(3))
    indices = checked_indices(call, indices, shape_of(data)[:1], from_end=False)
    return call.compute(
        topi.image.crop_and_resize,
        data,
        boxes,
        indices,
        tuple(attributes.integers("crop_size")),
        layout=attributes.choice("layout", ("NCHW", "NHWC"), "NCHW"),
        method=attributes.choice("method", ("bilinear", "nearest_neighbor"), "bilinear"),
        extrapolation_value=attributes.number("extrapolation_value", 0.0),
        out_dtype=attributes.dtype("out_dtype", dtype_of(data)),
    )


def _regions(call: OperatorCall) -> relax.Expr:
    layout, shape = call.attributes.text("layout", "NCHW"), shape_of(call.tensor(0))
    return checked_regions(call, call.tensor(1), shape[layout.index("N")])


def roi_align(call: OperatorCall) -> Value:
    attributes = call.attributes
    return call.compute(
        topi.vision.roi_align,
        call.tensor(0),
        _regions(call),
        tuple(attributes.integers("pooled_size")),
        attributes.number("spatial_scale"),
        attributes.choice("mode", ("avg", "max"), "avg"),
        attributes.integer("sample_ratio", -1),
        layout=attributes.choice("layout", ("NCHW", "NHWC"), "NCHW"),
    )


def roi_pool(call: OperatorCall) -> Value:
    attributes = call.attributes
    return call.compute(
        topi.vision.roi_pool,
        call.tensor(0),
        _regions(call),
        tuple(attributes.integers("pooled_size")),
        attributes.number("spatial_scale"),
        attributes.choice("layout", ("NCHW",), "NCHW"),
    )
