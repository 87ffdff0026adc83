"""``python -m dflash_local`` is the command ``dflash-local``."""

from __future__ import annotations

import sys

from dflash_local.cli import main

sys.exit(main())
