"""What is installed, and who may import whom."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("analysis", "probes", "servers", "tracer")
MAY_IMPORT = {
    "analysis": {"analysis"},
    "probes": {"probes"},
    "servers": {"servers"},
    "tracer": {"tracer", "probes", "servers"},
}
HEAVY = ("numpy", "pandas", "pyarrow", "bcc", "matplotlib", "rich", "pyroute2", "psutil")


def sources(package: str) -> Iterator[Path]:
    return (ROOT / package).rglob("*.py")


def imports(path: Path, everywhere: bool) -> set[str]:
    """Return the top-level names that a file imports: everywhere in it, or outside functions."""
    tree = ast.parse(path.read_text())
    inside = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if node in inside and not everywhere:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_its_layer_may(package: str) -> None:
    forbidden = set(PACKAGES) - MAY_IMPORT[package]
    for path in sources(package):
        everywhere = package != "tracer"  # tracer's verbs import analysis when they run
        assert not imports(path, everywhere) & forbidden, path


def test_only_the_verbs_of_tracer_and_what_is_live_import_analysis() -> None:
    for path in sources("tracer"):
        if path.parent.name not in ("commands", "live"):
            assert "analysis" not in imports(path, everywhere=True), path


def test_no_server_file_bears_the_name_of_a_standard_module() -> None:
    names = {path.stem for path in sources("servers")}
    assert not names & set(sys.stdlib_module_names)


def test_the_command_line_imports_nothing_heavy() -> None:
    code = "import sys; from tracer.cli import build_parser; build_parser(); "
    code += f"print(*[name for name in {HEAVY!r} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).split() == []


def test_every_package_says_what_lives_in_it() -> None:
    for package in PACKAGES:
        assert ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text())), package


def test_a_wheel_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    code = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(tmp_path)]
    name = subprocess.check_output(command, text=True, cwd=ROOT).split()[-1]
    with zipfile.ZipFile(tmp_path / name) as wheel:
        held = set(wheel.namelist())
    files = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files <= held
    assert any(path.endswith(".bpf.c") for path in held)
    assert "probes/shim/include/linux/kconfig.h" in held
    assert not {path.partition("/")[0] for path in held if "dist-info" not in path} - set(PACKAGES)


def test_every_bpf_program_carries_its_licence() -> None:
    for path in (ROOT / "probes" / "bpf").glob("*.c"):
        assert "SPDX-License-Identifier: GPL-2.0-only OR MIT" in path.read_text()[:200], path


def requirements(lock: str) -> dict[str, str]:
    """Return the versions that a lock file pins, by name."""
    lines = (ROOT / lock).read_text().splitlines()
    found = (re.match(r"([a-z0-9-]+)==([^ ]+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["dependencies"]) <= requirements("requirements.lock").keys()
    extras = project["optional-dependencies"]
    assert {*extras["dev"], *extras["setup"]} <= requirements(".ci/requirements.lock").keys()


def test_both_lock_files_pin_the_same_versions() -> None:
    runtime, dev = requirements("requirements.lock"), requirements(".ci/requirements.lock")
    assert runtime and runtime.items() <= dev.items()
