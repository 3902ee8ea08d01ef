"""The costs that schedulers read."""
