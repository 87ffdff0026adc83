"""How OpenMP's threads wait: our programs decide it in time, the library never."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

import pytest
from waiting import PATIENCE

from dflash_local.machine.openmp import SPINS

PROGRAMS = {
    "dflash-local": "from dflash_local import __main__, cli; cli.main = asked; __main__.program()",
    "dflash-convert": (
        "from dflash_local.convert import cli; sys.argv[1:] = []\n"
        "cli.import_module = lambda *_: type('verb', (), {'main': asked}); sys.exit(cli.main())"
    ),
}
# What a program does when it knows what is wanted of it.
ASKED = """\
import os, sys
def asked(*_):
    import llama_cpp
    print(os.environ.get("GOMP_SPINCOUNT"), flush=True)
    return 0
"""


def output(code: str, **environment: str) -> tuple[str, str]:
    """What a process prints whose environment says of OpenMP what is given here alone."""
    kept = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return done.stdout.strip(), done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_say_it_before_libllama_is_loaded(program: str) -> None:
    said, shown = output(ASKED + PROGRAMS[program], OMP_DISPLAY_ENV="verbose")
    assert said == str(SPINS)
    if "GOMP_" not in shown:
        pytest.skip("libllama's OpenMP is not GNU's")
    assert f"GOMP_SPINCOUNT = '{SPINS}'" in shown


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    ("setting", "said"),
    [({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_what_users_say_stands(program: str, setting: Mapping[str, str], said: str) -> None:
    assert output(ASKED + PROGRAMS[program], **setting)[0] == said


def test_the_library_leaves_the_environment_alone() -> None:
    code = "import os, dflash_local; dflash_local.Llama; print(os.environ.get('GOMP_SPINCOUNT'))"
    assert output(code)[0] == "None"


def test_it_is_said_when_it_is_too_late() -> None:
    code = "from dflash_local.machine.openmp import spin_briefly as s; {}print(s(), s())"
    assert output(code.format(""))[0] == "True False"
    assert output(code.format("import llama_cpp; "))[0] == "False False"
