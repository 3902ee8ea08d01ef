"""Conversion of ONNX operators to Relax: one module for each family, and the table of all."""
