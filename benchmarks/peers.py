"""DFlash here against its peers, in one run: the same files, prompts and threads, greedy.

    python benchmarks/peers.py --quick [--torch-python PATH] [--json FILE] [--csv FILE]

Stock llama_cpp, ours at every width and with adaptive ones, upstream's draft-dflash (wheel
xllamacpp) at every draft length and z-lab's torch reference (wheel dflash). An engine that is not
installed is skipped, with a line that says why. Few answers are noisy: see the quartiles, and leave
the machine alone.
"""

from __future__ import annotations

import sys

from peers.engine import UnavailableError
from peers.options import Options, parse
from peers.output import print_report, write_csv, write_json
from peers.run import prepare, run
from rich.console import Console

from dflash_local import DFlashError


def main(options: Options) -> int:
    """Returns the exit status."""
    try:
        report = run(prepare(options), Console(stderr=True))
        if options.json is not None:
            write_json(report, options.json)
        if options.csv is not None:
            write_csv(report, options.csv)
    except (DFlashError, UnavailableError, OSError) as error:
        print(f"peers.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print_report(report, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main(parse(sys.argv[1:])))
