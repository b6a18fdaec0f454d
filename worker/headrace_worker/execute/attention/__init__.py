"""Attention over a paged K/V cache: one portable back-end that is always right, and faster ones."""
