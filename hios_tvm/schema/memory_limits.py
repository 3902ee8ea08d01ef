"""Sizes and limits of memory as users write them: ``512MiB``, ``cpu@0=512MiB``."""

import re

from hios_tvm.errors import UsageError


def parse_memory(text: str) -> tuple[str, int]:
    """Read a limit as the user writes it: a device, and a size with its unit.

    >>> parse_memory("cpu@0=512MiB")
    ('cpu@0', 536870912)
    """
    device, _, size = text.rpartition("=")
    if device.strip() and size.strip().isdigit():
        name, number = device.strip(), size.strip()
        raise UsageError(
            f"{text!r} has no unit: write {name}={number}MiB, or {name}={number}B for bytes"
        )
    try:
        if not device.strip():
            raise UsageError(f"{text!r} names no device")
        return device.strip(), parse_bytes(size)
    except UsageError:
        raise UsageError(
            f"{text!r} is no memory limit; write for example cpu@0=512MiB or cpu@0=2GB"
        ) from None


def parse_bytes(text: str) -> int:
    """Read a number of bytes, with or without a unit.

    >>> parse_bytes("512MiB"), parse_bytes("2GB"), parse_bytes("64")
    (536870912, 2000000000, 64)
    """
    match = re.fullmatch(r"\s*([0-9]{1,20}|[0-9]{0,20}\.[0-9]{1,20})\s*([KMGT]i?B|B)?\s*", text)
    if match is None:
        raise UsageError(f"{text!r} is no size of memory; write for example 512MiB or 2GB")
    unit = match[2] or "B"
    return int(float(match[1]) * (1024 if "i" in unit else 1000) ** "BKMGT".index(unit[0]))
