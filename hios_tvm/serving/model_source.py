"""Which artifacts a server is to serve, as its command line says it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hios_tvm.errors import UsageError

_NAME = re.compile(r"(?P<name>[\w.-]+)(/(?P<version>[\w.-]+))?=(?P<location>.+)")


@dataclass(frozen=True)
class ModelSource:
    """An artifact, and the name and version that clients know it by.

    `location` is a path; a fleet takes URLs too, and fetches what is there before it is loaded.
    """

    name: str
    version: str
    location: str

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.location)

    @classmethod
    def parse(cls, text: str) -> ModelSource:
        """Read ``FILE``, ``NAME=FILE`` or ``NAME/VERSION=FILE``.

        >>> ModelSource.parse("resnet/2=new.hios")
        ModelSource(name='resnet', version='2', location='new.hios')
        >>> ModelSource.parse("https://models.example/small.hios").name
        'small'
        """
        match = None if Path(text).exists() else _NAME.fullmatch(text)
        if match is None:
            return cls(Path(text).stem, "1", text)
        return cls(match["name"], match["version"] or "1", match["location"])


def check_versions(sources: Sequence[ModelSource]) -> None:
    """Raise `UsageError` if two are equal by name and version."""
    names = [(source.name, source.version) for source in sources]
    for source, name in zip(sources, names, strict=True):
        if names.count(name) > 1:
            raise UsageError(
                f"two models are version {source.version} of {source.name!r}: name them, for "
                f"example {source.name}/2={source.location}"
            )
