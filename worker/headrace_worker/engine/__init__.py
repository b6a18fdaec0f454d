"""Engines: one step of work at a time, usable without Redis."""
