"""The command line: one file a command, imported when it is called."""

import importlib
import sys
from typing import NoReturn

import click

from hios_tvm.cli.console import printable
from hios_tvm.cli.interrupts import interruptible
from hios_tvm.errors import HiosError, UsageError
from hios_tvm.version import __version__, check_one_installation

__all__ = ["main"]

_COMMANDS = (
    "zoo",
    "quantize",
    "compile",
    "annotate",
    "run",
    "serve",
    "map",
    "benchmark",
    "compare",
    "tune",
    "inspect",
    "profile",
    "plot",
    "report",
    "sign",
    "schedule",
    "simulate",
)

_NO_THREAD = "can't start new thread"  # what Python says then
_NO_MEMORY = "std::bad_alloc"  # what TVM says


class _Group(click.Group):
    """Imports a command when it is asked for, and turns errors into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module = importlib.import_module(f"hios_tvm.cli.{name}")
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            check_one_installation()
            with interruptible(ctx):
                return super().invoke(ctx)
        except HiosError as error:
            _fail(str(error), 2 if isinstance(error, UsageError) else 1)
        except MemoryError as error:
            _fail(f"there is too little memory: {error}", 1)
        except BrokenPipeError:
            raise  # of a pipe that nobody reads any more: click ends quietly
        except OSError as error:  # such as a full disk for temporary files
            _fail(str(error), 1)
        except RuntimeError as error:
            if str(error) == _NO_THREAD:
                _fail(f"the system does not let this process start a thread: {error}", 1)
            if _NO_MEMORY in str(error):
                _fail("there is too little memory", 1)
            raise


def _fail(message: str, code: int) -> NoReturn:
    """Say what failed, and end."""
    click.echo(f"error: {printable(message)}", err=True)
    sys.exit(code)


@click.group(
    cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
@click.version_option(__version__, prog_name="hios-tvm")
def main() -> None:
    """Compile a neural network ahead of time for several devices of one machine, and run it.

    \b
    hios-tvm zoo inception_v3 -o inception_v3.onnx
    hios-tvm compile inception_v3.onnx -o inception_v3.hios --devices cpu@0,cpu@1
    hios-tvm run inception_v3.hios
    hios-tvm compare inception_v3.onnx inception_v3.hios

    Exit codes: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted.
    """
