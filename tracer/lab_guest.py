"""What runs inside the lab's guest before and after the command: an initramfs and a shell script.

The guest's root is this machine's root file system, read-only over 9p, under an overlay in memory.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tracer.lab_kernels import CachedKernel, keeping

__all__ = ("END_OF_JOB", "PORTS", "Job", "initramfs", "kernel_command_line")

PORTS = ("control", "stdout", "stderr")
"""The virtio ports, in the order of their numbers from 1."""

END_OF_JOB = "#end of job"

BOOT_MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")
"""What the init script needs; their dependencies come along, the rest is loaded on demand."""

APPLETS = ("cat", "chmod", "insmod", "mkdir", "mount", "sh", "sleep", "switch_root")
"""What the init script calls; stage 2 makes itself the links that it needs."""

MESSAGE_BYTES = 500 * 1024
"""The largest 9p message; the kernel clips it to what the virtio transport can carry."""

_SHARE = f"trans=virtio,version=9p2000.L,msize={MESSAGE_BYTES}"

_INIT = f"""\
#!/bin/sh
# Stage 1, in the initramfs: find the disks, which are this machine's directories, and enter them.
export PATH=/bin
fail() {{ echo "iophase: lab: $*" >/dev/console; sleep 1; echo b >/proc/sysrq-trigger; }}
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do
    insmod "/modules/$module" || fail "cannot load $module"
done </modules/order
mount -t 9p -o ro,cache=loose,{_SHARE} root /host ||
    fail "cannot mount the root file system"
mount -t tmpfs -o size=90% memory /memory
mkdir /memory/upper /memory/work
mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work overlay /new ||
    fail "cannot mount the overlay"
for kept in proc sys dev; do mount --move /$kept /new/$kept; done
mount -t tmpfs tmpfs /new/run
mkdir /new/run/iophase-lab
cat /bin/busybox >/new/run/iophase-lab/busybox
cat /stage2 >/new/run/iophase-lab/stage2
chmod 755 /new/run/iophase-lab/busybox
exec switch_root /new /run/iophase-lab/busybox sh /run/iophase-lab/stage2
"""

_STAGE2 = f"""\
# Stage 2, in the root file system: mount what a running system has, run the job, say how it ended.
share={_SHARE}
lab=/run/iophase-lab
for applet in modprobe cat chmod ip kill ln mkdir mkfifo mount sleep sync umount; do
    $lab/busybox ln -s busybox $lab/$applet
done
PATH=$lab
[ -d /dev/shm ] || mkdir /dev/shm
[ -d /dev/pts ] || mkdir /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
mount -t debugfs debugfs /sys/kernel/debug
mount -t securityfs securityfs /sys/kernel/security
ip link set lo up
echo $lab/modprobe >/proc/sys/kernel/modprobe
echo iophase-lab >/proc/sys/kernel/hostname
# What the command has written is safe a second later, even when the guest is ended from outside.
echo 100 >/proc/sys/vm/dirty_expire_centisecs
echo 100 >/proc/sys/vm/dirty_writeback_centisecs
until [ -c /dev/vport0p3 ] || [ -c /dev/vport1p3 ] || [ -c /dev/vport2p3 ]; do sleep 0.02; done
for last in /dev/vport*p3; do port=${{last%3}}; done
exec 3<>${{port}}1
while IFS= read -r line <&3; do
    [ "$line" = "{END_OF_JOB}" ] && break
    echo "$line"
done >$lab/job
. $lab/job
mkdir -p "$modules_at" "$output"
mount --bind "$modules" "$modules_at"
fail() {{ echo "failed $*" >&3; sleep 1000; }}
# noatime: otherwise each first read of a file is a write to the host as well.
mount -t 9p -o "noatime,cache=loose,$share" output "$output" || fail "cannot mount $output"
cd "$directory" || fail "no directory $directory in the guest"
# Through pipes: unlike a virtio port those can be opened again, as /dev/stdout is.
mkfifo $lab/stdout $lab/stderr
cat $lab/stdout >${{port}}2 &
out=$!
cat $lab/stderr >${{port}}3 &
err=$!
echo ready >&3
run </dev/null >$lab/stdout 2>$lab/stderr 3>&-
status=$?
# A process left behind may hold the pipes open.
(sleep 2; kill $out $err) 2>/dev/null &
wait $out $err
cd /
umount "$output" 2>/dev/null || umount -l "$output"
sync
echo "exit $status" >&3
while :; do sleep 1000; done
"""


@dataclass(frozen=True)
class Job:
    """A command to be run in the guest, and where."""

    command: Sequence[str]
    directory: Path
    output: Path
    environment: dict[str, str]
    open_files: tuple[int, int]
    """Soft and hard limit of descriptors."""

    def script(self, kernel: CachedKernel) -> str:
        """Return the shell text that the guest reads from its control port."""
        soft, hard = self.open_files
        exports = "".join(
            f"    export {name}={shlex.quote(value)}\n" for name, value in self.environment.items()
        )
        return (
            f"directory={shlex.quote(str(self.directory))}\n"
            f"output={shlex.quote(str(self.output))}\n"
            f"modules={shlex.quote(str(kernel.modules))}\n"
            f"modules_at=/lib/modules/{kernel.release}\n"
            "run() (\n"
            f"    ulimit -n {hard}\n    ulimit -Sn {soft}\n    ulimit -l unlimited\n"
            f"{exports}"
            f"    exec {shlex.join(self.command)}\n"
            ")\n"
            f"{END_OF_JOB}\n"
        )


def kernel_command_line(tsc_khz: int | None) -> str:
    """Return the guest kernel's parameters.

    The clock is the TSC, because the guest falls back to HPET otherwise; its rate is told (since
    v5.9, bd35c77e32e4), and the timer is not checked, because on a busy host it can be late enough
    to fail ("IO-APIC + timer doesn't work!"); an oops is a panic, and a panic ends QEMU, so that a
    broken kernel is never taken for a slow one.
    """
    rate = "" if tsc_khz is None else f"tsc_early_khz={tsc_khz} "
    return (
        f"console=ttyS0 loglevel=5 tsc=reliable clocksource=tsc {rate}no_timer_check "
        "mitigations=off oops=panic panic=-1 random.trust_cpu=on"
    )


def initramfs(kernel: CachedKernel) -> Path:
    """Return the kernel's initramfs from the cache, building it when this version has none yet.

    Raises ``IophaseError`` when it cannot be written there.
    """
    modules = list(_with_dependencies(kernel, BOOT_MODULES))
    texts = "\0".join((_INIT, _STAGE2, *APPLETS, *modules))
    digest = hashlib.sha256(texts.encode()).hexdigest()[:12]
    path = kernel.directory / f"initramfs-{digest}.cpio"
    if not path.exists():
        with keeping(f"the initramfs of kernel {kernel.kernel.series}", kernel.directory):
            _build(path, kernel, modules)
    return path


def _build(path: Path, kernel: CachedKernel, modules: Sequence[str]) -> None:
    for old in kernel.directory.glob("initramfs-*.cpio"):
        old.unlink(missing_ok=True)
    partial = path.with_suffix(f".partial{os.getpid()}")
    try:
        partial.write_bytes(_archive(kernel, modules))
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def _with_dependencies(kernel: CachedKernel, names: Iterable[str]) -> Iterable[str]:
    """Return paths of modules in the order in which they load; what is built in has none."""
    dependencies: dict[str, list[str]] = {}
    paths: dict[str, str] = {}
    for line in (kernel.modules / "modules.dep").read_text().splitlines():
        path, _, needed = line.partition(":")
        # modules.dep lists the nearest dependency first, and the last to load.
        dependencies[path] = needed.split()[::-1]
        paths[Path(path).stem.replace("-", "_")] = path
    ordered: dict[str, None] = {}

    def add(path: str) -> None:
        for needed in dependencies[path]:
            if needed not in ordered:
                add(needed)
        ordered[path] = None

    for name in names:
        if name in paths:
            add(paths[name])
    return ordered


def _archive(kernel: CachedKernel, modules: Sequence[str]) -> bytes:
    """Return a cpio archive in the kernel's "newc" format (buffer-format.rst), uncompressed."""
    directories = ("bin", "modules", "proc", "sys", "dev", "host", "memory", "new")
    entries = [_entry(name, 0o040755) for name in directories]
    entries.append(_entry("dev/console", 0o020600, device=(5, 1)))
    entries.append(_entry("init", 0o100755, _INIT.encode()))
    entries.append(_entry("stage2", 0o100644, _STAGE2.encode()))
    entries.append(_entry("bin/busybox", 0o100755, kernel.busybox.read_bytes()))
    entries += [_entry(f"bin/{applet}", 0o120777, b"busybox") for applet in APPLETS]
    order = []
    for path in modules:
        order.append(Path(path).name)
        entries.append(
            _entry(f"modules/{order[-1]}", 0o100644, (kernel.modules / path).read_bytes())
        )
    entries.append(_entry("modules/order", 0o100644, "".join(f"{o}\n" for o in order).encode()))
    return b"".join(entries) + _entry("TRAILER!!!", 0)


def _entry(name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    encoded = name.encode() + b"\0"
    # magic, inode, mode, uid, gid, links, mtime, size, device, special device, name, checksum
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(head + encoded) + _padded(content)


def _padded(block: bytes) -> bytes:
    return block + bytes(-len(block) % 4)
