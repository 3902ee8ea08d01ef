"""Numbers and shapes as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hios_tvm.schema.manifest import Buffer, Manifest


def significant(value: float, digits: int = 3) -> str:
    """Write a number with so many significant digits; what noise decides is left out.

    >>> [significant(value) for value in (3807.79, 12.3456, 1.5, 0.0123456, 0.0, -2.71828)]
    ['3808', '12.3', '1.50', '0.0123', '0', '-2.72']
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}"


def milliseconds(value: float) -> str:
    """Write a time.

    >>> milliseconds(12.3456)
    '12.3 ms'
    """
    return f"{significant(value)} ms"


def shape_lines(manifests: Sequence[Manifest]) -> list[str]:
    """Return a line for each shape of an artifact that has several, the largest first.

    The last line says which sizes of a batch run.
    """
    if manifests[0].shapes is None:
        return []
    lines = [_shape_line(manifest) for manifest in manifests]
    batch = manifests[0].shapes.batch
    if batch is not None:
        lines.append(
            f"batches from {batch.smallest} to {batch.largest} run, each on the next larger program"
        )
    return lines


def weight_line(manifests: Sequence[Manifest]) -> str:
    """Say how many bytes of which types the weights of an artifact take in memory."""
    weights = {
        buffer.weight: buffer
        for manifest in manifests
        for buffer in manifest.buffers
        if buffer.space == "param"
    }
    prepared = {weight.name for manifest in manifests for weight in manifest.prepared}
    stored = [buffer for name, buffer in weights.items() if name not in prepared]
    computed = [buffer for name, buffer in weights.items() if name in prepared]
    line = f"weights in memory: {_sizes(stored) or 'none'}"
    return f"{line}, and computed when loaded {_sizes(computed)}" if computed else line


def _sizes(buffers: Sequence[Buffer]) -> str:
    sizes: dict[str, int] = {}
    for buffer in buffers:
        sizes[buffer.dtype] = sizes.get(buffer.dtype, 0) + buffer.nbytes
    largest = sorted(sizes.items(), key=lambda item: -item[1])
    return ", ".join(f"{significant(nbytes / 2**20)} MiB of {dtype}" for dtype, nbytes in largest)


def _shape_line(manifest: Manifest) -> str:
    shapes = ", ".join(
        f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in manifest.shape.items()
    )
    makespan_ms = manifest.prediction.makespan_ms
    predicted = "" if makespan_ms is None else f"predicted {milliseconds(makespan_ms)}, "
    return f"program for {shapes}: {predicted}{manifest.verification}"
