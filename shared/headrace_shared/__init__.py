"""What both sides of the queue agree on: messages, Redis, text, telemetry. No HTTP, no torch."""
