"""Is an artifact right? Inputs, references, comparison, and the search for what is wrong."""
