"""Which kernels the lab has, where it looks for them, and what it says when it cannot have one."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from probes.catalogue import FUNCTIONS, TRACEPOINTS
from tracer import lab_kernels
from tracer.errors import USAGE, IophaseError
from tracer.lab_kernels import cache_directory, fetch, kernel_named
from tracer.supported_kernels import KERNELS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "iophase" / "lab"


def machine_with_sources(sources: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let apt believe that these are the machine's sources."""
    if shutil.which("apt-get") is None:
        pytest.skip("no apt on this machine")
    (tmp_path / "sources.list").write_text(sources)
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{tmp_path}/sources.list";\nDir::Etc::sourceparts "/dev/null";\n'
        f'Dir::State::lists "{tmp_path}/lists";\nAcquire::Retries "0";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))


def test_an_unknown_kernel_is_refused_with_the_known_ones() -> None:
    with pytest.raises(IophaseError, match=r"no kernel '6\.2' .*5\.10, 6\.1, 6\.12") as caught:
        kernel_named("6.2")
    assert caught.value.exit_code == USAGE


def test_kernels_stand_in_order_of_age() -> None:
    ages = [tuple(map(int, kernel.series.split("."))) for kernel in KERNELS]
    assert ages == sorted(ages)


def test_readme_names_the_supported_kernels_and_the_probes_that_each_lacks() -> None:
    text = (ROOT / "README.md").read_text().partition("## Supported kernels")[2]
    rows = dict(re.findall(r"^\| (\d+\.\d+) \|[^|]*\|([^|]*)\|$", text, re.MULTILINE))
    probes = {probe.name: _version(probe.since) for probe in TRACEPOINTS}
    probes |= {probe.name: _version(probe.since) for probe in FUNCTIONS}
    assert {series: re.findall("`(.*?)`", cell) for series, cell in rows.items()} == {
        kernel.series: [name for name, since in probes.items() if since > _version(kernel.series)]
        for kernel in KERNELS
    }


def _version(text: str) -> list[int]:
    return [int(part) for part in text.split(".")]


def test_the_newest_plain_release_of_the_series_is_chosen() -> None:
    names = {
        "linux-image-6.12.99+deb12-amd64",
        "linux-image-6.12.117+deb12-amd64",
        "linux-image-6.12.118+deb12-cloud-amd64",
        "linux-image-6.12.119+deb12-rt-amd64",
        "linux-image-6.12.120+deb12-amd64-unsigned",
        "linux-image-6.121.1+deb12-amd64",
    }
    assert lab_kernels._newest_release(names, kernel_named("6.12")) == "6.12.117+deb12-amd64"
    old = {"linux-image-6.1.0-9-amd64", "linux-image-6.1.0-56-amd64", "linux-image-6.1-amd64"}
    assert lab_kernels._newest_release(old, kernel_named("6.1")) == "6.1.0-56-amd64"


def test_a_series_that_the_mirror_dropped_is_named() -> None:
    with pytest.raises(IophaseError, match=r"trixie-backports holds no kernel 7\.3"):
        lab_kernels._newest_release({"linux-image-7.4.1+deb13-amd64"}, kernel_named("7.3"))


@pytest.mark.parametrize("place", ["", "relative/path"])
def test_without_a_proper_xdg_cache_home_the_cache_is_under_home(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", place)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "iophase" / "lab"


def test_the_mirrors_are_those_of_the_machine(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_with_sources(
        "deb http://elsewhere.invalid/apt tools-bookworm main\n"
        "deb http://like-debian.invalid/debian forky main\n"
        "deb http://archive.invalid/debian forky main contrib\n"
        "deb http://archive.invalid/debian forky-updates main\n"
        "deb http://security.invalid/debian-security forky-security main\n",
        tmp_path,
        monkeypatch,
    )
    assert lab_kernels._mirrors("trixie-backports") == [
        "http://archive.invalid/debian",
        "http://like-debian.invalid/debian",
    ]
    assert lab_kernels._mirrors("bullseye-security") == ["http://security.invalid/debian-security"]


def test_without_a_mirror_the_line_says_which_is_missing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_with_sources("deb http://archive.invalid/debian sid main\n", tmp_path, monkeypatch)
    with pytest.raises(IophaseError, match="no mirror of the Debian security archive") as caught:
        fetch(kernel_named("6.1"), progress=False)
    assert "\n" not in str(caught.value)
    assert not list(cache.glob("*.partial"))


def test_a_mirror_that_does_not_answer_is_one_line_and_leaves_nothing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "http://127.0.0.1:9/debian"
    machine_with_sources(
        f"deb {address} sid main\ndeb {address}-security sid-security main\n", tmp_path, monkeypatch
    )
    with pytest.raises(IophaseError, match=r"gives no kernel: .*127\.0\.0\.1") as caught:
        fetch(kernel_named("6.1"), progress=False)
    assert "\n" not in str(caught.value)
    assert [path.name for path in cache.iterdir()] == ["6.1.lock"]


def test_a_full_disk_is_found_before_downloading(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5 << 20))
    with pytest.raises(IophaseError, match=f"{cache}: 5 MiB free"):
        fetch(kernel_named("6.1"), progress=False)


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(IophaseError, match=r"cannot keep kernel 6\.1 in .*Not a directory"):
        fetch(kernel_named("6.1"), progress=False)
