"""Every operator that can be imported, and how it becomes Relax."""

from collections.abc import Mapping
from importlib import import_module

from hios_tvm.frontends.onnx.operators import microsoft
from hios_tvm.frontends.onnx.operators.call import Converter

_FAMILIES = """
    arithmetic attention casts control_flow convolution filling images indexing logic nonlinearities
    normalization ordering padding pooling products quantized recurrent reductions regions resize
    scatter sequences shapes signals trigonometry
"""

CONVERTERS: Mapping[tuple[str, str], Converter] = {
    ("", name): converter
    for family in _FAMILIES.split()
    for name, converter in import_module(f"{__package__}.{family}").OPERATORS.items()
} | {("com.microsoft", name): converter for name, converter in microsoft.OPERATORS.items()}
"""By domain and name."""
