"""What `from trainer import ...` gives to a script or a notebook."""
