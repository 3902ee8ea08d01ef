"""A model's queue: what is accepted is run in order, what is too much is refused at once.

Requests for a model with a batch are joined.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from hios_tvm.cli import main
from hios_tvm.errors import InputError
from hios_tvm.runtime import Session, load
from hios_tvm.runtime.devices.cpu.cores import allowed_cores
from hios_tvm.serving.refusals import QueueFullError, UnavailableError
from hios_tvm.serving.worker import Worker


class Runs:
    """The rows of each run, and the time of devices."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.busy_s: dict[str, float] = {}

    def ran(self, rows: int, seconds: float) -> None:
        assert seconds > 0
        self.rows.append(rows)

    def busy(self, device: str, seconds: float) -> None:
        self.busy_s[device] = self.busy_s.get(device, 0.0) + seconds


TABLE = np.arange(32, dtype=np.float32).reshape(4, 8)


def network(*shape: int | str) -> onnx.ModelProto:
    """Rows of 8 numbers are taken out of 4, by indices of this shape."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "rows"], ["taken"])],
        "rows",
        [helper.make_tensor_value_info("rows", TensorProto.INT64, shape)],
        [helper.make_tensor_value_info("taken", TensorProto.FLOAT, (*shape, 8))],
        [onnx.numpy_helper.from_array(TABLE, "table")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def compiled(model: onnx.ModelProto, path: Path, *options: str) -> Path:
    onnx.save(model, path.with_suffix(".onnx"))
    device = f"cpu@{min(allowed_cores())}"
    words = ("--devices", device, "--scheduler", "sequential", "-o", str(path), *options)
    result = CliRunner().invoke(main, ["compile", str(path.with_suffix(".onnx")), *words])
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(network(2), tmp_path_factory.mktemp("worker") / "rows.hios")


@pytest.fixture(scope="module")
def batched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a batch of 1 to 4 pairs."""
    path = tmp_path_factory.mktemp("worker") / "pairs.hios"
    return compiled(network("batch", 2), path, "--shape", "rows:1..4,2", "--programs", "2,4")


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
        expected = TABLE[[i, 3]]
        np.testing.assert_array_equal(result.result(timeout=0)["taken"], expected)
    assert runs.rows == [1, 1, 1, 1]
    assert set(runs.busy_s) == set(session.devices)
    with pytest.raises(UnavailableError):
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
    assert kept.done() and runs.rows == [1]


def pairs(*numbers: int) -> dict[str, np.ndarray]:
    return {"rows": np.array(numbers).reshape(-1, 2)}


def test_what_waits_is_run_at_once_as_far_as_it_fits(batched: Path) -> None:
    runs, session = Runs(), load(batched)
    worker = Worker(session, limit=8, observer=runs)
    requests = [pairs(i, 3) for i in range(4)] + [pairs(0, 1, 2, 3, 3, 3), pairs(1, 1, 2, 2)]
    with runs_held(session):
        results = [worker.submit(request) for request in requests]
    worker.close()
    for request, result in zip(requests, results, strict=True):
        np.testing.assert_array_equal(result.result(timeout=0)["taken"], TABLE[request["rows"]])
    assert sum(runs.rows) == 9 and max(runs.rows) <= 4
    assert len(runs.rows) < len(requests)


def test_no_more_are_joined_than_allowed(batched: Path) -> None:
    runs, session = Runs(), load(batched)
    worker = Worker(session, limit=8, observer=runs, max_batch=1)
    with runs_held(session):
        results = [worker.submit(pairs(i, i)) for i in range(4)]
    worker.close()
    assert runs.rows == [1, 1, 1, 1]
    assert all(result.done() for result in results)


def test_a_run_begins_when_the_batch_is_full_without_a_longer_wait(batched: Path) -> None:
    runs = Runs()
    worker = Worker(load(batched), limit=8, observer=runs, max_batch=2, max_wait_s=1e6)
    results = [worker.submit(pairs(i, i)) for i in range(2)]
    assert all(result.result(timeout=300) for result in results)
    worker.close()
    assert runs.rows == [2]


def test_only_the_request_that_is_wrong_fails(batched: Path) -> None:
    session = load(batched)
    worker = Worker(session, limit=8, observer=Runs())
    with runs_held(session):
        right, wrong, other = (worker.submit(pairs(0, i)) for i in (1, 99, 2))
    worker.close()
    np.testing.assert_array_equal(right.result()["taken"], TABLE[[[0, 1]]])
    np.testing.assert_array_equal(other.result()["taken"], TABLE[[[0, 2]]])
    with pytest.raises(InputError):
        wrong.result()
