"""Ctrl-C and SIGTERM: a command ends within two seconds, says what is kept, and how it ended."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

import click

_KEPT = "hios_tvm.cli.kept"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_GRACE_S = 1.5  # for code that Python cannot interrupt, such as LLVM's


def keep_on_interrupt(text: str) -> None:
    """Let the message of an interrupted command end with what is kept, and how to go on."""
    click.get_current_context().find_root().meta[_KEPT] = text


@contextmanager
def interruptible(context: click.Context) -> Iterator[None]:
    """End the process where a signal comes in the block: at once or, in foreign code, soon after.

    The exit code is 128 and the number of the signal, as shells have it: 130 for Ctrl-C.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals come to the main thread alone
        return
    came: list[int] = []

    def interrupt(number: int, _frame: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    # A background job ignores Ctrl-C, and so do its commands.
    heard = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heard}
    try:
        with _watched(context, heard):
            yield
    except BaseException:  # TVM makes another error of an interrupt in a function that it calls
        if not came:
            raise
        _say(context)
        sys.exit(128 + came[0])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _watched(context: click.Context, heard: Collection[int]) -> Iterator[None]:
    """Let a thread end the process where the block has not ended soon after a signal."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    ended = threading.Event()

    def watch() -> None:
        while numbers := theirs.recv(16):
            number = next((number for number in numbers if number in heard), None)
            if number is not None and not ended.wait(_GRACE_S):
                _say(context)
                _kill_children()
                os._exit(128 + number)

    thread = threading.Thread(target=watch, daemon=True)
    with ours, theirs:
        thread.start()
        before = signal.set_wakeup_fd(ours.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            ended.set()
            signal.set_wakeup_fd(before)
            ours.close()
            thread.join()


def _say(context: click.Context) -> None:
    if sys.stderr.isatty():
        click.echo("\x1b[?25h", err=True, nl=False)  # a progress bar hides the cursor
    kept = context.meta.get(_KEPT)
    click.echo(f"interrupted{f'; {kept}' if kept else ''}", err=True)


def _kill_children() -> None:
    import psutil

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
