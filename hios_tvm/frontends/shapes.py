"""Input shapes as users write them."""

import re

from hios_tvm.errors import UsageError


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read ``name:1,3,224,224`` or ``name:1x3x224x224``.

    The name may hold colons itself: the last one counts.

    Raises
    ------
    UsageError
        If there is no name, or a dimension is not a positive number.

    Examples
    --------
    >>> parse_shape("input:0:1x3x224x224")
    ('input:0', (1, 3, 224, 224))
    """
    name, colon, dimensions = text.rpartition(":")
    if not (colon and name and re.fullmatch(r"[0-9]+([,x][0-9]+)*", dimensions)):
        raise UsageError(f"shape {text!r} is not of the form name:1,3,224,224")
    shape = tuple(int(dimension) for dimension in re.split("[,x]", dimensions))
    if 0 in shape:
        raise UsageError(f"shape {text!r} has a dimension of 0")
    return name, shape
