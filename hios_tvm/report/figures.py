"""Plots of experiments, with matplotlib (the extra ``plot``)."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from hios_tvm.errors import UsageError


def require_matplotlib() -> None:
    """Raise `UsageError` where matplotlib is not installed, before work is spent on a plot."""
    if find_spec("matplotlib") is None:
        raise UsageError("plots need matplotlib: pip install 'hios-tvm[plot]'")


def draw_lines(
    lines: Mapping[str, Mapping[float, float]],
    path: Path,
    *,
    x_label: str,
    y_label: str,
    logarithmic: bool = False,
) -> None:
    """Draw one line for each name, ``x -> y``, into a file whose suffix says its format.

    Raises
    ------
    UsageError
        If matplotlib is missing or does not know the format.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for name, line in lines.items():
        axes.plot(list(line), list(line.values()), marker="o", markersize=4, label=name)
    if logarithmic:
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    if lines:
        axes.legend()
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot draw {path}: {error}") from error
