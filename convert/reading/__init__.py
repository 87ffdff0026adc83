"""Checkpoints as published: folders or Hugging Face ids, safetensors, torch files; GGUF tensors."""
