"""``make bench`` calls the two benchmarks with options that they take."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from dflash_local.bench import machine
from dflash_local.cli.bench_options import parse

ROOT = Path(__file__).resolve().parents[2]


def _load_run() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dflash_local_run_bench", ROOT / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_make_bench_measures_fewer_prompts_than_the_default(tmp_path: Path) -> None:
    commands = _load_run().bench_commands(tmp_path, tmp_path / "results" / "m-peers.csv")
    suite, peers = commands
    assert suite[:3] == ["-m", "dflash_local", "bench"]
    arguments = parse(suite[3:])
    assert arguments.per_category is not None
    assert arguments.per_category < 8
    assert arguments.out == tmp_path
    assert arguments.csv == tmp_path / "results"
    assert Path(peers[0]).is_file()
    assert "--quick" in peers


def test_a_machine_is_named_by_its_processor() -> None:
    assert machine.slug("Intel(R) Xeon(R) CPU @ 2.5GHz") == "intel-xeon-cpu-2-5ghz"
    assert machine.slug("(R)") == "unknown"
    assert machine.name() == machine.slug(machine.name())
