"""What is said across the queue: jobs one way, events the other."""
