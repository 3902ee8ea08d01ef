"""The whole way of a model: lower it, plan a schedule, build the artifact, verify and write it."""

from hios_tvm.compiler.compilation import Compilation
from hios_tvm.compiler.one_call import compile
from hios_tvm.compiler.options import CompileOptions
from hios_tvm.compiler.pipeline import compile_model, plan

__all__ = ["Compilation", "CompileOptions", "compile", "compile_model", "plan"]
