"""Splits answers into what the model says and the tools that it calls, while they are generated."""
