"""Importers: a model file in, a Relax IRModule out."""
