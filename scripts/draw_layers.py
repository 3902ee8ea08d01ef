"""Draw docs/layers.svg: the packages in the layers of pyproject's import contract, top to bottom.

    python scripts/draw_layers.py

The text of a box is the first line of the package's docstring. A number is a step of a model on
its way, as docs/architecture.md explains them.
"""

import ast
import sys
import textwrap
from pathlib import Path
from xml.etree.ElementTree import Element

from hios_tvm.report.svg import LETTER, add, drawing, to_svg

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "layers.svg"
TITLE = "Packages by layer: imports go down only"
STEPS = {
    "frontends": "1",
    "passes": "2",
    "measuring": "3",
    "schedulers": "4",
    "backends": "5",
    "artifact": "6",
    "verification": "7",
    "runtime": "8",
}
WIDTH, GAP, PADDING, LINE = 1180, 14, 12, 17  # pixels


def layers() -> list[list[str]]:
    """Return the packages of each layer, the highest layer first."""
    import tomllib  # of Python 3.11

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = settings["tool"]["importlinter"]["contracts"]
    return [layer.replace("|", ":").replace(" ", "").split(":") for layer in contract["layers"]]


def first_line(package: str) -> str:
    """Return what a package says of itself."""
    module = ROOT / "hios_tvm" / package
    file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    return text.split("\n", 1)[0].rstrip(".:")


def drawn() -> bytes:
    """Return the picture."""
    rows = []
    for names in layers():
        width = (WIDTH - GAP * (len(names) + 1)) / len(names)
        columns = int((width - 2 * PADDING) / LETTER)
        rows.append((width, [(name, textwrap.wrap(first_line(name), columns)) for name in names]))
    heights = [
        LINE * (1 + max(len(lines) for _, lines in boxes)) + 2 * PADDING for _, boxes in rows
    ]
    picture = drawing(WIDTH, sum(heights) + GAP * (len(rows) + 1), TITLE)
    y = float(GAP)
    for (width, boxes), height in zip(rows, heights, strict=True):
        layer = add(picture, "g", role="list", aria_label="Layer")
        for i, (name, lines) in enumerate(boxes):
            x = GAP + i * (width + GAP)
            box = add(layer, "g", class_="neighbour", role="listitem")
            add(box, "title", f"{name}: {first_line(name)}")
            add(box, "rect", x=x, y=y, width=width, height=height, rx=6)
            _write(box, name, lines, x + PADDING, y + PADDING)
        y += height + GAP
    return to_svg(picture)


def _write(box: Element, name: str, lines: list[str], x: float, y: float) -> None:
    """Write a package's step, name and text, from the corner (x, y)."""
    left = x
    if name in STEPS:
        step = add(box, "g", class_="c0")
        add(step, "rect", x=x, y=y, width=18, height=18, rx=9)
        add(step, "text", STEPS[name], class_="middle", x=x + 9, y=y + 13.5)
        left += 25
    add(box, "text", name, class_="title", x=left, y=y + 14)
    for i, line in enumerate(lines, start=1):
        add(box, "text", line, class_="soft", x=x, y=y + 15 + LINE * i)


if __name__ == "__main__":
    PICTURE.write_bytes(drawn())
    print(f"{PICTURE}: {len(layers())} layers", file=sys.stderr)
