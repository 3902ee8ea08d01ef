"""Limits of memory as users write them: ``cpu@0=512MiB``."""

import re

from hios_tvm.errors import UsageError


def parse_memory(text: str) -> tuple[str, int]:
    """Read a limit as the user writes it: a device, and bytes with or without a unit.

    >>> parse_memory("cpu@0=512MiB")
    ('cpu@0', 536870912)
    """
    match = re.fullmatch(r"\s*(.+?)\s*=\s*([0-9.]+)\s*([KMGT]i?B|B)?\s*", text)
    try:
        if match is None:
            raise ValueError
        unit = match[3] or "B"
        power = "BKMGT".index(unit[0])
        return match[1], int(float(match[2]) * (1024 if "i" in unit else 1000) ** power)
    except ValueError:
        raise UsageError(
            f"{text!r} is no memory limit; write for example cpu@0=512MiB or cpu@0=2GB"
        ) from None
