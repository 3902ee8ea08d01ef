"""Which artifacts a server is to serve, as its command line says it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"(?P<name>[\w.-]+)(/(?P<version>[\w.-]+))?=(?P<path>.+)")


@dataclass(frozen=True)
class ModelSource:
    """An artifact, and the name and version that clients know it by."""

    name: str
    version: str
    path: Path

    @classmethod
    def parse(cls, text: str) -> ModelSource:
        """Read ``FILE``, ``NAME=FILE`` or ``NAME/VERSION=FILE``.

        >>> ModelSource.parse("resnet/2=new.hios")
        ModelSource(name='resnet', version='2', path=PosixPath('new.hios'))
        >>> ModelSource.parse("models/small.hios").name
        'small'
        """
        match = None if Path(text).exists() else _NAME.fullmatch(text)
        if match is None:
            return cls(Path(text).stem, "1", Path(text))
        return cls(match["name"], match["version"] or "1", Path(match["path"]))
