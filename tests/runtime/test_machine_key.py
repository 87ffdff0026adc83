"""The key of what was learned: the same on the same machine, another where costs are others."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import MakeLlama

from dflash_local import Llama
from dflash_local.machine import machine_key, other_work

CHILD = """\
import json
from dflash_local.machine.machine_key import machine_key
print(json.dumps(machine_key()))
"""


def key() -> str:
    return json.dumps(machine_key.machine_key(), sort_keys=True)


def test_it_is_equal_in_every_process_and_names_no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: "container-8d3f")
    done = subprocess.run(
        [sys.executable, "-c", CHILD], capture_output=True, text=True, timeout=60, check=True
    )
    ours = machine_key.machine_key()
    assert json.loads(done.stdout) == ours
    assert "container-8d3f" not in json.dumps(ours)


def test_what_ggml_sets_itself_is_not_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found by the child processes of one that has loaded libllama."""
    monkeypatch.delenv("KMP_BLOCKTIME", raising=False)
    before = key()
    monkeypatch.setenv("KMP_BLOCKTIME", "200")
    assert key() == before
    monkeypatch.setenv("KMP_BLOCKTIME", "0")
    assert key() != before


def test_ggml_tells_the_processor() -> None:
    processors = [device for device in machine_key.devices() if device[2] is None]
    assert len(processors) == 1
    name, model, _ = processors[0]
    assert name == "CPU"
    assert model


@pytest.mark.parametrize(
    "variable", ["CUDA_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES", "OMP_WAIT_POLICY"]
)
def test_what_the_environment_switches_is_in_it(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable, raising=False)
    keys = [key()]
    for value in ("", "1", "0,1"):
        monkeypatch.setenv(variable, value)
        keys.append(key())
    assert len(set(keys)) == 4
    monkeypatch.setenv("TERM_PROGRAM", "another")
    assert key() == keys[-1]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="not to be set here")
def test_the_processors_it_may_use_are_in_it() -> None:
    allowed = sorted(os.sched_getaffinity(0))
    assert other_work.affinity() == allowed
    code = f"import os; os.sched_setaffinity(0, [{allowed[-1]}]); {CHILD}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout)["affinity"] == allowed[-1:]


def test_where_the_system_tells_no_affinity_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Process:  # as on macOS
        pass

    monkeypatch.setattr(psutil, "Process", Process)
    assert other_work.affinity() is None
    assert json.loads(key())["affinity"] is None


# ---- graphics cards ------------------------------------------------------------------------------


class Cards:
    """ggml with two devices; free memory is another at every look."""

    def __init__(self) -> None:
        self.models = [b"AMD EPYC", b"NVIDIA H100"]
        self.total = 80 << 30
        self.looks = 0

    def function(self, name: str, *_: Any) -> Callable[..., Any]:
        return getattr(self, name.removeprefix("ggml_backend_dev_"))

    def count(self) -> int:
        return len(self.models)

    def get(self, index: int) -> int:
        return index

    def name(self, index: int) -> bytes:
        return [b"CPU", b"CUDA0"][index]

    def description(self, index: int) -> bytes:
        return self.models[index]

    def type(self, index: int) -> int:
        return index

    def memory(self, _index: int, free: Any, total: Any) -> None:
        self.looks += 1
        size = ctypes.POINTER(ctypes.c_size_t)
        ctypes.cast(free, size)[0] = (70 << 30) - (self.looks << 20)
        ctypes.cast(total, size)[0] = self.total


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Cards:
    cards = Cards()
    monkeypatch.setattr(machine_key, "_function", cards.function)
    return cards


def test_a_card_is_known_by_its_model_and_memory_but_not_by_what_is_free(cards: Cards) -> None:
    assert machine_key.devices() == [["CPU", "AMD EPYC", None], ["CUDA0", "NVIDIA H100", 80]]
    keys = [key(), key()]
    assert cards.looks == 3
    cards.total -= 40 << 30
    keys.append(key())
    cards.models[1] = b"NVIDIA A100"
    keys.append(key())
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_a_build_that_cannot_be_asked_has_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    real = machine_key._function

    def function(name: str, *types: Any) -> Any:
        return real(f"{name}_of_long_ago", *types)

    monkeypatch.setattr(machine_key, "_function", function)
    assert machine_key.devices() == []


# ---- control groups ------------------------------------------------------------------------------


def groups(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


CGROUP, V2 = "proc/self/cgroup", "sys/fs/cgroup"
V1 = "4:memory:/x\n3:cpu,cpuacct:/docker/abc\n2:cpuset:/x\n"

LIMITS: dict[str, tuple[dict[str, str], float | None]] = {
    "none": ({}, None),
    "no limit": ({CGROUP: "0::/\n", f"{V2}/cpu.max": "max 100000\n"}, None),
    "container": ({CGROUP: "0::/\n", f"{V2}/cpu.max": "150000 100000\n"}, 1.5),
    "the tightest": (
        {
            CGROUP: "0::/user/shell\n",
            f"{V2}/user/cpu.max": "50000 100000\n",
            f"{V2}/user/shell/cpu.max": "200000 100000\n",
        },
        0.5,
    ),
    "version 1": (
        {
            CGROUP: V1,
            f"{V2}/cpu/docker/abc/cpu.cfs_quota_us": "300000\n",
            f"{V2}/cpu/docker/abc/cpu.cfs_period_us": "100000\n",
        },
        3.0,
    ),
    "version 1 as a container sees it": (
        {
            CGROUP: V1,
            f"{V2}/cpu/cpu.cfs_quota_us": "25000\n",
            f"{V2}/cpu/cpu.cfs_period_us": "100000\n",
        },
        0.25,
    ),
    "version 1 without a limit": (
        {
            CGROUP: V1,
            f"{V2}/cpu/cpu.cfs_quota_us": "-1\n",
            f"{V2}/cpu/cpu.cfs_period_us": "100000\n",
        },
        None,
    ),
    "nonsense": ({CGROUP: "\nx\n0::\n0::/\n", f"{V2}/cpu.max": "many 0\n"}, None),
    "no period": ({CGROUP: "0::/\n", f"{V2}/cpu.max": "100 0\n"}, None),
}


@pytest.mark.parametrize("name", LIMITS)
def test_the_quota_of_the_control_groups(name: str, tmp_path: Path) -> None:
    files, limit = LIMITS[name]
    assert machine_key.cpu_quota(groups(tmp_path, files)) == limit


# ---- a pair --------------------------------------------------------------------------------------


def test_what_was_learned_on_another_machine_is_not_taken(
    make_llama: MakeLlama,
    tiny_verifier: Path,
    tiny_drafters: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DFLASH_LOCAL_CACHE", str(tmp_path))

    def n_kept() -> int:
        llm = make_llama(Llama, tiny_verifier, drafter=tiny_drafters["dflash-b8"], width=None)
        llm.close()
        return len(list((tmp_path / "learned").iterdir()))

    assert [n_kept(), n_kept()] == [1, 1]
    monkeypatch.setattr(platform, "node", lambda: "container-8d3f")
    assert n_kept() == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert n_kept() == 2
    monkeypatch.setattr(machine_key, "cpu_quota", lambda: 0.5)
    assert n_kept() == 3
