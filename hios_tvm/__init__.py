"""Ahead-of-time compiler that schedules neural networks over several devices of one machine."""

__version__ = "0.1.0"
