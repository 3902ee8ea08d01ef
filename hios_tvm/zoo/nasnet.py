"""NASNet-A large (6 @ 4032).

Zoph et al., "Learning transferable architectures for scalable image recognition", CVPR 2018;
padding and channels as in the authors' TensorFlow release and its ports to PyTorch. Dropout and
scheduled drop path do nothing at inference and are left out.
"""

from hios_tvm.zoo.builder import GraphBuilder, Tensor

FILTERS = 168  # of the first normal cells; a cell's output has six times as many channels
CELLS = 6  # normal cells between two reductions
EPSILON = 1e-3


def nasnet_a_large(g: GraphBuilder, x: Tensor) -> Tensor:
    """Append the network to `g`: logits ``[batch, 1000]`` of images ``[batch, 3, h, w]``."""
    with g.scope("stem"):
        stem = g.batch_norm(g.conv(x, 96, 3, stride=2), epsilon=EPSILON)
    with g.scope("stem_cell_0"):
        current = _fit(g, stem, FILTERS // 4)
        previous, x = stem, _reduction_cell(g, current, stem, FILTERS // 4)
    with g.scope("stem_cell_1"):
        current = _fit(g, x, FILTERS // 2)
        fitted = _fit_halved(g, previous, FILTERS // 2)
        previous, x = x, _reduction_cell(g, current, fitted, FILTERS // 2)
    for section, filters in enumerate((FILTERS, 2 * FILTERS, 4 * FILTERS)):
        if section:
            with g.scope(f"reduction_cell_{section - 1}"):
                current, fitted = _fit(g, x, filters), _fit(g, previous, filters)
                x = _reduction_cell(g, current, fitted, filters)
        for cell in range(CELLS):
            with g.scope(f"cell_{section * CELLS + cell}"):
                # Behind a reduction the cell before last is still of twice the size.
                fit_previous = _fit_halved if cell == 0 else _fit
                fitted = fit_previous(g, previous, filters)
                previous, x = x, _normal_cell(g, _fit(g, x, filters), fitted, filters)
    with g.scope("head"):
        return g.dense(g.flatten(g.global_average_pool(g.relu(x))), 1000)


def _normal_cell(g: GraphBuilder, current: Tensor, previous: Tensor, filters: int) -> Tensor:
    outputs = [
        previous,
        g.add(_separable(g, current, filters, 5), _separable(g, previous, filters, 3)),
        g.add(_separable(g, previous, filters, 5), _separable(g, previous, filters, 3)),
        g.add(_average(g, current), previous),
        g.add(_average(g, previous), _average(g, previous)),
        g.add(_separable(g, current, filters, 3), current),
    ]
    return g.concat(outputs)


def _reduction_cell(g: GraphBuilder, current: Tensor, previous: Tensor, filters: int) -> Tensor:
    wide = g.add(
        _separable(g, current, filters, 5, stride=2), _separable(g, previous, filters, 7, stride=2)
    )
    largest = g.add(_largest(g, current), _separable(g, previous, filters, 7, stride=2))
    outputs = [
        largest,
        g.add(_average(g, current, stride=2), _separable(g, previous, filters, 5, stride=2)),
        g.add(_average(g, wide), largest),
        g.add(_separable(g, wide, filters, 3), _largest(g, current)),
    ]
    return g.concat(outputs)


def _separable(g: GraphBuilder, x: Tensor, filters: int, kernel: int, *, stride: int = 1) -> Tensor:
    """ReLU, depthwise, pointwise, batch norm: twice, the first time with the stride."""
    for step in (stride, 1):
        x = g.relu(x)
        x = g.conv(x, x.channels, kernel, stride=step, padding="same", groups=x.channels)
        x = g.batch_norm(g.conv(x, filters, 1), epsilon=EPSILON)
    return x


def _average(g: GraphBuilder, x: Tensor, *, stride: int = 1) -> Tensor:
    return g.average_pool(x, 3, stride=stride, padding="same")


def _largest(g: GraphBuilder, x: Tensor) -> Tensor:
    return g.max_pool(x, 3, stride=2, padding="same")


def _fit(g: GraphBuilder, x: Tensor, filters: int) -> Tensor:
    """Bring `x` to the cell's number of channels."""
    return g.batch_norm(g.conv(g.relu(x), filters, 1), epsilon=EPSILON)


def _fit_halved(g: GraphBuilder, x: Tensor, filters: int) -> Tensor:
    """The same at half the resolution: half of the channels from every second pixel, the other
    half from the pixels between them. (The authors write the stride as a pool of one pixel.)"""
    x = g.relu(x)
    paths = [g.conv(pixels, filters // 2, 1, stride=2) for pixels in (x, g.shift_up_left(x))]
    return g.batch_norm(g.concat(paths), epsilon=EPSILON)
