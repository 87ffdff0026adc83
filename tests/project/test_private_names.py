"""What is used of llama_cpp and gguf beyond their promises: all of it is listed and looked for."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import pytest
from waiting import PATIENCE

from dflash_local.private_names import GGML, GGUF, LLAMA_CPP, Names, check

ROOT = Path(__file__).parents[2]
TREES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for folder in ("benchmarks", "convert", "dflash_local")
    for path in (ROOT / folder).rglob("*.py")
    if path.name != "private_names.py"
}
ALL = {**LLAMA_CPP, **GGML, **GGUF}
LISTED = {name for names in ALL.values() for name in names}
#: Of the standard library, where they are documented or types, and of torch's models.
OF_OTHERS = {"_ArgumentGroup", "_asdict", "_exit", "_fields_", "_handle"}
OF_OTHERS |= {"_cuda_time", "_is_amx_tile_supported"}
#: Our classes that derive from one of theirs.
DERIVED = {
    ("dflash_local/runtime/session_llama.py", "SessionLlama"): "llama_cpp.Llama",
    ("dflash_local/runtime/llama.py", "Llama"): "llama_cpp.Llama",
    (
        "dflash_local/runtime/detokenizer.py",
        "Tokenizer",
    ): "llama_cpp.llama_tokenizer.LlamaTokenizer",
    ("dflash_local/runtime/parent.py", "_Model"): "llama_cpp._internals.LlamaModel",
    ("convert/writing/writer.py", "_Writer"): "gguf.GGUFWriter",
}
#: By what name their private objects are known to us.
OBJECTS = {
    "_ctx": "llama_cpp._internals.LlamaContext",
    "_model": "llama_cpp._internals.LlamaModel",
    "parents_log": "llama_cpp._logger",
}
#: There a ``_model`` is torch's.
TORCH = ("dflash_local/train/verifiers/hf_", "benchmarks/peers/")


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def attributes(tree: ast.AST) -> Iterator[ast.Attribute]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))


def owner(node: ast.Attribute) -> str:
    """The last name before the attribute: "_ctx" of ``llm._ctx.ctx``, "super" of ``super().x``."""
    value = node.value.func if isinstance(node.value, ast.Call) else node.value
    return value.attr if isinstance(value, ast.Attribute) else getattr(value, "id", "")


def defined(tree: ast.AST) -> set[str]:
    """Names that are made there: functions, classes, variables, attributes of ``self``."""
    made = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    made |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and is_stored(n)}
    return made | {n.attr for n in attributes(tree) if is_stored(n) and owner(n) == "self"}


def is_stored(node: ast.Name | ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Store)


def class_of(path: str, name: str) -> ast.ClassDef:
    return next(n for n in ast.walk(TREES[path]) if isinstance(n, ast.ClassDef) and n.name == name)


OWN = set().union(*map(defined, TREES.values()))
#: What our models have and llama_cpp's have not.
OWN_OF_LLAMA = set().union(
    *(defined(class_of(*place)) for place, parent in DERIVED.items() if parent == "llama_cpp.Llama")
) - {*dir(llama_cpp.Llama), *llama_cpp.Llama.__init__.__code__.co_names}


def test_every_private_name_of_others_is_listed() -> None:
    found = {
        (path, node.attr)
        for path, tree in TREES.items()
        for node in attributes(tree)
        if is_private(node.attr) and owner(node) not in ("self", "cls", "super")
        # Of a model our own class may have it, of anything else any of our classes.
        if node.attr not in (OWN_OF_LLAMA if owner(node) in ("llm", "_llm") else OWN)
    }
    assert len(found) > 20
    assert {(path, name) for path, name in found if name not in LISTED | OF_OTHERS} == set()


@pytest.mark.parametrize(("place", "parent"), DERIVED.items())
def test_what_a_derived_class_uses_of_its_parent_is_listed(
    place: tuple[str, str], parent: str
) -> None:
    own = class_of(*place)
    above = {node.attr for node in attributes(own) if owner(node) == "super"}
    used = {node.attr for node in attributes(own) if owner(node) == "self"} | above
    used -= OWN_OF_LLAMA if parent == "llama_cpp.Llama" else defined(own) - above
    if parent != "gguf.GGUFWriter":  # of that one nothing is documented
        used = set(filter(is_private, used))
    assert used - {*ALL[parent]} == set()


def test_what_is_asked_of_private_objects_is_listed() -> None:
    asked = {
        (OBJECTS[owner(node)], node.attr)
        for path, tree in TREES.items()
        if not path.startswith(TORCH)
        for node in attributes(tree)
        if owner(node) in OBJECTS
    }
    assert len(asked) > 8
    assert {(name, attribute) for name, attribute in asked if attribute not in ALL[name]} == set()


def test_private_modules_are_reached_from_one_place() -> None:
    named = {
        (path, str(node.value))
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and str(node.value).startswith("llama_cpp._")
    }
    api = {("dflash_local/_api.py", f"llama_cpp.{name}") for name in ("_internals", "_logger")}
    assert named == api | {("dflash_local/machine/ggml.py", name) for name in GGML}
    imported = {
        f"{path}: {ast.unparse(node)}"
        for path, tree in TREES.items()
        if path.startswith(("convert", "dflash_local"))
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(("llama_cpp", "gguf"))
        if any(map(is_private, [*str(node.module).split("."), *(n.name for n in node.names)]))
    }
    assert imported == set()


def test_nothing_is_listed_that_nobody_uses() -> None:
    assert {name for tree in TREES.values() for name in words(tree)} >= LISTED


def words(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        for field in ("attr", "name", "arg", "value"):
            word = getattr(node, field, None)
            if isinstance(word, str):
                yield word


def test_the_packages_that_are_installed_have_all_of_them() -> None:
    check("llama-cpp-python", LLAMA_CPP)
    check("gguf", GGUF)


@pytest.mark.parametrize(
    "names",
    [
        {"llama_cpp.Llama": ("_ctx", "_no_such_field")},
        {"llama_cpp._internals.LlamaContext": ("_no_such_field",)},
        {"llama_cpp._no_such_module": ("_no_such_field",)},
    ],
)
def test_a_name_that_is_lacking_is_told_with_a_version_that_has_it(names: Names) -> None:
    with pytest.raises(ImportError) as caught:
        check("llama-cpp-python", names)
    told = str(caught.value)
    assert told.startswith("llama-cpp-python 0.")
    assert f"it has no {next(iter(names))}._no_such_field. " in told
    assert "pip install 'llama-cpp-python<" in told


@pytest.mark.parametrize(
    ("without", "imported"),
    [
        ("llama_cpp.Llama._init_sampler", "dflash_local.runtime.llama"),
        ("gguf.GGUFWriter._pack_val", "dflash_local.convert.writing.writer"),
    ],
)
def test_it_is_told_at_import(without: str, imported: str) -> None:
    code = f"""
import {without.split(".")[0]}
del {without}
try:
    import {imported}
except ImportError as error:
    assert "does not fit dflash-local: it has no {without}. " in str(error), error
else:
    raise AssertionError("imported")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
