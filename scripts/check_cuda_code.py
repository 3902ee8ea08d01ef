"""Compile the kernels of networks for GPUs, and report what ptxas says of registers and spills.

MODELS are ONNX files, or names of `hios-tvm zoo`; by default all of the latter. A kernel spills
where its registers do not suffice: it uses memory instead. Needs nvcc and no GPU:

    python scripts/check_cuda_code.py --arch sm_80,sm_90,sm_100 --precision fp32,tf32,fp16
"""

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import cast

import click

from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.backends.cuda.codegen import generate_cuda
from hios_tvm.backends.cuda.targets import cuda_target
from hios_tvm.backends.network import lower_network
from hios_tvm.cli.options import print_table
from hios_tvm.frontends import load_model
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.schema.precisions import Precision
from hios_tvm.zoo import NETWORKS, build

_ENTRY = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
    r".*?Used (\d+) registers",
    re.DOTALL,
)


@dataclass(frozen=True)
class Usage:
    """What ptxas reports of one kernel: registers of a thread, bytes that it spills and reads."""

    kernel: str
    registers: int
    stored: int
    loaded: int


def parse_report(report: str) -> list[Usage]:
    """Return what ``nvcc -Xptxas -v`` says of each kernel."""
    return [
        Usage(kernel, int(registers), int(stored), int(loaded))
        for kernel, stored, loaded, registers in _ENTRY.findall(report)
    ]


def compile_source(source: str, arch: str) -> list[Usage]:
    """Compile CUDA C++ for an architecture, and return the usage of each kernel."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernels.cu")
        path.write_text(source)
        command = ["nvcc", "-cubin", f"-arch={arch}", "-O3", "-w", "-Xptxas", "-v"]
        command += ["-o", str(path.with_suffix(".cubin")), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise click.ClickException(f"nvcc failed for {arch}: {done.stderr.strip()[-2000:]}")
    return parse_report(done.stderr)


@click.command(help=__doc__)
@click.argument("models", nargs=-1)
@click.option("--arch", default="sm_80,sm_90,sm_100", show_default=True, help="Comma-separated.")
@click.option("--precision", default="fp32", show_default=True, help="Comma-separated.")
def main(models: Sequence[str], arch: str, precision: str) -> None:
    if shutil.which("nvcc") is None:
        raise click.ClickException("nvcc was not found: install the CUDA toolkit")
    rows = []
    found_spills = False
    host = host_target()
    precisions = [cast(Precision, word) for word in precision.split(",")]
    for model in models or tuple(NETWORKS):
        imported = from_onnx(build(model)) if model in NETWORKS else load_model(Path(model))
        for one, precise in product(arch.split(","), precisions):
            start = time.monotonic()
            network = lower_network(imported, host, cuda_target(one, host, precise))
            code = generate_cuda(network.on("cuda:0").mod, network.on("cuda:0").target)
            usages = compile_source(code.source, one)
            missing = {
                launch.symbol for kernel in code.kernels.values() for launch in kernel.launches
            } - {usage.kernel for usage in usages}
            if missing:
                raise click.ClickException(f"ptxas says nothing of {sorted(missing)[0]}")
            spilling = [usage for usage in usages if usage.stored or usage.loaded]
            found_spills |= bool(spilling)
            rows.append(
                [
                    Path(model).stem,
                    one,
                    precise,
                    str(len(usages)),
                    str(max(usage.registers for usage in usages)),
                    ", ".join(f"{u.kernel}: {u.stored} B" for u in spilling) or "none",
                    f"{time.monotonic() - start:.0f}",
                ]
            )
            click.echo(" ".join(rows[-1]))
    columns = ["network", "arch", "precision", "kernels", "most registers", "spills", "seconds"]
    print_table("what ptxas says", columns, rows)
    raise SystemExit(found_spills)


if __name__ == "__main__":
    main()
