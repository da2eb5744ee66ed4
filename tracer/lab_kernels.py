"""Stock Debian kernels for the lab: where they come from, and the cache they live in.

Works with the machine's own apt sources (read, never changed) through a private apt configuration.
"""

from __future__ import annotations

import collections
import fcntl
import lzma
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tracer.errors import USAGE, IophaseError
from tracer.supported_kernels import KERNELS, Kernel

__all__ = ("CachedKernel", "cache_directory", "fetch", "keeping", "kernel_named")


BUSYBOX_SUITE = "bookworm"
"""A statically linked busybox is the initramfs's only program; any release's will do."""

DEBIAN_RELEASES = (
    *("bullseye", "bookworm", "trixie", "forky", "duke", "sid"),
    *("oldoldstable", "oldstable", "stable", "testing", "unstable"),
)
"""Suites by which Debian's own archive is told from others in the machine's apt sources."""

SPACE_NEEDED = 700 << 20
"""Bytes free that a first download needs: at most 125 MiB of packages, 100 MiB of package lists,
and what is unpacked of them (30 MiB), with room to spare."""

MODULES_KEPT = re.compile(
    r"kernel/("
    r"net/(9p|802|8021q|bridge|core|ipv4|ipv6|llc|mptcp|netlink|packet|sched|tls|unix|vmw_vsock|xdp)/"
    r"|fs/(9p|fscache|netfs|overlayfs)/"
    r"|drivers/(virtio/|char/virtio_console|net/(veth|dummy|ifb|tun|tap|net_failover)\.)"
    r"|(lib|arch/x86/crypto|crypto)/[^/]*crc"
    r")"
)
"""Of some 4,000 modules, those that boot the guest and those that make networks in it."""


@dataclass(frozen=True)
class CachedKernel:
    """A kernel on this machine, ready to boot."""

    kernel: Kernel
    directory: Path

    @property
    def release(self) -> str:
        """What ``uname -r`` prints in it."""
        return (self.directory / "release").read_text().strip()

    @property
    def image(self) -> Path:
        """The kernel as an ELF file, decompressed."""
        return self.directory / "vmlinux"

    @property
    def busybox(self) -> Path:
        """A static busybox from the same download."""
        return self.directory / "busybox"

    @property
    def modules(self) -> Path:
        """What is ``/lib/modules/RELEASE`` in the guest, decompressed, with ``modules.dep``."""
        return self.directory / "lib" / "modules" / self.release


def kernel_named(series: str) -> Kernel:
    """Return the supported kernel of this series ("6.1"); raise ``IophaseError`` for any other."""
    for kernel in KERNELS:
        if kernel.series == series:
            return kernel
    known = ", ".join(kernel.series for kernel in KERNELS)
    raise IophaseError(f"no kernel {series!r} in the lab: choose one of {known}", USAGE)


def cache_directory() -> Path:
    """Return the lab's cache, ``$XDG_CACHE_HOME/iophase/lab`` or ``~/.cache/iophase/lab``."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "iophase" / "lab"


def fetch(kernel: Kernel, *, progress: bool = True) -> CachedKernel:
    """Return the kernel from the cache, downloading it first when it is not there.

    What is cached stays as it is: remove its directory to get the mirror's newest of the series.
    Raises ``IophaseError`` without mirror, keyring, apt, space, or when the series is not there.
    """
    cache = cache_directory()
    final = cache / kernel.series
    if (final / "release").exists():
        return CachedKernel(kernel, final)
    with keeping(f"kernel {kernel.series}", cache):
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f"{kernel.series}.lock"):
            if not (final / "release").exists():
                _require_space(cache)
                partial = cache / f"{kernel.series}.partial"
                shutil.rmtree(partial, ignore_errors=True)
                try:
                    _download(kernel, partial, progress=progress)
                    partial.rename(final)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
    return CachedKernel(kernel, final)


@contextmanager
def keeping(what: str, place: Path) -> Iterator[None]:
    """Say what cannot be kept in the cache, and why, when the block cannot write there."""
    try:
        yield
    except OSError as error:
        raise IophaseError(
            f"cannot keep {what} in {place}: {error.strerror or error}; "
            "XDG_CACHE_HOME names another place"
        ) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _require_space(cache: Path) -> None:
    free = shutil.disk_usage(cache).free
    if free < SPACE_NEEDED:
        raise IophaseError(
            f"cannot keep a kernel in {cache}: {free >> 20} MiB free, {SPACE_NEEDED >> 20} MiB "
            "needed; XDG_CACHE_HOME names another place"
        )


def _download(kernel: Kernel, directory: Path, *, progress: bool) -> None:
    """Download, verify (apt does) and unpack one kernel into ``directory``."""
    apt = _PrivateApt(directory / "apt", (kernel.suite, BUSYBOX_SUITE))
    release = _newest_release(apt.package_names(f"linux-image-{kernel.series}"), kernel)
    if progress:
        _say(f"downloading Debian's {release} into {directory.parent} (once)")
    # From 6.19 on linux-image is empty and depends on linux-binary (vmlinuz) and linux-modules.
    wanted = {f"linux-{part}-{release}" for part in ("image", "binary", "modules")}
    packages = apt.download([*sorted(wanted & apt.package_names("linux-")), "busybox-static"])
    for package in packages:
        _unpack(package, release, directory)
    for needed in ("vmlinuz", "busybox"):
        if not (directory / needed).exists():
            raise IophaseError(f"Debian's packages of {release} hold no {needed}")
    (directory / "vmlinux").write_bytes(_decompressed((directory / "vmlinuz").read_bytes()))
    (directory / "vmlinuz").unlink()
    _run(
        [str(directory / "busybox"), "depmod", "-b", str(directory), release],
        f"cannot index the modules of {release}",
    )
    shutil.rmtree(directory / "apt")
    (directory / "release").write_text(release + "\n")


def _newest_release(names: set[str], kernel: Kernel) -> str:
    """Choose the newest plain amd64 release: neither cloud (lacks 9p) nor rt nor unsigned."""
    pattern = re.compile(
        rf"linux-image-({re.escape(kernel.series)}\.\d+(-\d+|\+deb\d+(\.\d+)?)-amd64)"
    )
    releases = [match[1] for name in names if (match := pattern.fullmatch(name))]
    if not releases:
        raise IophaseError(
            f"the mirror's {kernel.suite} holds no kernel {kernel.series} (any more): "
            "choose another kernel"
        )
    return max(releases, key=lambda release: [int(part) for part in re.findall(r"\d+", release)])


def _decompressed(image: bytes) -> bytes:
    """Return the ELF file inside a bzImage, for QEMU to load as it is (PVH entry).

    Otherwise the guest unpacks it under emulation: 1 s with zstd, 3 s with xz, at each start. The
    header's fields are those of the kernel's Documentation/arch/x86/boot.rst.
    """
    (setup_sectors,) = struct.unpack_from("<B", image, 0x1F1)
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = image[start : start + length - 4]  # four bytes of size follow the compressed data
    if payload.startswith(b"\xfd7zXZ"):
        return lzma.decompress(payload)
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        import pyarrow

        stream = pyarrow.CompressedInputStream(pyarrow.BufferReader(payload), "zstd")
        return bytes(stream.read())
    raise IophaseError("the kernel's image is compressed in a way that the lab does not know")


def _unpack(package: Path, release: str, directory: Path) -> None:
    """Take the image, the modules worth keeping and busybox out of one package, then drop it."""
    modules = f"lib/modules/{release}/"
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE
    ) as unpacker:
        assert unpacker.stdout is not None
        with tarfile.open(fileobj=unpacker.stdout, mode="r|") as archive:
            for member in archive:
                name = member.name.removeprefix("./").removeprefix("usr/")
                if not member.isfile():
                    continue
                if name in (f"boot/vmlinuz-{release}", f"{modules}vmlinuz"):
                    target = directory / "vmlinuz"
                elif name == "bin/busybox":
                    target = directory / "busybox"
                elif name.startswith(modules) and _module_kept(name.removeprefix(modules)):
                    target = directory / name.removesuffix(".xz")
                else:
                    continue
                source = archive.extractfile(member)
                assert source is not None
                content = source.read()
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(lzma.decompress(content) if name.endswith(".xz") else content)
                target.chmod(0o755 if target.name == "busybox" else 0o644)
        unpacker.stdout.read()
    if unpacker.returncode:
        raise IophaseError(f"cannot unpack {package.name}: dpkg-deb failed")
    package.unlink()


def _module_kept(name: str) -> bool:
    return ".." not in name and (name == "modules.builtin" or bool(MODULES_KEPT.match(name)))


class _PrivateApt:
    """apt with its own lists and cache, the machine's mirror, proxies and archive keys."""

    def __init__(self, root: Path, suites: tuple[str, ...]) -> None:
        self.archives = root / "archives"
        self.sources = root / "sources.list"
        root.mkdir(parents=True, mode=0o700)  # a proxy's password is nobody else's business
        for part in ("lists/partial", "archives/partial"):
            (root / part).mkdir(parents=True)
        (root / "status").touch()
        settings = {
            "Dir::State": root,
            "Dir::State::lists": root / "lists",
            "Dir::State::status": root / "status",
            "Dir::Cache": root,
            "Dir::Etc::sourcelist": self.sources,
            # Neither the machine's sources nor its hooks: those want to write as root.
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::parts": "/dev/null",
            "Dir::Etc::main": "/dev/null",
            "Acquire::Languages": "none",
            # The cache is in a home directory, which apt's own user may not enter.
            "APT::Sandbox::User": "",
            "APT::Architecture": "amd64",
            "APT::Get::List-Cleanup": "false",
        }
        config = root / "apt.conf"
        config.write_text(
            _machine_proxies() + "".join(f'{key} "{value}";\n' for key, value in settings.items())
        )
        self.environment = os.environ | {"APT_CONFIG": str(config), "LC_ALL": "C"}
        keyring = _keyring()
        lines = [self._working_source(suite, keyring) for suite in suites]
        self.sources.write_text("".join(lines))

    def _working_source(self, suite: str, keyring: Path) -> str:
        """Return the line of a source with this suite, signed by Debian, its lists downloaded."""
        failure = None
        for mirror in _mirrors(suite):
            line = f"deb [arch=amd64 signed-by={keyring}] {mirror} {suite} main\n"
            self.sources.write_text(line)
            try:
                self._apt("apt-get", "update", "--error-on=any")
                return line
            except IophaseError as error:
                failure = failure or error
        assert failure is not None
        raise failure

    def package_names(self, prefix: str) -> set[str]:
        """Return the names of all packages that begin with ``prefix``."""
        return set(self._apt("apt-cache", "pkgnames", prefix).split())

    def download(self, packages: list[str]) -> list[Path]:
        """Download packages, verified by apt, and return their files."""
        self._apt("apt-get", "download", *packages, directory=self.archives)
        return sorted(self.archives.glob("*.deb"))

    def _apt(self, *command: str, directory: Path | None = None) -> str:
        return _run(
            [*command, "-q"],
            "the mirror of this machine's apt sources gives no kernel",
            environment=self.environment,
            directory=directory,
        )


def _keyring() -> Path:
    for suffix in ("pgp", "gpg"):
        keyring = Path(f"/usr/share/keyrings/debian-archive-keyring.{suffix}")
        if keyring.exists():
            return keyring
    raise IophaseError(
        "the keys of the Debian archive are not here: install the package debian-archive-keyring"
    )


def _mirrors(suite: str) -> list[str]:
    """Return the addresses at which this machine's own apt sources have suites of this kind."""
    security = suite.endswith("-security")
    found = collections.Counter(
        address
        for address, release in _machine_sources()
        if re.sub("-(updates|backports|security)$", "", release) in DEBIAN_RELEASES
        and release.endswith("-security") == security
    )
    if not found:
        archive = "security archive" if security else "archive"
        raise IophaseError(
            f"this machine's apt sources name no mirror of the Debian {archive}, "
            f"and the lab takes {suite} from there: add one to /etc/apt/sources.list.d"
        )
    # Others name their suites like Debian's, but seldom with updates and backports beside them.
    return [address for address, _ in found.most_common()]


def _machine_sources() -> list[tuple[str, str]]:
    """Return (address, suite) of each of this machine's sources, as apt itself reads them."""
    listing = _run(["apt-get", "update", "--print-uris"], "cannot read this machine's apt sources")
    return re.findall(r"^'(.*)/dists/([^/']+)/InRelease' ", listing, re.MULTILINE)


def _machine_proxies() -> str:
    """Return the lines of this machine's apt configuration that lead to its mirror."""
    dump = _run(["apt-config", "dump"], "cannot read this machine's apt configuration")
    kept = re.compile(r"Acquire::(https?|ftp|tor)::.*|Acquire::Retries .*", re.IGNORECASE)
    return "".join(line + "\n" for line in dump.splitlines() if kept.fullmatch(line))


def _run(
    command: list[str],
    failure: str,
    *,
    environment: dict[str, str] | None = None,
    directory: Path | None = None,
) -> str:
    """Run a command and return its output; raise ``IophaseError`` with its last complaint."""
    try:
        done = subprocess.run(
            command,
            env=environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError:
        raise IophaseError(
            f"{failure}: no {command[0]} on this machine (the lab needs a Debian-like system)"
        ) from None
    if done.returncode:
        complaints = [line for line in done.stderr.splitlines() if line.startswith(("E:", "W:"))]
        reason = (complaints or done.stderr.splitlines() or ["it failed"])[0]
        raise IophaseError(f"{failure}: {command[0]}: {reason.removeprefix('E:').strip()}")
    return done.stdout


def _say(text: str) -> None:
    print(f"iophase: lab: {text}", file=sys.stderr, flush=True)
