"""Inter-operator schedulers: a graph, costs and a platform in, a schedule out."""

from hios_tvm.schedulers.registry import SCHEDULERS, evaluated, make_schedule, options_of

__all__ = ["SCHEDULERS", "evaluated", "make_schedule", "options_of"]
