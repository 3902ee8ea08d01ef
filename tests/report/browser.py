"""Chromium without a window: what it makes of a page."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed (package chromium)"
)
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
    "--window-size=1400,2000",
)  # fmt: skip


def browse(path: Path, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """Return the DOM of a page once it is loaded, and what the browser's console says."""
    assert CHROMIUM is not None
    result = subprocess.run(
        [CHROMIUM, *_FLAGS, *flags, f"--user-data-dir={profile}", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return result.stdout, [line for line in result.stderr.splitlines() if "CONSOLE" in line]


def check_layout(
    pages: Mapping[str, str], folder: Path, *, dark: bool, widths: tuple[int, ...] = (390, 1400)
) -> dict[str, Any]:
    """Return what ``check_layout.js`` finds in pages, shown at each of the widths (pixels).

    What the browser's console says is found under ``console``.
    """
    frames = "".join(
        f'<iframe title="{name} at {width}" width="{width}" height="2000" srcdoc="{escape(html)}">'
        "</iframe>"
        for name, html in pages.items()
        for width in widths
    )
    script = Path(__file__).with_name("check_layout.js").read_text()
    path = folder / "frames.html"
    path.write_text(f"<!DOCTYPE html><body>{frames}<script>{script}</script></body>")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    dom, console = browse(path, folder / "profile", scheme)
    text = dom.split('<pre id="found">')[1].split("</pre>")[0]
    found: dict[str, Any] = json.loads(unescape(text))
    assert found["dark"] == dark
    return found | {"console": console}
