"""DFlash speculative decoding for llama.cpp models, in your own process."""
