"""Compile a network, run it, and compare it with ONNX Runtime."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hios_tvm import onnx_backend
from hios_tvm.errors import HiosError
from random_networks.network import Array, Network
from random_networks.reference import Reference, reference_of, standard_of

KINDS = ("right", "wrong", "crashed", "refused")


@dataclass(frozen=True)
class Verdict:
    """What became of a network: one of `KINDS`, and why.

    ``refused`` is an error of the compiler's own kind, ``crashed`` any other exception or the end
    of the process, ``wrong`` an output that differs from ONNX Runtime's.
    """

    kind: str
    reason: str = ""

    @property
    def cause(self) -> str:
        """The reason without names and numbers: equal for failures of one kind."""
        if self.kind in ("right", "wrong"):
            return self.kind
        text = re.sub(r"'[^']*'", "'…'", self.reason.split("\n")[0])
        text = re.sub(r"\{.*?\}", "{…}", text)
        return f"{self.kind}: {re.sub(r'-?[0-9]+', '#', text)[:160]}"


MOVES = 16
"""Evaluations of the reference on moved inputs before a network counts as wrong.

A step such as a threshold may fall to either side of it by rounding.
"""


def judge(network: Network, *, cache_dir: Path | None = None) -> Verdict:
    """Compile and run `network`, in this process, on two devices that take turns."""
    run = partial(_outputs, network, cache_dir)
    verdict = verdict_of(run, reference_of(network))
    if verdict.kind == "wrong":
        verdict = verdict_of(run, reference_of(network, moves=MOVES))
    return verdict


def follows_standard(network: Network) -> bool:
    """Whether the outputs are those of ONNX's reference implementation."""
    try:
        reference = standard_of(network)
    except Exception:  # it has gaps and defects of its own
        return False
    return verdict_of(partial(_outputs, network, None), reference).kind == "right"


def _outputs(network: Network, cache_dir: Path | None) -> Mapping[str, Array]:
    rep = onnx_backend.prepare(network.model, cache_dir=cache_dir)
    return dict(zip(network.outputs, rep.run(dict(network.inputs)), strict=True))


def verdict_of(run: Callable[[], Mapping[str, Array]], reference: Reference) -> Verdict:
    """Return what became of `run`, which compiles and runs a network."""
    try:
        outputs = run()
    except HiosError as error:
        return Verdict("refused", f"{type(error).__name__}: {error}")
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}, {where.name}"
        return Verdict("crashed", f"{type(error).__name__} in {place}: {error}")
    difference = reference.difference(outputs)
    return Verdict("right") if difference is None else Verdict("wrong", difference)
