"""Benchmark networks as ONNX models."""
