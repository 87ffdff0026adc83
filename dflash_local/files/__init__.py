"""GGUF files: what a drafter's file holds, and whether it fits a verifier's."""
