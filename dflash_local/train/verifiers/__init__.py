"""Verifiers as training sees them: GGUF files, and models of Hugging Face's."""
