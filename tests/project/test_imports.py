"""What may import what, and what an import may do."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from waiting import PATIENCE

ROOT = Path(__file__).parents[2]
PACKAGE = "dflash_local"
HEAVY = {"torch", "transformers", "accelerate", "rich", "safetensors", "matplotlib", "scipy"}


class Import(NamedTuple):
    module: str  # "numpy", "dflash_local.errors"
    lazy: bool  # inside a function
    line: int


# ---- Python: the graph of imports -------------------------------------------------------------


def module_files() -> dict[str, Path]:
    """Module name -> file, of the library and of convert/, which ships inside it."""
    files = {}
    for folder, prefix in (
        (ROOT / "dflash_local", PACKAGE),
        (ROOT / "convert", f"{PACKAGE}.convert"),
    ):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            files[".".join((prefix, *parts))] = path
    return files


FILES = module_files()


def imports_of(name: str) -> Iterator[Import]:
    """What the module imports when it runs; imports for type checkers are none."""
    path = FILES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    yield from _imports(ast.parse(path.read_text("utf-8")), package, lazy=False)


def _imports(node: ast.AST, package: str, *, lazy: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, lazy, child.lineno)
        elif isinstance(child, ast.ImportFrom):
            yield from _from(child, package, lazy)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from (x for c in child.orelse for x in _imports(c, package, lazy=lazy))
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, package, lazy=lazy or inside)


def _from(node: ast.ImportFrom, package: str, lazy: bool) -> Iterator[Import]:
    base = node.module or ""
    if node.level:
        above = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*above, *filter(None, [node.module])])
    for alias in node.names:
        whole = f"{base}.{alias.name}"
        is_module = whole in FILES or whole == f"{PACKAGE}._core"
        yield Import(whole if is_module else base, lazy, node.lineno)


GRAPH = {name: list(imports_of(name)) for name in FILES}


def group(module: str) -> str:
    """ "cli", "bench", "train", "convert", "pairs", or "face" for the modules beside __init__."""
    parts = module.split(".")
    folders = ("cli", "bench", "train", "learn", "convert", "pairs")
    return parts[1] if len(parts) > 1 and parts[1] in folders else "face"


def is_ours(module: str) -> bool:
    return module.split(".")[0] == PACKAGE


def is_outside(module: str) -> bool:
    top = module.split(".")[0]
    return top != PACKAGE and top not in sys.stdlib_module_names


def violations(allowed: Any) -> list[str]:
    """Every import for which allowed(importer, import) is false."""
    return [
        f"{FILES[name].relative_to(ROOT)}:{found.line} imports {found.module}"
        for name in sorted(GRAPH)
        for found in GRAPH[name]
        if not allowed(name, found)
    ]


def test_the_scan_sees_the_imports() -> None:
    assert len(FILES) > 30
    assert Import(f"{PACKAGE}.errors", False, 0) in [
        i._replace(line=0) for i in GRAPH[f"{PACKAGE}.files.pairing"]
    ]
    assert Import("numpy", False, 0) in [
        i._replace(line=0) for i in GRAPH[f"{PACKAGE}.runtime.timeline"]
    ]
    assert any(
        i.lazy and i.module == "rich.console" for i in GRAPH[f"{PACKAGE}.convert.verbs.output"]
    )
    assert not any(
        i.module == f"{PACKAGE}.runtime.llama" for i in GRAPH[f"{PACKAGE}.runtime.generation"]
    )


def test_nothing_but_main_imports_the_command_line() -> None:
    def allowed(name: str, found: Import) -> bool:
        into_cli = is_ours(found.module) and group(found.module) == "cli"
        return not into_cli or group(name) == "cli" or name == f"{PACKAGE}.__main__"

    assert violations(allowed) == []


def test_the_face_imports_nothing_that_is_built_on_it() -> None:
    # A drafter may be found by itself: two modules ask for it by name, or "auto".
    asking = {f"{PACKAGE}.runtime.llama", f"{PACKAGE}.runtime.loading"}

    def allowed(name: str, found: Import) -> bool:
        above = is_ours(found.module) and group(found.module) != "face"
        if name in asking and group(found.module) == "pairs":
            return True
        return group(name) != "face" or not above or name == f"{PACKAGE}.__main__"

    assert violations(allowed) == []


def test_bench_and_train_and_convert_do_not_import_each_other() -> None:
    apart = {"bench", "train", "convert"}
    # A training ends with a GGUF: one module hands the checkpoint's folder to the converter.
    meeting = f"{PACKAGE}.train.to_gguf"

    def allowed(name: str, found: Import) -> bool:
        if name == meeting and group(found.module) == "convert":
            return True
        groups = {group(name), group(found.module)} if is_ours(found.module) else set()
        return not (len(groups) == 2 and groups <= apart)

    assert violations(allowed) == []


def folder(module: str) -> str:
    """ "files" for dflash_local.files.pairing, "" for the modules beside __init__."""
    name = f"{module}.".split(".")[1]
    found = FILES.get(f"{PACKAGE}.{name}")
    return name if found is not None and found.name == "__init__.py" else ""


def test_the_folders_of_the_face_know_those_below_them() -> None:
    below = {
        "": {""},
        "files": {"", "files"},
        "rows": {"", "rows", "files"},
        "machine": {"", "machine"},
        "record": {"", "files", "record"},
        # What finds drafters loads no model, but makes GGUF files.
        "pairs": {"", "files", "convert", "pairs"},
        "runtime": {"", "files", "rows", "machine", "pairs", "record", "runtime"},
    }
    names = {PACKAGE, f"{PACKAGE}.__main__"}  # what users see of all of it

    def allowed(name: str, found: Import) -> bool:
        known = below.get(folder(name))
        if known is None or name in names or not is_ours(found.module):
            return True
        return folder(found.module) in known

    assert violations(allowed) == []


def test_convert_knows_files_and_pairs_and_few_of_its_modules_libllama() -> None:
    neutral = ("errors", "hf_hub", "lazy", "private_names", "whole_files", "machine.openmp")
    ours = {f"{PACKAGE}.{name}" for name in neutral}
    running = {
        "llama_cpp",
        *(f"{PACKAGE}.{name}" for name in ("llama_log", "runtime.llama", "runtime.seam")),
    }
    running_it = ("drafter_check", "draft_agreement")
    names = ("writing.quantize", "verifiers.tokenizer", *(f"checking.{n}" for n in running_it))
    with_llama = {f"{PACKAGE}.convert.{name}" for name in names}

    def allowed(name: str, found: Import) -> bool:
        if group(name) != "convert":
            return True
        if found.module in running or found.module.startswith("llama_cpp."):
            return name in with_llama
        own = not is_ours(found.module) or group(found.module) == "convert"
        return own or found.module in ours or folder(found.module) in ("files", "rows")

    assert violations(allowed) == []


def test_training_does_not_know_who_learns_by_it() -> None:
    """``learn`` is built on ``train``, and nothing but the command line on ``learn``."""

    def allowed(name: str, found: Import) -> bool:
        return group(found.module) != "learn" or group(name) in ("cli", "learn")

    assert violations(allowed) == []


def test_torch_is_imported_by_train_alone() -> None:
    training = {"torch", "transformers", "accelerate"}

    def allowed(name: str, found: Import) -> bool:
        return group(name) == "train" or found.module.split(".")[0] not in training

    assert violations(allowed) == []


def test_at_import_time_the_library_needs_numpy_gguf_and_llama_cpp_only() -> None:
    light = {"numpy", "gguf", "llama_cpp"}

    def allowed(name: str, found: Import) -> bool:
        known = light | ({"psutil"} if group(name) == "bench" else set())
        heavy = is_outside(found.module) and found.module.split(".")[0] not in known
        return group(name) == "train" or not heavy or found.lazy

    assert violations(allowed) == []


def test_the_dispatcher_of_the_command_line_imports_the_standard_library_only() -> None:
    assert [i for i in GRAPH[f"{PACKAGE}.cli"] if is_outside(i.module) or is_ours(i.module)] == []


def test_the_c_module_is_used_where_it_is_connected_to_libllama() -> None:
    """Results alone may be told without: statistics are read in places that load no model."""
    core, inside = f"{PACKAGE}._core", {f"{PACKAGE}._api", f"{PACKAGE}.runtime.stats"}

    assert violations(lambda name, found: found.module != core or name in inside) == []


def test_imports_go_one_way() -> None:
    """No cycle among the modules, lazily or not."""
    graph = {
        name: {i.module for i in found if i.module in FILES and i.module not in (name, PACKAGE)}
        for name, found in GRAPH.items()
    }
    while graph:
        leaves = {name for name, targets in graph.items() if not targets & graph.keys()}
        assert leaves, f"a cycle among {sorted(graph)}"
        graph = {name: targets for name, targets in graph.items() if name not in leaves}


def test_modules_below_the_face_do_not_import_the_package() -> None:
    """``from dflash_local import X`` inside its own modules works only by luck of the order."""

    def allowed(name: str, found: Import) -> bool:
        return group(name) not in ("face", "convert") or found.module != PACKAGE

    assert violations(allowed) == []


# ---- what an import does -----------------------------------------------------------------------

REPORT = """
import json, sys, threading
before = set(sys.modules)
{statement}
json.dump({{
    "modules": sorted({{name.split(".")[0] for name in sys.modules}}),
    "all": sorted(sys.modules),
    "threads": [thread.name for thread in threading.enumerate()],
}}, open(sys.argv[1], "w"))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "statement",
    [
        "import dflash_local; dflash_local.Llama",
        "import dflash_local.convert",
        "from dflash_local.convert import cli",
        "from dflash_local import cli",
        "from dflash_local.cli import chat",
        "from dflash_local.cli import main; assert main(['--version']) == 0",
        "from dflash_local.cli import main; assert main(['--help']) == 0",
    ],
)
def test_an_import_is_light_silent_and_starts_no_thread(statement: str, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", REPORT.format(statement=statement), str(out)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert set(report["modules"]) & HEAVY == set()
    assert report["threads"] == ["MainThread"]
    if "main(" not in statement:
        assert done.stdout == ""
    own = [line for line in done.stderr.splitlines() if PACKAGE in line or "/cli/" in line]
    assert own == []


@pytest.mark.parametrize("module", ["dflash_local", "dflash_local.cli", "dflash_local.convert"])
def test_libllama_is_loaded_when_it_is_needed(module: str) -> None:
    code = f"import sys, {module}; sys.exit('llama_cpp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_importing_prints_nothing_at_all(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import dflash_local; dflash_local.Llama"],
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_every_public_name_is_there() -> None:
    import dflash_local

    assert len(dflash_local.__all__) == len(set(dflash_local.__all__))
    for name in dflash_local.__all__:
        assert hasattr(dflash_local, name)
        assert name in dir(dflash_local)
    with pytest.raises(AttributeError, match="no attribute 'Lama'"):
        _ = dflash_local.Lama  # type: ignore[attr-defined]
    assert (ROOT / "dflash_local" / "py.typed").is_file()
