"""Draw docs/layers.svg: the packages in the layers of pyproject's import contract, top to bottom.

    python scripts/draw_layers.py

The text of a box is the first line of the package's docstring. A number is a step of a model on
its way, as docs/architecture.md explains them.
"""

import ast
import sys
import textwrap
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "layers.svg"
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
WIDTH, GAP, LINE, LETTER = 1180, 10, 15, 6.1  # pixels; a letter's is the mean of 11-pixel text


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


def drawn() -> str:
    """Return the picture."""
    shapes, y = [], GAP
    for names in layers():
        width = (WIDTH - GAP * (len(names) + 1)) / len(names)
        columns = int((width - 2 * GAP) / LETTER)
        texts = [textwrap.wrap(first_line(name), columns) for name in names]
        height = LINE * (1 + max(map(len, texts))) + 2 * GAP
        for i, (name, lines) in enumerate(zip(names, texts, strict=True)):
            shapes.append(_box(GAP + i * (width + GAP), y, width, height, name, lines))
        y += height + GAP
    style = (
        "text{font:11px sans-serif}.name{font:bold 13px monospace}"
        "rect{fill:#f4f6fa;stroke:#5a6b8c}.step{font-weight:bold;fill:#b03a2e}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" role="img">\n'
        "<title>Packages by layer: imports go down only</title>\n"
        f"<style>{style}</style>\n" + "".join(shapes) + "</svg>\n"
    )


def _box(x: float, y: float, width: float, height: float, name: str, lines: list[str]) -> str:
    step = f' <tspan class="step">({STEPS[name]})</tspan>' if name in STEPS else ""
    text = "".join(
        f'<text x="{x + GAP:g}" y="{y + GAP + LINE * (i + 2) - 3:g}">{escape(line)}</text>\n'
        for i, line in enumerate(lines)
    )
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4"/>\n'
        f'<text x="{x + GAP:g}" y="{y + GAP + LINE - 3:g}">'
        f'<tspan class="name">{escape(name)}</tspan>{step}</text>\n{text}'
    )


if __name__ == "__main__":
    PICTURE.write_text(drawn())
    print(f"{PICTURE}: {len(layers())} layers", file=sys.stderr)
