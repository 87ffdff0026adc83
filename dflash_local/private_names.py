"""What is used of llama_cpp and gguf that neither of them promises to keep.

Every such name is listed here, by the module or the class that has it, and is looked for before it
is used: a version that lacks one is refused at import, with the name and a version that has it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pkgutil import resolve_name

Names = Mapping[str, tuple[str, ...]]

LLAMA_CPP: Names = {
    "llama_cpp.llama_cpp": ("_lib",),
    "llama_cpp._logger": ("llama_log_callback", "logger"),
    # Other things are put behind these two names while the parent's constructor runs.
    "llama_cpp.llama": ("internals", "suppress_stdout_stderr"),
    "llama_cpp._internals": ("suppress_stdout_stderr",),
    "llama_cpp._internals.LlamaContext": (
        "close",
        "ctx",
        "kv_cache_clear",
        "kv_cache_seq_rm",
        "model",
        "params",
        "verbose",
    ),
    "llama_cpp._internals.LlamaModel": ("desc", "model", "n_vocab", "params", "token_bos", "vocab"),
    "llama_cpp._internals.LlamaSampler": ("sampler",),
    "llama_cpp.llama_tokenizer.LlamaTokenizer": ("_model",),
    "llama_cpp.Llama": (
        "_create_completion",
        "_ctx",
        "_init_sampler",
        "_is_hybrid",
        "_is_recurrent",
        "_logits_all",
        "_lora_adapter",
        "_model",
        "_n_ctx",
        "_n_vocab",
        "_sampler",
        "_seed",
        "_stack",
    ),
}

#: Places where ggml may be found, one after the other: whichever is lacking is done without.
GGML: Names = {
    "llama_cpp._ggml": ("libggml",),
    "llama_cpp._ctypes_extensions": ("load_shared_library",),
}

GGUF: Names = {"gguf.GGUFWriter": ("_pack_val", "fout", "tensors", "write_padding")}


def check(package: str, names: Names) -> None:
    """Whether the package that is installed has all of the names.

    Raises:
        ImportError: it lacks some; says which, and what to install.
    """
    lacking = [f"{owner}.{name}" for owner, some in names.items() for name in _missing(owner, some)]
    if lacking:
        raise unfit(package, f"it has no {', '.join(lacking)}")


def unfit(package: str, reason: str) -> ImportError:
    """What to raise where the package that is installed cannot be used."""
    from importlib import metadata  # it takes longer than all the rest

    installed, wanted = package, package
    with contextlib.suppress(metadata.PackageNotFoundError):  # it was put there by other means
        installed = f"{package} {metadata.version(package)}"
    with contextlib.suppress(metadata.PackageNotFoundError):
        ours = metadata.requires("dflash-local") or []
        wanted = next(text for text in ours if text.startswith(package) and ";" not in text)
    return ImportError(
        f"{installed} does not fit dflash-local: {reason}. Install a version that does: "
        f"pip install '{wanted}'"
    )


def _missing(owner: str, names: tuple[str, ...]) -> Iterator[str]:
    try:
        found = resolve_name(owner)
    except (ImportError, AttributeError):
        found = None
    # What a constructor takes, and what it sets on its object, is among the names of its code.
    code = getattr(getattr(found, "__init__", None), "__code__", None)
    of_constructor = () if code is None else (*code.co_names, *code.co_varnames)
    return (name for name in names if not hasattr(found, name) and name not in of_constructor)
