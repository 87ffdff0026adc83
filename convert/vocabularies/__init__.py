"""Smaller draft vocabularies, and the counts of tokens that they are chosen by."""
