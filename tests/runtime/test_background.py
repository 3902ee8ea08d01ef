"""Runs that nobody waits for: futures, and coroutines."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from concurrent.futures import CancelledError

import numpy as np
import pytest
from hand_made import HandMade

from hios_tvm.errors import InputError, RunTimeoutError, SessionClosedError, UsageError
from hios_tvm.runtime import Session, aligned_empty

Array = np.ndarray


def test_submitted_runs_are_made_in_order(hand_made: HandMade, session: Session, x: Array) -> None:
    done: list[int] = []
    futures = [session.submit(x * i) for i in range(20)]
    for i, future in enumerate(futures):
        future.add_done_callback(lambda _, i=i: done.append(i))
    for i, future in enumerate(futures):
        outputs = future.result(60)
        for name, expected in hand_made.expected(x * i).items():
            np.testing.assert_array_equal(outputs[name], expected)
    assert done == sorted(done)


def test_submitted_runs_write_into_given_arrays(
    hand_made: HandMade, session: Session, x: Array
) -> None:
    z = aligned_empty(x.shape, "float32")
    outputs = session.submit({"the input": x}, out={"z": z}).result(60)
    assert outputs["z"] is z
    np.testing.assert_array_equal(z, hand_made.expected(x)["z"])


def test_futures_have_the_errors_of_runs(session: Session, x: Array) -> None:
    with pytest.raises(InputError, match="'the input' is float32"):
        session.submit(x[1:]).result(60)
    with pytest.raises(UsageError, match="timeout must be a number of seconds from 0"):
        session.submit(x, timeout=float("nan"))
    assert session.submit(x, timeout=60.0).result(60)


def test_waiting_takes_the_time_of_submitted_runs(session: Session, x: Array) -> None:
    with session._lock:  # another thread is running
        future = session.submit(x, timeout=0.01)
        with pytest.raises(RunTimeoutError):
            future.result(60)
    assert session.run(x)


def test_coroutines_run_while_the_loop_goes_on(
    hand_made: HandMade, session: Session, x: Array
) -> None:
    async def run_all() -> list[dict[str, Array]]:
        return await asyncio.gather(*(session.run_async(x * i) for i in range(8)))

    for i, outputs in enumerate(asyncio.run(run_all())):
        np.testing.assert_array_equal(outputs["z"], hand_made.expected(x * i)["z"])

    async def fail() -> None:
        await session.run_async(x[1:])

    with pytest.raises(InputError):
        asyncio.run(fail())


def test_closing_cancels_what_has_not_begun(hand_made: HandMade, x: Array) -> None:
    session = hand_made.load()
    with session._lock:
        first, second = session.submit(x), session.submit(x)
        while not first.running():
            pass
        closing = threading.Thread(target=session.close)
        closing.start()
        with pytest.raises(CancelledError):
            second.result(60)
    closing.join(60)
    assert first.exception(60) is None or isinstance(first.exception(60), SessionClosedError)
    with pytest.raises(SessionClosedError):
        session.submit(x)


def test_a_session_that_has_run_in_the_background_closes_itself(
    hand_made: HandMade, x: Array
) -> None:
    session = hand_made.load()
    session.submit(x).result(60)
    gone = weakref.ref(session)
    del session
    for _ in range(100):  # the thread drops its last run after it has set the result
        gc.collect()
        if gone() is None:
            break
        threading.Event().wait(0.05)
    assert gone() is None
