"""``benchmarks/convert.py``: its inputs, its measure of one conversion, its copy of upstream."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from converting import upstream  # noqa: E402
from converting.checkpoint import write_inputs  # noqa: E402
from converting.measure import Row, Run  # noqa: E402

from dflash_local import DFlashError  # noqa: E402

TIMED = ROOT / "benchmarks" / "converting" / "timed.py"


def test_a_timed_conversion_tells_its_seconds_and_its_peak(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path, n_layer=1, n_embd=256)
    result, output = tmp_path / "result.json", tmp_path / "d.gguf"
    arguments = [str(inputs.drafter), "--verifier", str(inputs.verifier), "-o", str(output)]
    command = [sys.executable, str(TIMED), str(result), "ours", *arguments]
    subprocess.run(command, check=True, capture_output=True)
    run = Run(seconds=9.0, **json.loads(result.read_text()))
    assert 0 < run.loaded_seconds < 9
    assert 20 < run.megabytes < 1000
    assert output.stat().st_size > inputs.n_bytes


def test_a_failed_conversion_says_so_by_its_exit_code(tmp_path: Path) -> None:
    command = [sys.executable, str(TIMED), str(tmp_path / "r"), "ours", str(tmp_path / "none")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "does not exist" in done.stderr


def test_ratios_are_medians_over_the_rounds_not_ratios_of_medians() -> None:
    row = Row("f16")
    row.runs["ours"] = [Run(1, 1, 70), Run(9, 3, 90), Run(3, 2, 80)]
    row.runs["upstream"] = [Run(10, 2, 400), Run(10, 2, 500), Run(4, 8, 300)]
    assert row.ratio == 0.75
    assert row.loaded_ratio == 0.5
    assert (row.median("ours"), row.median("upstream")) == (3, 10)
    assert (row.peak("ours"), row.peak("upstream")) == (90, 500)


def test_of_the_source_only_upstreams_converter_is_unpacked(tmp_path: Path) -> None:
    vendored = "llama_cpp_python-1.0/vendor/llama.cpp"
    wanted = ["convert_hf_to_gguf.py", "conversion/base.py", "gguf-py/gguf/lazy.py"]
    others = ["src/llama.cpp", "gguf-py/README.md", "conversion/../../../../escaped"]
    with tarfile.open(tmp_path / "source.tar.gz", "w:gz") as tar:
        for name in [*wanted, *others]:
            member = tarfile.TarInfo(f"{vendored}/{name}")
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    upstream._unpack(tmp_path / "source.tar.gz", tmp_path / "out")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    found = {path.relative_to(tmp_path / "out").as_posix(): path.read_text() for path in files}
    assert found == {name: name for name in wanted}
    assert not list(tmp_path.rglob("escaped"))


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DFlashError, match=r"has no convert_hf_to_gguf.py"):
        upstream.checkout(tmp_path)
    (tmp_path / upstream.SCRIPT).touch()
    assert upstream.checkout(tmp_path) == tmp_path
