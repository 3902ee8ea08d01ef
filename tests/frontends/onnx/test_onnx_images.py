"""Blocks, grids and regions of images, against ONNX Runtime and ONNX's reference."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_models import NodeCase, assert_cases_agree, case, joined_model, noise

from hios_tvm.errors import ModelError
from hios_tvm.frontends.onnx import from_onnx

IMAGE = noise(2, 8, 4, 6)

BLOCKS = {
    "depth first": case("DepthToSpace", {"x": IMAGE}, blocksize=2),
    "columns first": case("DepthToSpace", {"x": IMAGE}, blocksize=2, mode="CRD"),
    "to depth": case("SpaceToDepth", {"x": IMAGE}, blocksize=2),
}
GRIDS = {
    f"{mode} {padding} {corners} {rank}": case(
        "GridSample",
        {
            "x": noise(2, 2, *(3, 4, 2)[:rank]),
            "grid": 1.5 * noise(2, *(2, 3, 2)[:rank], rank, seed=1),
        },
        mode=mode,
        padding_mode=padding,
        align_corners=corners,
    )
    for mode, rank in (("nearest", 2), ("nearest", 3), ("linear", 2), ("linear", 3), ("cubic", 2))
    for padding in ("zeros", "border", "reflection")
    for corners in ((0, 1) if rank == 2 else (0,))
}
ROIS = np.array(
    [[-3, 1, 5.5, 7], [2, 2, 2.5, 2.2], [0, 0, 6, 4], [4, 3, 1, 2]], np.float32
)  # the last one ends before it begins
REGIONS = {
    f"{mode} {samples} {coordinates}": case(
        "RoiAlign",
        {"x": IMAGE, "rois": ROIS, "batches": np.array([1, 0, 1, 0])},
        mode=mode,
        sampling_ratio=samples,
        coordinate_transformation_mode=coordinates,
        output_height=2,
        output_width=3,
        spatial_scale=0.9,
    )
    for mode in ("avg", "max")
    for samples in (0, 2)
    for coordinates in ("half_pixel", "output_half_pixel")
} | {
    "maxima": case(
        "MaxRoiPool",
        {"x": IMAGE, "rois": np.concatenate([[[1], [0], [1], [0]], ROIS], 1, dtype=np.float32)},
        pooled_shape=[2, 3],
        spatial_scale=0.9,
    )
}


@pytest.mark.parametrize(
    ("cases", "opset"),
    [(BLOCKS, 13), (GRIDS, 20), (REGIONS, 16)],
    ids=["blocks", "grids", "regions"],
)
def test_images(cases: dict[str, NodeCase], opset: int) -> None:
    assert_cases_agree(cases, opset=opset, atol=1e-5)


def test_names_of_grid_sampling_before_version_20() -> None:
    inputs = {"x": noise(1, 1, 3, 4), "grid": noise(1, 2, 3, 2)}
    cases = {
        mode: case("GridSample", inputs, mode=mode) for mode in ("bilinear", "nearest", "bicubic")
    }
    assert_cases_agree(cases, opset=16, atol=1e-5)


def test_regions_before_version_16_are_not_shifted() -> None:
    inputs = {"x": IMAGE, "rois": ROIS, "batches": np.array([1, 0, 1, 0])}
    assert_cases_agree({"rois": case("RoiAlign", inputs, output_width=2)}, opset=10, atol=1e-5)


def test_affine_grids() -> None:
    cases = {
        f"{size} {corners}": case(
            "AffineGrid",
            {"theta": noise(2, len(size), len(size) + 1)},
            {"size": np.array([2, 1, *size])},
            align_corners=corners,
        )
        for size in ([3, 4], [2, 3, 4])
        for corners in (0, 1)
    }
    assert_cases_agree(cases, opset=20, atol=1e-6, reference=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (case("DepthToSpace", {"x": noise(1, 10, 2, 2)}, blocksize=3), "10 channels are not a"),
        (case("SpaceToDepth", {"x": IMAGE}, blocksize=4), "4 x 6 has no whole blocks of 4"),
        (
            case("GridSample", {"x": IMAGE, "grid": noise(2, 3, 4, 3)}),
            "does not fit 2 spatial axes",
        ),
        (
            case("AffineGrid", {"theta": noise(1, 2, 3)}, {"size": np.array([2, 1, 3, 4])}),
            "theta of shape",
        ),
    ],
)
def test_shapes_that_do_not_fit(wrong: NodeCase, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        from_onnx(joined_model({"wrong": wrong}, opset=20))
