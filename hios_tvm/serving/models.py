"""The models that a server has: artifacts by name and version, loaded and with their queues."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from kserve.model import BaseKServeModel
from kserve.model_repository import ModelRepository

from hios_tvm.errors import UsageError
from hios_tvm.runtime import Session
from hios_tvm.runtime.arguments import Array, accept
from hios_tvm.serving.loading import load_source
from hios_tvm.serving.metrics import ModelMetrics
from hios_tvm.serving.model_source import ModelSource, check_versions
from hios_tvm.serving.options import ServerOptions
from hios_tvm.serving.refusals import NotFoundError, answer_to
from hios_tvm.serving.tensors import metadata_of, request_bytes
from hios_tvm.serving.worker import Worker


class Model(BaseKServeModel):
    """One version of a model.

    Parameters
    ----------
    source : ModelSource
    session : Session
        The artifact, loaded; `stop` closes it.
    options : ServerOptions
        With the limits on its queue and requests. Requests that are far too large for its inputs
        are refused, too.
    """

    def __init__(self, source: ModelSource, session: Session, options: ServerOptions) -> None:
        super().__init__(source.name)
        self.version = source.version
        programs = [session.manifest_of(_empty(shape)) for shape in session.shapes]
        self.metadata = {
            "name": source.name,
            "platform": "hios_tvm",
            "inputs": metadata_of([manifest.inputs for manifest in programs]),
            "outputs": metadata_of([manifest.outputs for manifest in programs]),
        }
        self.queue = options.queue
        self.outputs = session.outputs
        self.max_request_bytes = min(options.max_request_bytes, request_bytes(session.inputs))
        self._metrics = ModelMetrics(source.name, source.version)
        self._session = session
        self._worker = Worker(
            session,
            limit=options.queue,
            observer=self,
            max_batch=options.max_batch,
            max_wait_s=options.max_wait / 1000,
        )
        self._metrics.watch_queue(lambda: self._worker.waiting)
        self.ready = True

    async def healthy(self) -> bool:
        """Whether requests are taken."""
        return self._worker.is_running

    async def infer(self, inputs: Mapping[str, Array], protocol: str) -> dict[str, Array]:
        """Return the outputs for `inputs`, when it is their turn.

        Raises
        ------
        InputError
            If the inputs are not those of the model.
        RefusedError
            If too many requests wait, or the server is being shut down.
        """
        start = time.perf_counter()
        code = "OK"
        try:
            arrays = self._accept(inputs)
            return await asyncio.wrap_future(self._worker.submit(arrays))
        except Exception as error:
            code = answer_to(error).code
            raise
        finally:
            self._metrics.answered(protocol, code, time.perf_counter() - start)

    def _accept(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return `inputs` as the session takes them; `InputError` if it cannot."""
        specs = self._session.inputs
        if len(self._session.shapes) > 1:
            self._session.manifest_of(inputs)  # there is a program for their sizes
            specs = tuple(
                replace(spec, shape=inputs[spec.name].shape) if spec.name in inputs else spec
                for spec in specs
            )
        return accept(inputs, specs, "input")

    def ran(self, rows: int, seconds: float) -> None:
        """Count a run of so many rows of the batch."""
        self._metrics.run_seconds.observe(seconds)
        self._metrics.batch_size.observe(rows)

    def busy(self, device: str, seconds: float) -> None:
        """Count time in which a device worked."""
        self._metrics.busy(device, seconds)

    def stop(self) -> None:
        """Run what waits, then close the session."""
        self.ready = False
        self._worker.close()


class Models(ModelRepository):
    """All models of a server; of several versions, the last one that was given is the default."""

    def __init__(self, models: Sequence[Model]) -> None:
        super().__init__()
        self._versions: dict[str, dict[str, Model]] = {}
        for model in models:
            self._versions.setdefault(model.name, {})[model.version] = model
            self.update(model)

    def find(self, name: str, version: str | None) -> Model:
        """Return a model, of the default version where none is named.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        versions = self._versions.get(name)
        if versions is None:
            raise NotFoundError(f"there is no model {name!r}")
        if not version:
            return next(reversed(versions.values()))
        if version not in versions:
            raise NotFoundError(f"model {name!r} has no version {version!r}")
        return versions[version]

    def metadata(self, name: str, version: str | None) -> dict[str, Any]:
        """Return what the protocol says of a model."""
        model = self.find(name, version)
        return {**model.metadata, "versions": list(self._versions[name])}

    def __iter__(self) -> Iterator[Model]:
        for versions in self._versions.values():
            yield from versions.values()


def _empty(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Return arrays of these shapes that take no memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def load_models(
    sources: Sequence[ModelSource],
    devices: Sequence[str],
    options: ServerOptions,
    verify_key: Path | None = None,
    gpus: Iterator[int] | None = None,
) -> Models:
    """Load artifacts, each on cores that no other session uses, as far as there are enough.

    Parameters
    ----------
    sources
    devices
        Where each is to run, in their order; or nothing.
    options : ServerOptions
        With the limits of each.
    verify_key : Path, optional
        As `load` takes it.
    gpus : iterator of int, optional
        Those that the artifacts get, one after the other; by default each has those of its compile.

    Raises
    ------
    UsageError
        If two are equal by name and version, or `devices` are not as many.
    """
    check_versions(sources)
    if devices and len(devices) != len(sources):
        raise UsageError(f"--devices is given {len(devices)} times for {len(sources)} artifacts")
    models: list[Model] = []
    try:
        for i, source in enumerate(sources):
            session = load_source(source, devices[i] if devices else None, verify_key, gpus)
            models.append(Model(source, session, options))
    except BaseException:
        for model in models:
            model.stop()
        raise
    return Models(models)
