"""One backend for each kind of device: code, costs and tasks of its kernels."""
