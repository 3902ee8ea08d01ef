"""The precision of products, which is one of the keys of a target."""

from tvm.target import Target

from hios_tvm.schema.precisions import PRECISIONS, Precision


def precision_of(*targets: Target) -> Precision:
    """Return the precision of products on the one of `targets` that has another than ``fp32``."""
    keys = [str(key) for target in targets for key in target.keys]
    return next((name for name in PRECISIONS if name in keys), "fp32")
