"""What happens to a Relay text before it is parsed: comments blanked, metadata cut off."""

import re
from dataclasses import dataclass

from hios_tvm.frontends.relay.syntax import Position

METADATA = "#[metadata]"

# Strings and names are skipped whole: a slash inside a name (`%model/conv`) opens no comment.
_WORD = re.compile(
    r'"(?:[^"\\]|\\.)*"|[%@]?[A-Za-z_][\w.:]*(?:/\w[\w.:]*)*|/\*|//[^\n]*|#\[metadata\]'
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_NOT_A_LINE_END = re.compile(r"[^\n]")


@dataclass(frozen=True, slots=True)
class Source:
    """A Relay text without its comments; `metadata` is None where the text has none."""

    program: str
    metadata: str | None
    metadata_line: int  # the line on which the metadata start, from 1


def scan(text: str) -> Source:
    """Blank the comments, which may nest, and cut the metadata section off.

    Raises
    ------
    RelayError
        If a comment is not closed.

    Examples
    --------
    >>> scan("a /* ty=int32 /* nested */ */ b").program
    'a                             b'
    """
    pieces: list[str] = []
    position = 0
    while match := _WORD.search(text, position):
        word, start, end = match.group(), match.start(), match.end()
        pieces.append(text[position:start])
        if word == METADATA:
            return Source("".join(pieces), text[end:], position_at(text, end).line or 1)
        if word == "/*":
            end = _comment_end(text, start)
        if word.startswith("/"):
            pieces.append(_NOT_A_LINE_END.sub(" ", text[start:end]))
        else:
            pieces.append(word)
        position = end
    return Source("".join([*pieces, text[position:]]), None, 0)


def position_at(text: str, offset: int) -> Position:
    """Return the position of the character at `offset`."""
    line_start = text.rfind("\n", 0, offset) + 1
    return Position(text.count("\n", 0, offset) + 1, offset - line_start + 1)


def _comment_end(text: str, start: int) -> int:
    depth = 0
    for edge in _COMMENT_EDGE.finditer(text, start):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end()
    raise position_at(text, start).error("this comment is not closed")
