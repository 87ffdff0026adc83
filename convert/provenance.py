"""The ``dflash_local.*`` keys: who trained a drafter, from what it was made, and for what."""

from __future__ import annotations

import hashlib
from importlib import metadata

from dflash_local.files.model_header import TEMPLATE_KEY

from .reading.source import Source
from .verifiers.verifier import Verifier
from .writing.keys import Key, boolean, string

PREFIX = "dflash_local."
# Trainers that sign with nothing but the class of the model.
TRAINER_CLASSES = {
    "Qwen3DFlashDraftModel": "NeMo AutoModel",
    "Qwen3DSparkModel": "DeepSpec",
    "Gemma4DSparkModel": "DeepSpec",
}
# Pairs of fields that name a trainer and its version.
TRAINER_FIELDS = (
    ("training_framework", "training_framework_version"),
    ("speculative_library", "speculative_library_version"),
)
_STRING_HEAD = 12  # bytes before a string in GGUF: its type and its length


def provenance_keys(source: Source, verifier: Verifier) -> list[Key]:
    """What is known of a drafter's origin; what is not known has no key."""
    texts = {
        "version": _own_version(),
        "trainer": trainer(source),
        "source.repository": source.repository,
        "source.revision": source.revision,
        "verifier.name": verifier.name,
        "verifier.architecture": verifier.architecture,
        "verifier.size_label": verifier.size_label,
        "verifier.file": verifier.path.name,
        "chat_template_sha256": _template_hash(verifier),
    }
    keys = [string(PREFIX + name, text) for name, text in texts.items() if text]
    mode = thinking(source)
    return keys if mode is None else [*keys, boolean(PREFIX + "thinking", mode)]


def trainer(source: Source) -> str | None:
    """The program a checkpoint was trained with, and its version where that is told."""
    for name, version in TRAINER_FIELDS:
        for section in source.sections:
            if isinstance(section.get(name), str):
                return _versioned(section[name], section.get(version))
    for section in source.sections:
        if "speculators_version" in section or "speculators_model_type" in section:
            return _versioned("speculators", section.get("speculators_version"))
    classes = source.config.get("architectures")
    known = [TRAINER_CLASSES.get(str(name)) for name in classes or ()]
    return known[0] if known else None


def thinking(source: Source) -> bool | None:
    """Whether it was trained on answers that think first; None where config.json is silent."""
    for section in source.sections:
        arguments = section.get("chat_template_kwargs")
        for fields in (section, arguments if isinstance(arguments, dict) else {}):
            if isinstance(fields.get("enable_thinking"), bool):
                return bool(fields["enable_thinking"])
    return None


def _versioned(name: str, version: object) -> str:
    return f"{name} {version}" if isinstance(version, str) and version else name


def _template_hash(verifier: Verifier) -> str | None:
    value = verifier.tokenizer.get(TEMPLATE_KEY)
    return None if value is None else hashlib.sha256(value[_STRING_HEAD:]).hexdigest()


def _own_version() -> str | None:
    try:
        return metadata.version("dflash-local")
    except metadata.PackageNotFoundError:
        return None
