"""The backend of CUDA GPUs."""
