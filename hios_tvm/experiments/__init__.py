"""Experiments with schedulers: random graphs, graphs with a known optimum, sweeps, comparisons."""
