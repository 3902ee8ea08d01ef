"""An extension of mkdocstrings: doctests without a heading are examples, not quotations."""

import re
from typing import Any

import griffe


class DoctestSections(griffe.Extension):
    """Put the heading of numpydoc before the first doctest of a docstring that has none."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of `obj`."""
        docstring = obj.docstring
        if docstring is not None and "Examples\n---" not in docstring.value:
            docstring.value = re.sub(
                r"\n\n(?=>>> )", "\n\nExamples\n--------\n", docstring.value, count=1
            )
