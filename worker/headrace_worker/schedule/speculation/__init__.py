"""Speculative decoding: tokens that may come next are computed together with the one that does."""
