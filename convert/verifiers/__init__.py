"""What a drafter takes from its verifier's GGUF, and whether the two belong together."""
