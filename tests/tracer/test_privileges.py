"""Dropping privileges, each time in a process of its own: there is no way back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tracer import privileges

NOBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run the suite with sudo")


def in_child(code: str, **environment: str) -> str:
    """Run ``code`` in a new interpreter and return what it printed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SUDO_")}
    process = subprocess.run(
        [sys.executable, "-c", code],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


DROP = "import os; from tracer.privileges import drop, effective; left = drop()\n"
EFFECTIVE = "open('/proc/self/status').read().split('CapEff:')[1].split()[0]"


@as_root
def test_only_the_kept_capabilities_remain() -> None:
    mask = int(in_child(DROP + f"print({EFFECTIVE})"), 16)
    wanted = sum(1 << privileges.CAPABILITIES[name] for name in privileges.KEPT)
    assert mask and mask & ~wanted == 0


@as_root
def test_what_is_left_is_reported() -> None:
    left = in_child(DROP + "assert left == effective(); print(*sorted(left))").split()
    assert left and set(left) <= set(privileges.KEPT)


@as_root
def test_dropped_root_cannot_mount() -> None:
    mount = "import ctypes; c = ctypes.CDLL(None, use_errno=True)\n"
    mount += "print(c.mount(b'none', b'/tmp', b'tmpfs', 0, None), ctypes.get_errno())"
    assert in_child(DROP + mount) == "-1 1"  # EPERM


@as_root
def test_a_program_started_afterwards_regains_nothing() -> None:
    run = (
        "import subprocess; print(subprocess.check_output(['grep', 'CapEff', '/proc/self/status'],"
    )
    mask = int(in_child(DROP + run + " text=True))").split()[1], 16)
    kept = sum(1 << privileges.CAPABILITIES[name] for name in privileges.KEPT)
    assert mask & ~kept == 0


@as_root
def test_under_sudo_the_process_becomes_the_caller_and_keeps_the_capabilities(
    tmp_path: Path,
) -> None:
    tmp_path.chmod(0o777)
    code = DROP + f"open({str(tmp_path / 'file')!r}, 'w').close(); print(os.getuid(), *left)"
    uid, *left = in_child(code, SUDO_UID=str(NOBODY), SUDO_GID=str(NOBODY)).split()
    assert (int(uid), set(left) >= {"CAP_KILL"}) == (NOBODY, True)
    made = (tmp_path / "file").stat()
    assert (made.st_uid, made.st_gid) == (NOBODY, NOBODY)


@as_root
def test_files_of_others_can_still_be_read(tmp_path: Path) -> None:
    secret = tmp_path / "maps"
    secret.write_text("kept")
    secret.chmod(0o600)
    code = DROP + f"print(open({str(secret)!r}).read())"
    assert in_child(code, SUDO_UID=str(NOBODY), SUDO_GID=str(NOBODY)) == "kept"


@as_root
def test_a_command_that_runs_as_root_can_still_be_stopped() -> None:
    with subprocess.Popen(["sleep", "60"]) as command:
        code = DROP + f"os.kill({command.pid}, 15)"
        in_child(code, SUDO_UID=str(NOBODY), SUDO_GID=str(NOBODY))
        assert command.wait(10) == -15


@pytest.mark.live
def test_bpf_programs_can_still_be_loaded() -> None:
    code = "import tests.conftest as c\n" + DROP + "print(c.refusal())"
    assert in_child(code, SUDO_UID=str(NOBODY), SUDO_GID=str(NOBODY)) == "None"


def test_without_privileges_nothing_happens() -> None:
    code = "import os\nif os.geteuid() == 0:\n    os.setgid(65534); os.setuid(65534)\n"
    assert in_child(code + DROP + "print(len(left), os.getuid() != 0)") == "0 True"


@pytest.mark.parametrize(
    ("uid", "gid", "expected"),
    [("1000", "100", (1000, 100)), ("0", "0", None), ("x", "1", None), ("1000", None, None)],
)
def test_the_owner_is_who_called_sudo(
    monkeypatch: pytest.MonkeyPatch, uid: str, gid: str | None, expected: tuple[int, int] | None
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("SUDO_UID", uid)
    if gid is None:
        monkeypatch.delenv("SUDO_GID", raising=False)
    else:
        monkeypatch.setenv("SUDO_GID", gid)
    assert privileges.owner() == expected


def test_without_root_nobody_else_is_the_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("SUDO_UID", "1001")
    monkeypatch.setenv("SUDO_GID", "1001")
    assert privileges.owner() is None


@as_root
def test_what_root_made_is_given_to_the_caller_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, others = tmp_path / "made", tmp_path / "made" / "others"
    made.mkdir()
    (made / "rows").touch()
    others.touch()
    os.chown(others, NOBODY - 1, NOBODY - 1)
    outside = tmp_path / "outside"
    outside.touch()
    (made / "link").symlink_to(outside)
    monkeypatch.setenv("SUDO_UID", str(NOBODY))
    monkeypatch.setenv("SUDO_GID", str(NOBODY))
    privileges.give_to_owner(made)
    assert {made.stat().st_uid, (made / "rows").stat().st_uid} == {NOBODY}
    assert (others.stat().st_uid, outside.stat().st_uid) == (NOBODY - 1, 0)
