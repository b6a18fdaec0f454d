"""Both ends of the queue, and the only place that speaks Redis."""
