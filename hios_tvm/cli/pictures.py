"""Pictures that commands write."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element

from hios_tvm.errors import UsageError
from hios_tvm.files import atomic_write, check_writable


def check_picture(path: Path) -> None:
    """Raise `UsageError` where no picture can be written to `path`, before work is spent on it."""
    from hios_tvm.report.svg import require_png

    kind = path.suffix.lower()
    if kind not in (".svg", ".png"):
        raise UsageError(f"cannot draw {path}: name a .svg or .png file")
    if kind == ".png":
        require_png()
    check_writable(path)


def write_picture(picture: Element, path: Path) -> None:
    """Write a picture in the format that the suffix of `path` says."""
    from hios_tvm.report.svg import to_png, to_svg

    with atomic_write(path) as file:
        file.write(to_png(picture) if path.suffix.lower() == ".png" else to_svg(picture))
