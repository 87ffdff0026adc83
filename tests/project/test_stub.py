"""Whether the stub of the C++ module tells the truth."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from dflash_local import _core

ROOT = Path(__file__).parents[2]
STUB = ast.parse((ROOT / "dflash_local" / "_core.pyi").read_text("utf-8"))
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
FUNCTIONS = {node.name: node for node in STUB.body if isinstance(node, ast.FunctionDef)}
#: Every class has one; stubs do not say so.
EVERYWHERE = {"__repr__", "__doc__", "__module__", "_pybind11_conduit_v1_"}


def is_enum(node: ast.ClassDef) -> bool:
    return [ast.unparse(base) for base in node.bases] == ["Enum"]


def members(node: ast.ClassDef) -> dict[str, list[ast.stmt]]:
    out: dict[str, list[ast.stmt]] = {}
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef):
            out.setdefault(statement.name, []).append(statement)
        elif isinstance(statement, ast.AnnAssign):
            out.setdefault(ast.unparse(statement.target), []).append(statement)
        elif isinstance(statement, ast.Assign):
            out.setdefault(ast.unparse(statement.targets[0]), []).append(statement)
    return out


def is_property(statements: list[ast.stmt]) -> bool:
    first = statements[0]
    return isinstance(first, ast.AnnAssign) or (
        isinstance(first, ast.FunctionDef) and bool(first.decorator_list)
    )


def signature_of(doc: str) -> ast.FunctionDef:
    """The signature that pybind11 writes as the first line of a docstring."""
    statement = ast.parse(f"def {doc.splitlines()[0]}: ...").body[0]
    assert isinstance(statement, ast.FunctionDef)
    return statement


def shape(function: ast.FunctionDef) -> dict[str, Any]:
    arguments = function.args
    return {
        "positional": [a.arg for a in arguments.args],
        "defaults": [ast.unparse(d) for d in arguments.defaults],
        "keyword only": [a.arg for a in arguments.kwonlyargs],
        "their defaults": [d and ast.unparse(d) for d in arguments.kw_defaults],
        "returns": last_name(function.returns),
    }


def last_name(annotation: ast.expr | None) -> str:
    """ "NDArray" of "npt.NDArray[np.float32]": how far a stub and pybind11 agree."""
    text = "None" if annotation is None else ast.unparse(annotation)
    optional = " | None" if text.endswith(" | None") else ""
    return text.removesuffix(optional).split("[")[0].rpartition(".")[2] + optional


METHODS = [
    (name, method)
    for name, node in CLASSES.items()
    if not is_enum(node)
    for method, statements in members(node).items()
    if not is_property(statements)
]


def test_the_stub_names_what_the_module_has() -> None:
    public = {name for name in dir(_core) if not name.startswith("__")}
    assert public == CLASSES.keys() | FUNCTIONS.keys()
    assert len(CLASSES) > 5
    assert len(METHODS) > 20


@pytest.mark.parametrize("name", CLASSES)
def test_the_stub_names_every_member(name: str) -> None:
    node, cls = CLASSES[name], getattr(_core, name)
    if is_enum(node):
        assert list(members(node)) == [member.name for member in cls]
        return
    found = set(vars(cls)) - EVERYWHERE
    stub = members(node)
    # No constructor in the stub, none to call.
    if "__init__" not in stub:
        found.discard("__init__")
        with pytest.raises(TypeError, match="No constructor"):
            cls()
    assert found == stub.keys()
    for member, statements in stub.items():
        attribute = vars(cls)[member]
        assert isinstance(attribute, property) == is_property(statements), member
        if isinstance(attribute, property):
            settable = isinstance(statements[0], ast.AnnAssign) or len(statements) == 2
            assert (attribute.fset is not None) == settable, member


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_the_stub_gives_the_parameters(name: str, method: str) -> None:
    (statement,) = members(CLASSES[name])[method]
    assert isinstance(statement, ast.FunctionDef)
    real = signature_of(getattr(getattr(_core, name), method).__doc__)
    assert shape(statement) == shape(real)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_stub_gives_the_parameters_of_functions(name: str) -> None:
    assert shape(FUNCTIONS[name]) == shape(signature_of(getattr(_core, name).__doc__))


def test_what_the_stub_documents_is_not_left_to_it_alone() -> None:
    """Every class of the stub says what it is; fields listed as attributes exist."""
    for name, node in CLASSES.items():
        doc = ast.get_docstring(node)
        if name == "DrafterKind":
            continue
        assert doc, name
        section = re.search(r"Attributes:\n((?:    .*\n?)+)", doc)
        for field in re.findall(r"^    (\w+):", section.group(1), re.MULTILINE) if section else []:
            assert hasattr(getattr(_core, name), field), f"{name}.{field}"
