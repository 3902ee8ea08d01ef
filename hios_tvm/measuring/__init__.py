"""Times of operators, stages and transfers on this machine, and where they are kept."""
