"""Floor 2: the order of the samples, and batches drawn in it."""
