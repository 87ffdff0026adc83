"""What may include what, of the C++ sources."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
STANDARD = re.compile(r"^[a-z_]+$")  # <vector>, <cstdint>
SYSTEM = {"dlfcn.h", "windows.h"}
#: folder -> prefixes of our own files, and of others'
ARROWS = {
    "core": (("core/",), ()),
    "llama": (("core/", "llama/"), ()),
    "bindings": (("core/", "llama/", "bindings/"), ("pybind11/", "Python.h")),
}


@pytest.mark.parametrize("folder", ARROWS)
def test_cpp_includes_point_down(folder: str) -> None:
    ours, others = ARROWS[folder]
    files = [*(ROOT / "cpp" / folder).glob("*.h"), *(ROOT / "cpp" / folder).glob("*.cpp")]
    includes = [
        (path.name, quote, name)
        for path in files
        for quote, name in INCLUDE.findall(path.read_text("utf-8"))
    ]
    assert len(includes) > 10
    for path, quote, name in includes:
        if quote == '"':
            assert name.startswith(ours), f"{path} includes {name}"
            assert (ROOT / "cpp" / name).is_file()
        else:
            system = folder == "llama" and path == "api.cpp" and name in SYSTEM
            assert STANDARD.match(name) or name.startswith(others or ("-",)) or system, (
                f"{path} includes <{name}>"
            )
