"""Measured costs of operators, stages and transfers."""
