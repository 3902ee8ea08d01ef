"""A pass that writes the module as TVMScript, so that the phases of a pipeline can be compared."""

from pathlib import Path

import tvm
from tvm.ir import IRModule


@tvm.transform.module_pass(opt_level=0, name="DumpIR")
class DumpIR:
    """Write the module to `folder`/`name`.py, and return it unchanged; no folder, no file."""

    def __init__(self, name: str, folder: Path | None) -> None:
        self.name = name
        self.folder = folder

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / f"{self.name}.py").write_text(mod.script(), encoding="utf-8")
        return mod
