"""How the kernels of an artifact were made."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hios_tvm.schema.precisions import Precision


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides the kernels of a model: `lower_by_recipe` makes them again from it.

    Attributes
    ----------
    targets : mapping of str to str
        TVM's target (JSON) by kind of device; that of a GPU names its host.
    precision : Precision
        What the factors of convolutions and products are rounded to, on devices that have it.
    merge_convolutions : bool
        Whether one convolution stands for several that had the same input.
    traces : mapping of str to str
        Loops of the tuned kernels: MetaSchedule's traces (JSON), by the `kernel_key` that a kernel
        has before it is scheduled.
    dtypes : tuple of str
        Element types that the model computes in, those inside of fused kernels among them.
    """

    targets: Mapping[str, str] = field(default_factory=dict)
    precision: Precision = "fp32"
    merge_convolutions: bool = False
    traces: Mapping[str, str] = field(default_factory=dict)
    dtypes: tuple[str, ...] = ()
