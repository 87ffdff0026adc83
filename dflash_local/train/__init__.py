"""Training a drafter for a verifier. The only part of the package that imports torch."""
