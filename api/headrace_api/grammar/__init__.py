"""Structured output: from the many ways to ask for it to one checked grammar."""
