"""SVG: elements, one stylesheet for light and dark, and the same picture as PNG."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from xml.etree.ElementTree import Element

from hios_tvm.errors import UsageError

LETTER = 6.7
"""Pixels that a letter of class ``mono`` takes in the widest of the usual fonts."""

LONGEST_LABEL = 24
"""Letters of a device's name; what is longer is shortened."""

_NAMESPACE = "http://www.w3.org/2000/svg"
_MOST_PIXELS = 12_000  # a side of a PNG; what viewers open without trouble


@dataclass(frozen=True)
class Theme:
    """Colours of text, less important text, lines, the background, and what is bad or good."""

    ink: str
    soft: str
    faint: str
    paper: str
    panel: str
    worse: str
    better: str


LIGHT = Theme("#1f2328", "#59636e", "#d1d9e0", "#ffffff", "#f6f8fa", "#b3261e", "#1a7f37")
DARK = Theme("#e6edf3", "#9198a1", "#3d444d", "#0d1117", "#151b23", "#ff8a80", "#56d364")

FILLS = (
    "#0072b2", "#56b4e9", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#f0e442", "#999999",
    "#c3c3c3",
)  # fmt: skip
"""Okabe and Ito's colours, which people with any colour vision tell apart, and two greys."""

_ON_FILL = ("#ffffff", "#111111")

_SHAPES = """
.drawing text{font-family:system-ui,"DejaVu Sans",sans-serif;font-size:12px}
.drawing .mono{font-family:ui-monospace,"DejaVu Sans Mono",monospace;font-size:11px}
.drawing .title{font-size:14px;font-weight:bold}
.drawing .middle{text-anchor:middle}
.drawing .end{text-anchor:end}
.drawing .edge{fill:none;stroke-opacity:.45}
.drawing .crossing{stroke-opacity:1;stroke-dasharray:4 3}
.drawing .handover{stroke-opacity:.55}
.drawing .limit{stroke-dasharray:5 4}
.drawing .box:hover>rect{stroke-width:2}
.drawing .narrow rect{stroke-width:0}
.drawing .own rect{fill-opacity:.75;stroke-width:0}
"""


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours as WCAG 2 defines it, from 1 to 21.

    >>> round(contrast("#000000", "#ffffff"))
    21
    """
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def text_on(fill: str) -> str:
    """Return the colour of text that is read best on `fill`."""
    return max(_ON_FILL, key=lambda colour: contrast(colour, fill))


def stylesheet() -> str:
    """Return the CSS of all drawings; the reader's system chooses light or dark."""
    fills = "".join(
        f".drawing .c{i} rect{{fill:{fill}}}.drawing .c{i} text{{fill:{text_on(fill)}}}"
        f".drawing .c{i} .own rect{{fill:{text_on(fill)}}}\n"
        for i, fill in enumerate(FILLS)
    )
    dark = f"@media (prefers-color-scheme:dark){{{_colours(DARK)}}}\n"
    return f"{_SHAPES}{_colours(LIGHT)}{fills}{dark}"


def add(parent: Element, tag: str, text: str | None = None, **attributes: str | float) -> Element:
    """Add an element to `parent`; ``class_`` is the attribute class, ``_`` a dash."""
    words = {name.rstrip("_").replace("_", "-"): _word(v) for name, v in attributes.items()}
    child = ElementTree.SubElement(parent, tag, words)
    if text is not None:
        child.text = printable(text)
    return child


def drawing(width: float, height: float, title: str) -> Element:
    """Return an empty picture with a background; `title` is what screen readers call it."""
    size = {"width": _word(width), "height": _word(height)}
    root = Element("svg", {"xmlns": _NAMESPACE, "class": "drawing", **size})
    root.set("viewBox", f"0 0 {_word(width)} {_word(height)}")
    root.set("role", "graphics-document document")
    root.set("aria-label", printable(title))
    add(root, "rect", class_="paper", width=width, height=height)
    return root


def to_html(picture: Element) -> str:
    """Return `picture` as an element of a page that has `stylesheet`."""
    return ElementTree.tostring(picture, encoding="unicode")


def to_svg(picture: Element) -> bytes:
    """Return `picture` as a file of its own."""
    canvas = "".join(
        f"@media (prefers-color-scheme:{name}){{:root{{background:{theme.paper}}}}}\n"
        for name, theme in (("light", LIGHT), ("dark", DARK))
    )
    style = f"<style>{stylesheet()}{canvas}</style>"
    start, bracket, rest = to_html(picture).partition(">")
    return f"{start}{bracket}{style}{rest}\n".encode()


def to_png(picture: Element) -> bytes:
    """Return `picture` in its light colours, at twice its size where that is not too large."""
    import matplotlib
    import resvg_py

    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"  # where the system has none
    sides = (float(picture.get(side, "1")) for side in ("width", "height"))
    zoom = min(2.0, _MOST_PIXELS / max(sides))
    svg = to_svg(picture).decode()
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=zoom, font_dirs=[str(fonts)]))


def require_png() -> None:
    """Raise `UsageError` where PNG files cannot be written, before work is spent on a picture."""
    if find_spec("resvg_py") is None or find_spec("matplotlib") is None:
        raise UsageError(
            "PNG files need resvg and matplotlib's fonts: pip install 'hios-tvm[plot]', or name a "
            ".svg file"
        )


def printable(text: str) -> str:
    """Return `text` without what XML cannot hold, such as control characters."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}"
        for letter in text
    )


def shortened(text: str, letters: int) -> str:
    """Return the end of a name that is too long, which tells more than its beginning.

    >>> shortened("relu1", 8), shortened("features_3_squeeze", 8)
    ('relu1', '…squeeze')
    """
    return text if len(text) <= letters else f"…{text[len(text) - letters + 1 :]}"


def _colours(theme: Theme) -> str:
    return (
        f".drawing text,.drawing .ink{{fill:{theme.ink}}}"
        f".drawing text.soft{{fill:{theme.soft}}}"
        f".drawing .paper{{fill:{theme.paper}}}"
        f".drawing .grid{{stroke:{theme.faint}}}"
        f".drawing .edge,.drawing .handover,.drawing .limit{{stroke:{theme.ink}}}"
        f".drawing .box>rect{{stroke:{theme.paper}}}"
        f".drawing .box:hover>rect{{stroke:{theme.ink}}}"
        f".drawing .neighbour>rect{{fill:{theme.panel};stroke:{theme.soft}}}\n"
    )


def _luminance(colour: str) -> float:
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _word(value: str | float) -> str:
    return printable(value) if isinstance(value, str) else f"{round(value, 2):g}"
