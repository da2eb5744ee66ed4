"""The initramfs and the job that the lab's guest is given."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from tracer.errors import IophaseError
from tracer.lab_guest import END_OF_JOB, Job, initramfs
from tracer.lab_kernels import CachedKernel
from tracer.supported_kernels import KERNELS

RELEASE = "6.1.0-0-amd64"


@pytest.fixture
def kernel(tmp_path: Path) -> CachedKernel:
    """A cache entry with four modules that depend on one another, and no kernel."""
    modules = tmp_path / "lib" / "modules" / RELEASE
    modules.mkdir(parents=True)
    (tmp_path / "release").write_text(RELEASE + "\n")
    (tmp_path / "busybox").write_bytes(b"a program")
    (modules / "modules.dep").write_text(
        "9p.ko: 9pnet.ko netfs.ko\nnetfs.ko:\n9pnet.ko: netfs.ko\n"
    )
    for name in ("9p", "9pnet", "netfs"):
        (modules / f"{name}.ko").write_bytes(name.encode())
    return CachedKernel(KERNELS[0], tmp_path)


def listing(archive: bytes) -> dict[str, bytes]:
    """Return name -> content of a "newc" archive, read by its own rules."""
    entries: dict[str, bytes] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[i : i + 8], 16) for i in range(at + 6, at + 110, 8)]
        size, name_size = fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        at = (at + 110 + name_size + 3) & ~3
        if name == "TRAILER!!!":
            return entries
        entries[name] = archive[at : at + size]
        at = (at + size + 3) & ~3


def test_the_initramfs_holds_the_modules_in_the_order_in_which_they_load(
    kernel: CachedKernel,
) -> None:
    entries = listing(initramfs(kernel).read_bytes())
    assert entries["modules/order"] == b"netfs.ko\n9pnet.ko\n9p.ko\n"
    assert entries["modules/9p.ko"] == b"9p"
    assert entries["bin/busybox"] == b"a program"
    assert entries["init"].startswith(b"#!/bin/sh\n")


def test_the_initramfs_is_built_once_and_an_outdated_one_goes(kernel: CachedKernel) -> None:
    outdated = kernel.directory / "initramfs-0123456789ab.cpio"
    outdated.touch()
    first = initramfs(kernel)
    written = first.stat().st_mtime_ns
    assert initramfs(kernel) == first
    assert first.stat().st_mtime_ns == written
    assert list(kernel.directory.glob("initramfs-*")) == [first]


def test_an_initramfs_that_finds_no_room_is_one_line(
    kernel: CachedKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_half(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:1000])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(IophaseError) as caught:
        initramfs(kernel)
    assert str(caught.value) == (
        f"cannot keep the initramfs of kernel {kernel.kernel.series} in {kernel.directory}: "
        "No space left on device; XDG_CACHE_HOME names another place"
    )
    assert not list(kernel.directory.glob("initramfs-*"))


def test_a_job_reaches_the_command_as_it_was_given(kernel: CachedKernel, tmp_path: Path) -> None:
    words = ["printf", "%s|", "two words", "it's", '"$HOME" `id` \\', "*", ""]
    job = Job(words, tmp_path, tmp_path, {"GREETING": "a 'b' $c"}, (256, 512))
    script = job.script(kernel)
    assert script.endswith(f"{END_OF_JOB}\n")
    run = script + 'run; command=printf; run() { :; }; echo "$directory"\n'
    done = subprocess.run(
        ["sh", "-c", run.replace("ulimit -l unlimited", ":")], capture_output=True, text=True
    )
    assert done.stdout == 'two words|it\'s|"$HOME" `id` \\|*||' + f"{tmp_path}\n"


def test_a_job_sets_the_environment_and_the_limits(kernel: CachedKernel, tmp_path: Path) -> None:
    report = 'echo "$GREETING"; ulimit -Sn; ulimit -Hn'
    job = Job(["sh", "-c", report], tmp_path, tmp_path, {"GREETING": "a 'b' $c"}, (256, 512))
    run = job.script(kernel).replace("ulimit -l unlimited", ":") + "run\n"
    done = subprocess.run(["sh", "-c", run], capture_output=True, text=True)
    assert done.stdout == "a 'b' $c\n256\n512\n"
