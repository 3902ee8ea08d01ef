"""The operators of Relay in terms of Relax."""
