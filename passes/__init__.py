"""TVM passes: IRModule in, IRModule (or an analysis result) out."""
