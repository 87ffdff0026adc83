"""The Python examples of README and docs run as they stand there, on the tiny pair."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import ExitStack
from pathlib import Path

import llama_cpp
import pytest
from rpc_servers import server
from training import ASKED

from dflash_local.files.requantize import requantize

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "tests" / "models"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = [
    pytest.param(code, id=f"{page.name}-{number}")
    for page in PAGES
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]
SERVER = "192.168.1.7:50052"
#: What a training and a measuring are made short by: what stands there, what stands here.
SHORTER = (
    ('Path("my.jsonl")', 'Path("my.jsonl"), max_tokens=16, max_length=96, held_out=0.2'),
    ("steps=2000", "steps=2, n_blocks=4"),
    ('out=Path("my-drafter")', 'out=Path("my-drafter"), force=True'),
    ('Path("drafter.gguf"), threads', 'Path("drafter.gguf"), widths=(3,), max_tokens=8, threads'),
    ("threads=4", "threads=1"),
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that the examples name."""
    monkeypatch.setenv("DFLASH_LOCAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DFLASH_LOCAL_CONFIG", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    own = '[qwen3-8b]\nverifier = "verifier.gguf"\ndrafter = "drafter.gguf"\n'
    Path("models.toml").write_text(own)  # of the name that the examples load
    shutil.copy(MODELS / "verifier-f32.gguf", "verifier.gguf")
    shutil.copy(MODELS / "dflash-b8.gguf", "drafter.gguf")
    shutil.copytree(MODELS / "dflash-b8", "my-drafter")
    rows = "".join(json.dumps({"prompt": text}) + "\n" for text in ASKED)
    Path("my.jsonl").write_text(rows)
    Path("mine.jsonl").write_text(rows.splitlines()[0])
    requantize(Path("verifier.gguf"), Path("verifier-q4_0.gguf"), llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0)


@pytest.mark.slow
@pytest.mark.parametrize("code", EXAMPLES)
def test_an_example_runs(code: str, request: pytest.FixtureRequest) -> None:
    if SERVER in code and not llama_cpp.llama_supports_rpc():
        pytest.skip("this llama-cpp-python was built without RPC")
    if "from dflash_local import train" in code:
        pytest.importorskip("torch")
        pytest.importorskip("transformers")
    for there, here in SHORTER:
        code = code.replace(there, here)
    with ExitStack() as stack:
        if "relayed" in code:  # a server serves one process at a time: one for the relay
            code = code.replace(SERVER, stack.enter_context(server())[0])
        elif SERVER in code:
            code = code.replace(SERVER, request.getfixturevalue("rpc_server"))
        exec(compile(code, "example", "exec"), {"__name__": "example"})
