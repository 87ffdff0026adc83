"""run.py: what is installed again, what is not, and how it repairs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _load_run() -> ModuleType:
    sys.path.append(str(ROOT))  # as it finds its other half when it is run
    spec = importlib.util.spec_from_file_location("dflash_local_run", ROOT / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


run = _load_run()


def _checkout(folder: Path) -> Path:
    """A checkout of an empty project, so that an environment is made in a second."""
    (folder / "cpp" / "core").mkdir(parents=True)
    (folder / "cpp" / "core" / "a.cpp").write_text("int a;")
    (folder / "pyproject.toml").write_text('dependencies = ["llama-cpp-python>=1.2"]')
    (folder / "module.py").write_text("")
    return folder


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(run, "ROOT", tmp_path)
    return _checkout(tmp_path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with its environment."""
    checkout = _checkout(tmp_path_factory.mktemp("checkout"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "ROOT", checkout)
        run.Environment(checkout / ".venv", []).prepare()
    return checkout


def test_fingerprint_follows_the_build_and_not_python_files(checkout: Path) -> None:
    seen = [run.fingerprint(checkout, [["-e", "."]])]
    (checkout / "module.py").write_text("edited = True")
    assert run.fingerprint(checkout, [["-e", "."]]) == seen[0]
    seen.append(run.fingerprint(checkout, [["-e", ".[dev]"]]))
    (checkout / "cpp" / "core" / "a.cpp").write_text("int b;")
    seen.append(run.fingerprint(checkout, [["-e", "."]]))
    (checkout / "cpp" / "core" / "a.cpp").rename(checkout / "cpp" / "core" / "b.cpp")
    seen.append(run.fingerprint(checkout, [["-e", "."]]))
    (checkout / "pyproject.toml").write_text("changed")
    seen.append(run.fingerprint(checkout, [["-e", "."]]))
    assert len(set(seen)) == 5


def test_the_requirement_is_the_one_of_pyproject(checkout: Path) -> None:
    assert run.llama_requirement(checkout) == "llama-cpp-python>=1.2"
    assert run.llama_requirement(ROOT).startswith("llama-cpp-python>=")


@pytest.mark.slow
def test_a_failed_install_says_why_and_is_tried_again(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "ROOT", made)
    wish = [["--no-index", "--find-links", str(made), "no-such-package-of-ours"]]
    environment = run.Environment(made / ".venv", wish)
    with pytest.raises(run.InstallError, match="No matching distribution"):
        environment.prepare()
    (environment.folder / "marker").touch()
    with pytest.raises(run.InstallError):
        environment.prepare()
    assert (environment.folder / "marker").exists()


@pytest.mark.slow
def test_an_environment_is_made_once_reused_and_repaired(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "ROOT", made)
    environment = run.Environment(made / ".venv", [])
    environment.prepare()
    capsys.readouterr()
    marker = environment.folder / "marker"
    marker.touch()

    environment.prepare()
    assert capsys.readouterr().err == ""

    (made / "CMakeLists.txt").write_text("changed")
    environment.prepare()
    assert marker.exists(), "a change of the sources installs into the same environment"

    (environment.folder / run.STAMP).unlink()
    environment.prepare()
    assert not marker.exists(), "one without a stamp was interrupted and is made anew"
    assert "making .venv" in capsys.readouterr().err
    assert subprocess.run([environment.python, "-c", "import pip"], check=False).returncode == 0


def test_unknown_commands_get_the_usage() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "run.py", "fly"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "chat" in done.stderr
    assert done.stdout == ""
