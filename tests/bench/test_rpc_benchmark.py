"""``benchmarks/rpc.py``: the delay is one, and a run on the tiny pair."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import threading
from pathlib import Path
from types import ModuleType

import pytest
from conftest import MODELS
from waiting import PATIENCE

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


rpc = _load("rpc")


@pytest.mark.parametrize("milliseconds", [0.0, 20.0])
def test_a_byte_takes_the_delay_there_and_back(milliseconds: float) -> None:
    assert rpc.round_trip(milliseconds) >= 2 * milliseconds


def test_all_arrives_as_it_was_sent_and_the_end_after_it() -> None:
    sent = os.urandom(3 << 20)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        with rpc.delayed(f"127.0.0.1:{listener.getsockname()[1]}", 5.0) as endpoint:
            host, port = endpoint.split(":")
            line = socket.create_connection((host, int(port)), PATIENCE)

            def send() -> None:
                with line:
                    line.sendall(sent)

            threading.Thread(target=send, daemon=True).start()
            there, _ = listener.accept()
            with there:
                there.settimeout(PATIENCE)
                found = b"".join(iter(lambda: there.recv(1 << 20), b""))
    assert found == sent


@pytest.mark.slow
def test_a_run_tells_the_speeds_and_their_ratios(
    rpc_server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del rpc_server  # it skips where there is no RPC
    prompts, report = tmp_path / "prompts.jsonl", tmp_path / "report.json"
    text = {"messages": [{"role": "user", "content": "Who is anna?"}]}
    prompts.write_text(json.dumps(text) + "\n")
    models = ["--verifier", MODELS / "verifier-f32.gguf", "--drafter", MODELS / "dflash-b8.gguf"]
    size = ["--max-tokens", 12, "--n-ctx", 256, "--threads", 1, "--rounds", 2, "--width", 7]
    files = ["--prompts", prompts, "--json", report]
    options = [*models, *size, *files, "--delays", 0.5]
    assert rpc.main(rpc.parse([str(each) for each in options])) == 0
    head, _, direct, relay, *_ = capsys.readouterr().out.splitlines()
    assert head.endswith("| plain | width 7 | adaptive |")
    assert direct.startswith("| 0.5 ms |")
    assert "| direct |" in direct
    assert "| relay |" in relay
    rows = json.loads(report.read_text())["rows"]
    assert [row["path"] for row in rows] == ["direct", "relay"]
    for row in rows:
        assert row["round_trip_ms"] >= 1.0
        speeds = row["tokens_per_second"]
        assert set(speeds) == {"plain", "width 7", "adaptive"}
        assert all(len(each) == 1 and each[0] > 0 for each in speeds.values())
