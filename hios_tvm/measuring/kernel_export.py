"""Kernels for a machine without a compiler: it measures them, this one schedules.

`hios_tvm.measuring.artifact_costs` is the other half.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tvm.ir import IRModule

from hios_tvm.artifact.build import build
from hios_tvm.artifact.write import write
from hios_tvm.backends import kind_named, parse_targets
from hios_tvm.backends.cache import kernel_dir
from hios_tvm.backends.network import lower_network
from hios_tvm.passes.canonicalize_operators import NUM_INPUT
from hios_tvm.runtime.devices import HOST, KINDS
from hios_tvm.schema.precisions import Precision
from hios_tvm.schema.schedule import one_after_another


def export_kernels(
    mod: IRModule,
    output: Path,
    *,
    target: str = "host",
    precision: Precision = "fp32",
    name: str = "model",
    cache_dir: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> None:
    """Write the kernels of a frontend's module as an artifact without weights.

    It is an artifact like any other, and checked like any other: weights are inputs, each operator
    is called once, and the operator graph travels along.

    Parameters
    ----------
    target : str
        Of the machine that will measure, and of the compile that will use the costs; with an
        architecture of GPUs (``sm_90``) the kernels are those of GPUs.
    precision : str
        As in `CompileOptions`, of the compile that will use the costs.
    cache_dir : Path, optional
        Folder of compiled kernels.

    Raises
    ------
    UsageError, CompileError
        As `compile_model`.
    """
    kinds = {kind_named(word) for word in target.split(",")}
    device = KINDS[next(iter(kinds - {HOST}), HOST)].first  # the kernels run on any of the kind
    network = lower_network(mod, *parse_targets(target, [device], precision).values(), name=name)
    form = network.on(device)
    graph, main = form.graph, form.mod["main"]
    names = [*(str(given) for given in main.attrs["input_names"]), *graph.constants]
    open_main = main.with_attrs({NUM_INPUT: len(main.params), "input_names": names})
    functions = {gvar: f for gvar, f in form.mod.functions.items() if f != main}
    opened = IRModule({**functions, form.mod.get_global_var("main"): open_main})
    schedule = one_after_another((operator.name for operator in graph.operators), device)
    built = build(
        replace(
            network, lowered=dict.fromkeys(network.lowered, replace(form, mod=opened)), weights={}
        ),
        schedule,
        kernel_dir=kernel_dir(cache_dir),
        progress=progress,
    )
    write(built, output, info={"command": f"hios-tvm profile export {name}"})
