"""Inter-operator schedulers."""
