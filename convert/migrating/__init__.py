"""Drafters of llama.cpp's forks as upstream's."""
