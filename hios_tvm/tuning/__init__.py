"""Kernels that a search found faster than the schedule rules' ones, and where they are kept."""
