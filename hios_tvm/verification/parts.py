"""Parts of a model, compiled for one device as the whole was, to find what is wrong in it."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tvm.ir import IRModule

from hios_tvm import runtime
from hios_tvm.artifact.build import build
from hios_tvm.artifact.write import Build, temporary_artifact
from hios_tvm.backends.network import lower_by_recipe
from hios_tvm.schema.graph import Operator, OperatorGraph
from hios_tvm.schema.recipe import Recipe
from hios_tvm.schema.schedule import one_after_another
from hios_tvm.verification.deviation import Arrays
from hios_tvm.verification.first_difference import Compile, Observation


def compiler_of_parts(recipe: Recipe, device: str, kernel_dir: Path | None = None) -> Compile:
    """Return what compiles a part by the recipe of the whole, for `device` alone, and runs it."""

    def compile_and_run(mod: IRModule, draws: Sequence[Arrays]) -> Observation:
        network = lower_by_recipe(mod, recipe, name="part")
        operators = network.graph.operators
        schedule = one_after_another((operator.name for operator in operators), device)
        built = build(network, schedule, kernel_dir=kernel_dir)
        outputs = run_draws(built, Path(tempfile.gettempdir(), "part.hios"), draws)
        return Observation(outputs, tuple(_call(network.graph, op) for op in operators))

    return compile_and_run


def run_draws(build: Build, beside: Path, draws: Sequence[Arrays]) -> tuple[Arrays, ...]:
    """Load an artifact that is not in a file yet, and run it once on each draw of inputs."""
    with temporary_artifact(build, beside) as path:
        session = runtime.load(path)
    with session:
        return tuple(session.run(inputs) for inputs in draws)


def _call(graph: OperatorGraph, operator: Operator) -> str:
    """Write a call of a kernel: ``relu(float32[1, 8]) -> float32[1, 8]``."""

    def types(tensors: Sequence[str]) -> str:
        found = [graph.tensor[name] for name in tensors]
        return ", ".join(f"{tensor.dtype}{list(tensor.shape)}" for tensor in found)

    return f"{operator.kernel}({types(operator.inputs)}) -> {types(operator.outputs)}"
