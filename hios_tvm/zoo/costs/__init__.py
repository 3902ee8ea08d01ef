"""Graphs and costs of the networks, measured on one core: to schedule without measuring.

scripts/measure_zoo_costs.py makes the files. They are cost files: `hios_tvm.schema.instance` reads
them, and ``hios-tvm schedule``.
"""

from pathlib import Path

from hios_tvm.errors import UsageError

__all__ = ["COSTS_DIR", "cost_file"]

COSTS_DIR = Path(__file__).parent


def cost_file(network: str) -> Path:
    """Return the cost file of a network.

    Raises
    ------
    UsageError
        If there is none.
    """
    path = COSTS_DIR / f"{network}.json.gz"
    if not path.exists():
        known = ", ".join(sorted(file.name.split(".")[0] for file in COSTS_DIR.glob("*.json.gz")))
        raise UsageError(f"no measured costs of {network!r}; there are those of {known}")
    return path
