from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hios_tvm.errors import DeviceError
from hios_tvm.runtime.devices.cpu.cores import (
    allowed_cores,
    available_features,
    require_cores,
    share_cores,
)
from hios_tvm.runtime.worker_threads import pin_thread
from hios_tvm.schema.device_names import cpu_device_name, parse_cores


@settings(deadline=None, max_examples=100)
@given(st.sets(st.integers(0, 300), min_size=1, max_size=20))
def test_names_and_cores_belong_together(cores: set[int]) -> None:
    assert parse_cores(cpu_device_name(cores)) == tuple(sorted(cores))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "cpu",
        "cpu@",
        "cpu@-1",
        "cpu@3-1",
        "cpu@0,1",
        "cuda:0",
        "cpu@0-1+1",
        "cpu@99999",
        "cpu@0-256",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(DeviceError):
        parse_cores(name)


def test_only_allowed_cores_can_be_used() -> None:
    with pytest.raises(DeviceError, match=r"needs core 9999, but this process may only use cpu@"):
        require_cores("cpu@9999")
    first = min(allowed_cores())
    assert require_cores(f"cpu@{first}") == (first,)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 16), st.integers(1, 8))
def test_streams_share_cores_equally(cores: int, streams: int) -> None:
    shares = share_cores(tuple(range(cores)), streams)
    assert len(shares) == streams
    assert len({len(share) for share in shares}) == 1
    used = [core for share in shares for core in share]
    assert set(used) <= set(range(cores))
    if streams <= cores:
        assert len(set(used)) == len(used)


def test_a_worker_stays_on_its_core() -> None:
    core = max(allowed_cores())
    seen: list[set[int]] = []

    def work() -> None:
        pin_thread(core)
        seen.append(os.sched_getaffinity(0))

    before = os.sched_getaffinity(0)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [{core}]
    assert os.sched_getaffinity(0) == before


def test_features_are_those_of_this_machine() -> None:
    features = available_features()
    assert features is not None
    assert features & {"sse2", "asimd"}
