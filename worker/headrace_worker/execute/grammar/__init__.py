"""Grammars: from what an answer must look like to masks over the vocabulary."""
