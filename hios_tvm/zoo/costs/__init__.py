"""Graphs and costs of the networks, measured on one core and on two: to schedule without measuring.

scripts/measure_zoo_costs.py makes the files. They are cost files: `hios_tvm.schema.instance` reads
them, and ``hios-tvm schedule``.
"""

from pathlib import Path

from hios_tvm.errors import UsageError

__all__ = ["COSTS_DIR", "cost_file", "cost_file_name"]

COSTS_DIR = Path(__file__).parent


def cost_file(network: str, cores: int = 1) -> Path:
    """Return the cost file of a network on a device of so many cores.

    Raises
    ------
    UsageError
        If there is none.
    """
    path = COSTS_DIR / cost_file_name(network, cores)
    if not path.exists():
        known = ", ".join(sorted(file.name.split(".")[0] for file in COSTS_DIR.glob("*.json.gz")))
        size = "1 core" if cores == 1 else f"{cores} cores"
        raise UsageError(
            f"no costs of {network!r} were measured on {size}; there are those of {known}"
        )
    return path


def cost_file_name(network: str, cores: int) -> str:
    """Return the name of the cost file of a network on a device of so many cores."""
    return f"{network}.json.gz" if cores == 1 else f"{network}.{cores}_cores.json.gz"
