"""The wheel of llama-cpp-python that run.py builds: with which options, and where it is kept."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import venv
from pathlib import Path

import pip
import pytest
from test_run import ROOT, run

import llama_wheel
from llama_wheel import LlamaWheel, cmake_args

NAME = "llama-cpp-python"

# A package of that name which builds in no time, and tells what it was built with.
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "llama-cpp-python"
version = "1.0"
"""
BACKEND = """
import os, zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    info, name = "llama_cpp_python-1.0.dist-info", "llama_cpp_python-1.0-py3-none-any.whl"
    files = {
        "llama_cpp.py": f"CMAKE_ARGS = {os.environ['CMAKE_ARGS']!r}",
        f"{info}/METADATA": "Metadata-Version: 2.1\\nName: llama-cpp-python\\nVersion: 1.0\\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    return name
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables under which pip finds that package, and nothing else."""
    folder = tmp_path_factory.mktemp("index")
    with tarfile.open(folder / "llama_cpp_python-1.0.tar.gz", "w:gz") as sdist:
        texts = {"pyproject.toml": PROJECT, "backend.py": BACKEND, "PKG-INFO": "Name: x"}
        for name, text in texts.items():
            entry = tarfile.TarInfo(f"llama_cpp_python-1.0/{name}")
            entry.size = len(text)
            sdist.addfile(entry, io.BytesIO(text.encode()))
    others = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}
    return {**others, **pip, "CMAKE_ARGS": "-DGGML_CUDA=ON"}


# ---- which options -------------------------------------------------------------------------


def test_the_users_options_stay_and_ours_are_added_unless_they_name_the_same() -> None:
    assert cmake_args("") == ["-DGGML_RPC=ON", "-DLLAVA_BUILD=OFF"]
    assert cmake_args("-DGGML_CUDA=ON -DCMAKE_CUDA_FLAGS='-a -b'") == [
        "-DGGML_CUDA=ON",
        "-DCMAKE_CUDA_FLAGS=-a -b",
        "-DGGML_RPC=ON",
        "-DLLAVA_BUILD=OFF",
    ]
    for users in ("-DGGML_RPC=OFF", "-DGGML_RPC:BOOL=OFF", "-D GGML_RPC=OFF"):
        assert cmake_args(users) == [*users.split(), "-DLLAVA_BUILD=OFF"]


def test_a_wheel_is_known_by_all_that_it_depends_on(tmp_path: Path) -> None:
    def key(requirement: str = NAME, **variables: str) -> str:
        return LlamaWheel(requirement, variables, tmp_path).key

    keys = [
        key(),
        key(f"{NAME}>=1"),
        key(CMAKE_ARGS="-DGGML_METAL=ON"),
        key(CMAKE_ARGS="-DGGML_RPC=OFF"),
        key(CC="clang"),
        key(CXXFLAGS="-g"),
    ]
    assert len(set(keys)) == len(keys)
    assert key(HOME="/elsewhere", CMAKE_ARGS="-DGGML_RPC=ON -DLLAVA_BUILD=OFF") == key()


def test_another_checkout_knows_the_same_wheel(tmp_path: Path) -> None:
    for name in ("llama_wheel.py", "cmake"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    code = "import llama_wheel; print(llama_wheel.LlamaWheel('x').key)"
    keys = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=cwd, capture_output=True, check=True
        ).stdout
        for cwd in (ROOT, tmp_path)
    }
    assert len(keys) == 1


def test_it_is_kept_beside_the_other_files_of_a_user(tmp_path: Path) -> None:
    from dflash_local.user_folders import cache_dir

    assert llama_wheel.cache_folder() == cache_dir() / "wheels"
    own = {"DFLASH_LOCAL_CACHE": str(tmp_path)}
    assert llama_wheel.cache_folder(own) == tmp_path / "wheels"


# ---- building ------------------------------------------------------------------------------


def test_it_is_built_once_and_kept(environment: dict[str, str], tmp_path: Path) -> None:
    def run_pip(command: list[str], env: dict[str, str]) -> None:
        subprocess.run(command, env=env, check=True, capture_output=True)

    wheel = LlamaWheel(NAME, environment, tmp_path)
    assert wheel.find() is None
    built = wheel.build(Path(sys.executable), run_pip)
    assert built.name == "llama_cpp_python-1.0-py3-none-any.whl"
    assert LlamaWheel(NAME, environment, tmp_path).find() == built
    assert list(tmp_path.iterdir()) == [built.parent]


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(_command: list[str], _env: dict[str, str]) -> None:
        raise run.InstallError("no compiler")

    wheel = LlamaWheel(NAME, {}, tmp_path / "cache")
    with pytest.raises(run.InstallError, match="no compiler"):
        wheel.build(Path(sys.executable), fail)
    assert list((tmp_path / "cache").iterdir()) == []


def test_two_that_build_at_once_end_with_one_whole_wheel(tmp_path: Path) -> None:
    both = threading.Barrier(2)

    def build(command: list[str], _env: dict[str, str]) -> None:
        folder = Path(command[command.index("--wheel-dir") + 1])
        (folder / "a.whl").write_text("half")
        both.wait()
        assert wheel.find() is None, "nobody sees it before it is whole"
        both.wait()
        (folder / "a.whl").write_text("whole")

    wheel = LlamaWheel(NAME, {}, tmp_path)
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(wheel.build(Path(sys.executable), build)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert found[0].read_text() == "whole"
    assert list(tmp_path.iterdir()) == [found[0].parent]


@pytest.mark.slow
def test_an_environment_gets_it_in_place_of_another_of_the_same_version(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "ROOT", tmp_path)
    (tmp_path / "pyproject.toml").write_text(f'dependencies = ["{NAME}>=1"]')
    venv.create(tmp_path / ".venv")
    (site,) = (tmp_path / ".venv").rglob("site-packages")
    (site / "pip.pth").write_text(str(Path(pip.__file__).parent.parent))  # made in no time
    (tmp_path / ".venv" / run.STAMP).write_text("of another installation")
    told = []
    for users in ("-DGGML_CUDA=ON", "-DGGML_METAL=ON"):
        wheel = LlamaWheel(f"{NAME}>=1", {**environment, "CMAKE_ARGS": users}, tmp_path / "cache")
        made = run.Environment(tmp_path / ".venv", [], wheel)
        made.prepare()
        ask = [str(made.python), "-c", "import llama_cpp; print(llama_cpp.CMAKE_ARGS)"]
        told.append(subprocess.run(ask, capture_output=True, text=True, check=True).stdout)
    assert "-DGGML_CUDA=ON -DGGML_RPC=ON" in told[0]
    assert "-DGGML_METAL=ON -DGGML_RPC=ON" in told[1]
    assert all("llama_library_only.cmake" in each for each in told)


# ---- the newest ----------------------------------------------------------------------------


def test_the_newest_version_is_the_registrys(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert run.newest_version(NAME) == "1.0"
    with pytest.raises(run.InstallError, match="no version of no-such-package-of-ours"):
        run.newest_version("no-such-package-of-ours")


def test_the_newest_are_tried_past_our_own_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "newest_version", lambda package: f"99.{len(package)}")
    tried = run.newest_environment()
    assert tried.folder != run.development_environment().folder
    assert tried.llama.requirement == f"{NAME}==99.16"
    packages, ours = tried.requirements
    assert {f"{NAME}==99.16", "gguf==99.4"} <= {*packages}
    assert not any("<" in text for text in packages if text.startswith((NAME, "gguf")))
    names = {text.partition(">")[0].partition("=")[0] for text in packages}
    assert {"numpy", "psutil", "torch", "transformers", "pytest"} <= names
    assert ours[:3] == ["--no-deps", "-e", "."]
