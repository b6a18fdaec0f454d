"""Working on batches: what a batch worker does, above the operations that answer single requests."""
