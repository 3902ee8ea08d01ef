"""Text on the terminal: names that come from files are shown, and never interpreted."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.text import Text


def printable(text: str) -> str:
    """Return `text` with escapes in place of what would control the terminal.

    >>> printable("a\\x1b[31m\\tb\\n")
    'a\\\\x1b[31m\\tb\\n'
    """
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode()
        for char in text
    )


class PlainConsole(Console):
    """A console that prints strings as they are: ``[b]`` in a name is no markup."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return what `Console` does for strings, cells of tables included."""
        return super().render_str(printable(text), **options)


def stdout() -> Console:
    """The console for results; wide enough for tables where it is no terminal."""
    return PlainConsole(width=None if sys.stdout.isatty() else 120)


def stderr() -> Console:
    """The console for progress and messages."""
    return PlainConsole(stderr=True)
