"""What a deployment machine runs."""
