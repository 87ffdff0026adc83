"""Models by their Hugging Face id: downloaded once, taken from the cache from then on."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from .errors import ModelError

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_repository_id(name: str) -> bool:
    """Whether a name can be ``owner/name`` on the Hugging Face hub."""
    return _ID.fullmatch(name) is not None


def download(repository: str, files: Sequence[str], revision: str | None = None) -> Path:
    """The folder of a repository's files in the Hugging Face cache.

    Asks the hub for what is new; without a connection, or with ``HF_HUB_OFFLINE=1``, the cache
    alone serves. huggingface_hub shows its own progress on stderr.

    Args:
        files: patterns of what is wanted; files in folders hold other formats and are left out.
        revision: a branch, a tag or a commit; None is the main branch.

    Raises:
        ModelError: it cannot be had from either; the message says what to do.
    """
    from huggingface_hub import snapshot_download

    fetch = partial(
        snapshot_download,
        repository,
        revision=revision,
        cache_dir=cache_folder(),
        allow_patterns=list(files),
        ignore_patterns="*/*",
    )
    try:
        return Path(fetch())
    except Exception as error:  # those of whichever HTTP library: they share no base
        cached = _cached(fetch)
        if cached is None:
            raise ModelError(_unavailable(repository, revision, error)) from error
        return cached


def files(repository: str) -> list[str]:
    """Names of a repository's files, none of those in folders, in order.

    The hub is asked; without a connection, or offline, it is those that the cache has.

    Raises:
        ModelError: neither knows the repository; the message says what to do.
    """
    from huggingface_hub import HfApi

    try:
        names = HfApi().list_repo_files(repository)
    except Exception as error:  # as above
        folder = snapshots().get(repository)
        if folder is None:
            raise ModelError(_unavailable(repository, None, error)) from error
        names = [path.name for path in folder.iterdir()]
    return sorted(name for name in names if "/" not in name)


def snapshots() -> dict[str, Path]:
    """The folders of all models in the Hugging Face cache by repository: of each one commit.

    It is the main branch's as it was last asked for, else the one that came last.
    """
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        found = scan_cache_dir(cache_folder())
    except (CacheNotFound, ValueError):  # ValueError: something else lies where it should be
        return {}
    return {
        repo.repo_id: (
            repo.refs.get("main") or max(repo.revisions, key=lambda it: it.last_modified)
        ).snapshot_path
        for repo in sorted(found.repos, key=lambda it: it.repo_id)
        if repo.repo_type == "model" and repo.revisions
    }


def missing_files(folder: Path, needed: Sequence[str]) -> list[str]:
    """The patterns that no file of a folder has."""
    return [pattern for pattern in needed if not any(folder.glob(pattern))]


def cache_folder() -> Path:
    """Where huggingface_hub keeps what it downloaded."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def repository_of(folder: Path) -> tuple[str, str] | None:
    """The id and the commit of a folder in the cache; None for any other folder."""
    repository = folder.parent.parent.name.removeprefix("models--")
    if folder.parent.name != "snapshots" or repository == folder.parent.parent.name:
        return None
    return repository.replace("--", "/", 1), folder.name


def _cached(fetch: Callable[..., str]) -> Path | None:
    # Also where huggingface_hub asks the hub first although it needs nothing of it: for a commit.
    try:
        return Path(fetch(local_files_only=True))
    except (OSError, ValueError):
        return None


def _unavailable(repository: str, revision: str | None, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    at = f" at revision {revision!r}" if revision else ""
    return (
        f"{repository}{at} is no folder here, not in {cache_folder()}, and the Hugging "
        f"Face hub did not give it: {reason}\n"
        "Check the name and the revision. For a private or gated repository log in first "
        "(`hf auth login`). Without a connection, or with HF_HUB_OFFLINE set, only what was "
        f"downloaded before is found: run `hf download {repository}` where there is one"
    )
