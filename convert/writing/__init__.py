"""GGUF files: keys, types of weights, and writing them complete or not at all."""
