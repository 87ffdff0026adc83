"""Verifiers by name, and the drafters that fit them: beside the model, in caches, by a registry."""
