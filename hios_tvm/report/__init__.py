"""Reports: timelines, drawings of graphs, explanations, one HTML page."""
