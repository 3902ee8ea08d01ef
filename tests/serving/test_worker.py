"""A model's queue: what is accepted is run in order, what is too much is refused at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hios_tvm import CompileOptions, compile_model
from hios_tvm.errors import InputError
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.runtime import Session, load
from hios_tvm.runtime.devices.cpu.cores import allowed_cores
from hios_tvm.serving.refusals import QueueFullError, StoppingError
from hios_tvm.serving.worker import Worker


class Runs:
    """Counts runs, and the time of devices."""

    def __init__(self) -> None:
        self.requests: list[int] = []
        self.busy_s: dict[str, float] = {}

    def ran(self, requests: int, seconds: float) -> None:
        assert seconds > 0
        self.requests.append(requests)

    def busy(self, device: str, seconds: float) -> None:
        self.busy_s[device] = self.busy_s.get(device, 0.0) + seconds


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of 8 numbers are taken out of 4, by indices."""
    table = onnx.numpy_helper.from_array(np.arange(32, dtype=np.float32).reshape(4, 8), "table")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "rows"], ["taken"])],
        "rows",
        [helper.make_tensor_value_info("rows", TensorProto.INT64, (2,))],
        [helper.make_tensor_value_info("taken", TensorProto.FLOAT, (2, 8))],
        [table],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path_factory.mktemp("worker") / "rows.hios"
    device = f"cpu@{min(allowed_cores())}"
    compile_model(from_onnx(model), path, CompileOptions(devices=(device,), scheduler="sequential"))
    return path


@pytest.fixture
def session(artifact: Path) -> Session:
    return load(artifact)


@contextmanager
def runs_held(session: Session) -> Iterator[None]:
    """Let runs of `session` wait until the end of the block."""
    with session._lock:
        yield


def rows(*numbers: int) -> dict[str, np.ndarray]:
    return {"rows": np.array(numbers)}


def test_what_waits_is_run_in_order_before_the_worker_ends(session: Session) -> None:
    runs = Runs()
    worker = Worker(session, limit=4, observer=runs)
    with runs_held(session):
        results = [worker.submit(rows(i, 3)) for i in range(4)]
        assert not results[0].done()
    worker.close()
    for i, result in enumerate(results):
        expected = np.arange(32).reshape(4, 8)[[i, 3]]
        np.testing.assert_array_equal(result.result(timeout=0)["taken"], expected)
    assert runs.requests == [1, 1, 1, 1]
    assert set(runs.busy_s) == set(session.devices)
    with pytest.raises(StoppingError):
        worker.submit(rows(0, 0))


def test_more_than_may_wait_are_refused_at_once(session: Session) -> None:
    worker = Worker(session, limit=2, observer=Runs())
    accepted = []
    with runs_held(session):
        with pytest.raises(QueueFullError, match="2 requests wait already"):
            for _ in range(4):  # one may have been taken from the queue already
                accepted.append(worker.submit(rows(1, 2)))
        assert worker.waiting == 2
    assert all(result.result(timeout=300) for result in accepted)
    worker.close()


def test_values_that_are_refused_do_not_end_the_worker(session: Session) -> None:
    worker = Worker(session, limit=4, observer=Runs())
    with pytest.raises(InputError, match=r"rows|index"):
        worker.submit(rows(0, 99)).result(timeout=300)
    assert worker.submit(rows(0, 1)).result(timeout=300)
    worker.close()


def test_who_has_gone_is_not_waited_for(session: Session) -> None:
    runs = Runs()
    worker = Worker(session, limit=4, observer=runs)
    with runs_held(session):
        kept, gone = worker.submit(rows(0, 1)), worker.submit(rows(0, 1))
        assert gone.cancel()
    worker.close()
    assert kept.done() and runs.requests == [1]
