"""Training a drafter for a GGUF verifier. The only part of the package that imports torch."""
