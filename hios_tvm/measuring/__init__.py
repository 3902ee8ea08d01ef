"""Times of operators, stages, transfers and sessions on this machine, and what rivals take."""
