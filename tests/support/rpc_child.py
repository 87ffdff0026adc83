"""An RPC server that ends with its parent, whose pipe it reads: ``python rpc_child.py PORT``."""

from __future__ import annotations

import os
import sys
import threading

from dflash_local.machine.rpc import serve


def _end_with_the_parent() -> None:
    sys.stdin.read()
    os._exit(0)


threading.Thread(target=_end_with_the_parent, daemon=True).start()
serve(f"127.0.0.1:{sys.argv[1]}", n_threads=1)
