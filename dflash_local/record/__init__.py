"""Finished answers, kept as tokens in a folder of the user's, for drafters that learn from them."""
