"""What came of a compile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from hios_tvm.measuring.contest import MeasuredSchedule
from hios_tvm.runtime import Session, load
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.manifest import Manifest
from hios_tvm.schema.platform import Platform
from hios_tvm.schema.schedule import Schedule

_TEXT = "text-align: left"
_BAR = "display: inline-block; height: 0.6em; background: #0072b2"


@dataclass(frozen=True, repr=False)
class Compilation:
    """What `compile_model` decided and made.

    `path` is that of the artifact. `costs` and `platform` are None where a schedule was given
    without costs. `seconds` are by phase, `trials` are the schedules that were tried out, and
    `notes` say in sentences what an option brought. `others` are the other shapes of an artifact
    that has several; this one is the largest.
    """

    path: Path
    graph: OperatorGraph
    schedule: Schedule
    manifest: Manifest
    seconds: Mapping[str, float]
    costs: CostTable | None = None
    platform: Platform | None = None
    trials: tuple[MeasuredSchedule, ...] = ()
    notes: tuple[str, ...] = ()
    others: tuple[Compilation, ...] = ()

    def load(self, **options: Any) -> Session:
        """Load the artifact, with the options of `hios_tvm.load`."""
        return load(self.path, **options)

    def __repr__(self) -> str:
        rows = ", ".join(f"{device}: {text}" for device, text in self._devices())
        return f"<Compilation of {self.manifest.summary} into {self.path}; {rows}; {self._times()}>"

    def _repr_html_(self) -> str:
        """What notebooks show; their own colours make it light or dark."""
        work_ms = self.manifest.prediction.work_ms
        most_ms = max(work_ms.values(), default=0.0) or 1.0
        rows = []
        for device, text in self._devices():
            ms = work_ms.get(device)
            width = 12 * (ms or 0.0) / most_ms
            bar = f"<span style='{_BAR}; width: {width:.2f}em'></span>" if ms else ""
            work = "" if ms is None else f"{ms:.3g} ms"
            cells = (f"<td style='{_TEXT}'>{cell}</td>" for cell in (text, f"{work} {bar}"))
            rows.append(
                f"<tr><th scope='row' style='{_TEXT}'>{escape(device)}</th>{''.join(cells)}</tr>"
            )
        trials = "".join(f"<li>{escape(str(trial))}</li>" for trial in self.trials)
        tried = f"<p>Schedules that were tried out:</p><ul>{trials}</ul>" if trials else ""
        return (
            f"<p><b>{escape(self.manifest.summary)}</b><br>{escape(str(self.path))}</p>"
            f"<table><caption>Work of each device</caption>{''.join(rows)}</table>{tried}"
            f"<p>{self._times()}<br>{escape(str(self.manifest.verification))}</p>"
        )

    def _devices(self) -> Iterator[tuple[str, str]]:
        for device in self.schedule:
            yield device.device, f"{len(device.operators)} operators in {len(device.stages)} stages"

    def _times(self) -> str:
        makespan_ms = self.manifest.prediction.makespan_ms
        predicted = "" if makespan_ms is None else f"predicted {makespan_ms:.3g} ms, "
        return f"{predicted}compiled in {sum(self.seconds.values()):.1f} s"
