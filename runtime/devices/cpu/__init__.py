"""Cores of the host."""
