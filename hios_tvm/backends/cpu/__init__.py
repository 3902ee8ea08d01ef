"""The backend of CPUs."""
