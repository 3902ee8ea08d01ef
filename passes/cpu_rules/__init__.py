"""Schedule rules for CPU kernels, in the form of TVM's dlight."""
