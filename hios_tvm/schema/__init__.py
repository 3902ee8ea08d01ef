"""Plain data: graphs, schedules, platforms, costs, programs, manifests, and their JSON."""
