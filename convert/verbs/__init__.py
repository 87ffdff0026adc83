"""The verbs of ``dflash-convert``, each a module with ``main(argv) -> int``."""
