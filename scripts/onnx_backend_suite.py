"""ONNX's own backend suite through hios-tvm on two devices, and through TVM's default executor.

Every case runs in a worker process that a crash or a hang takes down alone. Results are appended to
a file as they come, and a case that is in it is not run again.

    python scripts/onnx_backend_suite.py --results suite.jsonl
    python scripts/onnx_backend_suite.py --kind node --pattern conv --results conv.jsonl
"""

import contextlib
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import tvm
from onnx.backend.test import runner
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx as tvm_from_onnx

from hios_tvm.backends.cpu.library import link_library
from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.cli.console import stdout
from hios_tvm.cli.options import print_table
from hios_tvm.errors import HiosError
from hios_tvm.files import atomic_write
from hios_tvm.onnx_backend import prepare

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "light")
HIOS, TVM = "hios-tvm on two devices", "TVM's default executor"
OUTCOMES = ("passed", "refused", "failed", "wrong", "crashed")
LIMIT_S = 300.0
KERNELS = "HIOS_SUITE_KERNELS"  # names the folder that compiled kernels are kept in for one run

Run = Callable[[Sequence[Any]], Sequence[Any]]


@dataclass(frozen=True)
class Outcome:
    """What one executor made of one case.

    ``refused`` is a clear error, ``failed`` any other exception, ``wrong`` other numbers than the
    suite's, ``crashed`` the end of the process, or none within the limit.
    """

    executor: str
    case: str
    outcome: str
    message: str
    seconds: float


@click.command(help=__doc__)
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="[default: all]")
@click.option("--pattern", default="", help="Only cases whose name this expression finds.")
@click.option("--executor", "executors", multiple=True, type=click.Choice(["hios", "tvm"]))
@click.option("--jobs", default=len(os.sched_getaffinity(0)), show_default=True)
@click.option("--results", type=click.Path(path_type=Path), help="Where results are kept.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write counts there.")
def main(
    kinds: tuple[str, ...],
    pattern: str,
    executors: tuple[str, ...],
    jobs: int,
    results: Path | None,
    json_file: Path | None,
) -> None:
    cases = _cases(kinds or KINDS, re.compile(pattern))
    chosen = [{"hios": HIOS, "tvm": TVM}[name] for name in executors or ("hios", "tvm")]
    wanted = [(executor, name) for executor in chosen for name in cases]
    known = {(o.executor, o.case): o for o in _read(results)}
    missing = [job for job in wanted if job not in known]
    link_library([], host_target())  # compiles the executor; workers inherit it
    with contextlib.ExitStack() as stack:
        os.environ[KERNELS] = stack.enter_context(tempfile.TemporaryDirectory())
        log = stack.enter_context(results.open("a")) if results is not None else None
        for done, outcome in enumerate(_run_all(missing, cases, jobs), start=1):
            known[outcome.executor, outcome.case] = outcome
            if log is not None:
                log.write(json.dumps(asdict(outcome)) + "\n")
                log.flush()
            if sys.stderr.isatty() or done % 200 == 0:
                print(f"\r{done} of {len(missing)}", end="", file=sys.stderr, flush=True)
    _report([known[job] for job in wanted], cases, json_file)


def _cases(kinds: Sequence[str], pattern: re.Pattern[str]) -> dict[str, TestCase]:
    """Return the cases that need no network, as ``kind/name``."""
    cases = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite computes infinities on purpose
        for kind in kinds:
            for case in load_model_tests(kind="real" if kind == "light" else kind):
                if case.url is None or _light_path(case).exists():
                    cases[f"{kind}/{case.name}"] = case
    return {name: case for name, case in sorted(cases.items()) if pattern.search(name)}


def _light_path(case: TestCase) -> Path:
    return Path(onnx.__file__).parents[1] / (case.url or "")


def _read(results: Path | None) -> Iterator[Outcome]:
    if results is not None and results.exists():
        for line in results.read_text().splitlines():
            yield Outcome(**json.loads(line))


def _run_all(
    jobs: Sequence[tuple[str, str]], cases: Mapping[str, TestCase], workers: int
) -> Iterator[Outcome]:
    """Run all jobs in `workers` processes; one that dies is replaced."""
    left = list(reversed(jobs))
    running: dict[Connection, _Worker] = {}
    for _ in range(min(workers, len(left))):
        worker = _Worker(cases)
        worker.start(left.pop())
        running[worker.pipe] = worker
    while running:
        ready = wait(list(running), timeout=1.0)
        for pipe, worker in list(running.items()):
            outcome = worker.result(pipe in ready)
            if outcome is None:
                continue
            yield outcome
            del running[pipe]
            if left:
                worker = worker if worker.is_alive else _Worker(cases)
                worker.start(left.pop())
                running[worker.pipe] = worker
            else:
                worker.stop()


class _Worker:
    """A process that runs one job after another; it inherits the cases and what is imported."""

    def __init__(self, cases: Mapping[str, TestCase]) -> None:
        self.pipe, other = multiprocessing.get_context("fork").Pipe()
        self._process = multiprocessing.get_context("fork").Process(
            target=_work, args=(other, self.pipe, cases), daemon=True
        )
        self._process.start()
        other.close()
        self.is_alive = True

    def start(self, job: tuple[str, str]) -> None:
        self._job, self._begin = job, time.monotonic()
        self.pipe.send(job)

    def result(self, ready: bool) -> Outcome | None:
        """Return the outcome of the job; None while it runs."""
        seconds = time.monotonic() - self._begin
        if ready:
            try:
                outcome, message = self.pipe.recv()
                return Outcome(*self._job, outcome, message, seconds)
            except (EOFError, ConnectionResetError):
                self.stop()
                return Outcome(*self._job, "crashed", f"exit {self._process.exitcode}", seconds)
        if seconds > LIMIT_S:
            self.stop()
            return Outcome(*self._job, "crashed", f"no end within {LIMIT_S:.0f} s", seconds)
        return None

    def stop(self) -> None:
        self.is_alive = False
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _work(pipe: Connection, parents: Connection, cases: Mapping[str, TestCase]) -> None:
    parents.close()
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    warnings.simplefilter("ignore")
    while True:
        try:
            executor, name = pipe.recv()
        except EOFError:
            return
        pipe.send(_run_case(executor, cases[name]))


def _run_case(executor: str, case: TestCase) -> tuple[str, str]:
    try:
        model = _model(case)
        prepared = (_prepare_hios if executor == HIOS else _prepare_tvm)(model)
        for inputs, expected in _data(case, model):
            outputs = list(prepared(inputs))
            assert [_count(value) for value in expected] == [_count(value) for value in outputs]
            arrays, others = [*_flat(expected)], [*_flat(outputs)]
            runner.Runner.assert_similar_outputs(arrays, others, case.rtol, case.atol)
    except AssertionError as error:
        return "wrong", str(error).strip()[:300]
    except HiosError as error:
        return "refused", f"{type(error).__name__}: {error}"[:300]
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}"[:300]
    return "passed", ""


def _count(value: Any) -> int | None:
    """Return the length of a sequence; None for a tensor."""
    return len(value) if isinstance(value, list) else None


def _flat(values: Sequence[Any]) -> Iterator[Any]:
    """Yield tensors and those in sequences, which ONNX's runner compares only one by one."""
    for value in values:
        yield from value if isinstance(value, list) else [value]


def _prepare_hios(model: onnx.ModelProto) -> Run:
    run: Run = prepare(model, cache_dir=Path(os.environ[KERNELS])).run
    return run


def _prepare_tvm(model: onnx.ModelProto) -> Run:
    """TVM's importer, default pipeline and virtual machine, as TVM's own tests use them."""
    try:
        return _build_tvm(model, keep_params=True)
    except Exception:  # some models of weights that are computed do only without
        return _build_tvm(model, keep_params=False)


def _build_tvm(model: onnx.ModelProto, *, keep_params: bool) -> Run:
    module = tvm_from_onnx(model, keep_params_in_input=keep_params)
    module = relax.transform.DecomposeOpsForInference()(module)
    module = relax.transform.LegalizeOps()(module)
    module, params = relax.frontend.detach_params(module)
    machine = relax.VirtualMachine(tvm.compile(module, target="llvm"), tvm.cpu())

    def run(inputs: Sequence[Any]) -> Sequence[Any]:
        given = [tvm.runtime.tensor(np.asarray(array)) for array in inputs]
        machine.set_input("main", *given, *params.get("main", []))
        machine.invoke_stateful("main")
        outputs = machine.get_outputs("main")
        return [
            value.numpy() if isinstance(value, tvm.runtime.Tensor) else [v.numpy() for v in value]
            for value in ([outputs] if isinstance(outputs, tvm.runtime.Tensor) else outputs)
        ]

    return run


def _model(case: TestCase) -> onnx.ModelProto:
    if case.model is not None:
        return case.model
    return onnx.load(_light_path(case) if case.url else Path(case.model_dir or "", "model.onnx"))


def _data(case: TestCase, model: onnx.ModelProto) -> Iterator[tuple[list[Any], list[Any]]]:
    """Yield inputs and expected outputs, as ONNX's own runner does."""
    if case.data_sets is not None:
        for inputs, outputs in case.data_sets:
            yield [_array(value) for value in inputs], [_array(value) for value in outputs]
        return
    if case.url is not None:
        weights = {tensor.name for tensor in model.graph.initializer}
        given = [value for value in model.graph.input if value.name not in weights]
        inputs = [runner.Runner.generate_dummy_data(value) for value in given]
        expected = Path(str(_light_path(case)).replace(".onnx", "_output_0.pb"))
        yield inputs, [onnx.numpy_helper.to_array(onnx.load_tensor(expected))]
        return
    for folder in sorted(Path(case.model_dir or "").glob("test_data_set*")):
        yield _tensors(folder, "input"), _tensors(folder, "output")


def _tensors(folder: Path, what: str) -> list[Any]:
    count = len(list(folder.glob(f"{what}_*.pb")))
    files = [folder / f"{what}_{i}.pb" for i in range(count)]
    return [onnx.numpy_helper.to_array(onnx.load_tensor(file)) for file in files]


def _array(value: Any) -> Any:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _report(
    outcomes: Sequence[Outcome], cases: Mapping[str, TestCase], json_file: Path | None
) -> None:
    executors = list(dict.fromkeys(outcome.executor for outcome in outcomes))
    counts = {
        executor: {
            kind: Counter(
                o.outcome
                for o in outcomes
                if o.executor == executor and o.case.startswith(f"{kind}/")
            )
            for kind in dict.fromkeys(name.split("/")[0] for name in cases)
        }
        for executor in executors
    }
    for executor, by_kind in counts.items():
        rows = [
            [kind, str(sum(count.values())), *(str(count[o]) for o in OUTCOMES)]
            for kind, count in by_kind.items()
        ]
        print_table(executor, ["kind", "cases", *OUTCOMES], rows)
    passed = {
        e: {o.case for o in outcomes if (o.executor, o.outcome) == (e, "passed")} for e in executors
    }
    lost = sorted(passed.get(TVM, set()) - passed.get(HIOS, passed.get(TVM, set())))
    messages = {o.case: f"{o.outcome}: {o.message}" for o in outcomes if o.executor == HIOS}
    stdout().print(f"passed by {TVM} only: {len(lost)}")
    for name in lost:
        stdout().print(f"  {name}: {messages[name]}", soft_wrap=True, markup=False)
    if json_file is not None:
        with atomic_write(json_file) as file:
            file.write(
                json.dumps({"counts": counts, "passed_by_tvm_only": lost}, indent=1).encode()
            )


if __name__ == "__main__":
    main()
