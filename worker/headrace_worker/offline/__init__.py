"""The engine inside a Python program: no queue, no HTTP."""
