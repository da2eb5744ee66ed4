"""The trials by themselves: what they say of the kernel is true without tracing, too."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from servers.models import by_name


def said(program: str, *arguments: str) -> dict[str, Any]:
    """Return what a trial prints when it is let go."""
    command = [sys.executable, "-m", f"tracer.trials.{program}", *arguments]
    done = subprocess.run(
        command, input="go\n", capture_output=True, text=True, timeout=60, check=True
    )
    ready, answer = done.stdout.splitlines()
    assert ready == "ready"
    content: dict[str, Any] = json.loads(answer)
    return content


def test_a_descriptor_of_epoll_cannot_be_mapped() -> None:
    assert said("epoll_memory")["mmap_error"] == "ENODEV"


def test_the_kernels_select_takes_more_than_1024_descriptors() -> None:
    answer = said("select_limit")
    assert answer["nfds"] > 1024
    assert answer["ready"] == 1


def test_the_two_ways_of_epoll_watch_by_descriptors_of_their_own() -> None:
    answer = said("edge_triggered")
    assert answer["edge_fd"] != answer["level_fd"]


@pytest.mark.parametrize("interface", ["posix-aio", "native-aio", "io_uring", "io_uring-sqpoll"])
def test_every_interface_receives_all_rounds(interface: str) -> None:
    if (reason := by_name(interface).missing()) is not None:
        pytest.skip(reason)
    answer = said("asynchronous_receive", interface)
    assert answer["rounds"] == 41
    # only native AIO keeps the thread from counting meanwhile
    assert (answer["counted"] > 0) == (interface != "native-aio")


def test_a_trial_that_is_not_let_go_does_nothing() -> None:
    command = [sys.executable, "-m", "tracer.trials.select_limit"]
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("ready\n", 0)
