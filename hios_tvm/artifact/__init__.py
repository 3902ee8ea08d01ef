"""Artifacts: what they hold, how they are written and signed."""
