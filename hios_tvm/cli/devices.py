"""Names of devices on the command line: refused before work begins, with the nearest right form."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from hios_tvm.errors import DeviceError, UsageError
from hios_tvm.schema.device_names import (
    cpu_device_name,
    gpu_place,
    parse_cores,
    parse_device_list,
)

if TYPE_CHECKING:
    TextParameter = click.ParamType[str]
else:
    TextParameter = click.ParamType  # before click 8.2 it takes no type

_MISSPELT = re.compile(r"(cpus?|cores?|gpus?|cuda|nvidia)\W*(\d*)(.*)", re.IGNORECASE)


class DeviceList(TextParameter):
    """Devices with commas between them."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        try:
            for name in parse_device_list(text):
                _check(name)
        except (DeviceError, UsageError) as error:
            self.fail(str(error), param, ctx)
        return text


def require_here(names: Iterable[str]) -> None:
    """Refuse cores that this process may not use.

    Raises
    ------
    UsageError
        If there are any; it names those that there are.
    """
    allowed = os.sched_getaffinity(0)
    for name in names:
        missing = set(parse_cores(name)) - allowed if name.startswith("cpu") else set()
        if missing:
            raise UsageError(
                f"device {name!r} needs core {min(missing)}, but this process may only use "
                f"{cpu_device_name(allowed)}: write for example cpu@{min(allowed)}"
            )


def _check(name: str) -> None:
    match = _MISSPELT.fullmatch(name)
    if match is None:
        return  # of another kind, which is looked up later
    if name.startswith("cpu@"):
        parse_cores(name)
    elif name.startswith("cuda:"):
        gpu_place(name)
    else:
        is_cpu = match[1].lower().startswith(("cpu", "core"))
        right = f"cpu@{match[2] or 0}" if is_cpu else f"cuda:{match[2] or 0}"
        raise UsageError(f"there is no device {name!r}: did you mean {right}?")
