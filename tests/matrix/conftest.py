"""One program for all tests: compiled once, attached by one backend after the other."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from probes.plan import BACKENDS, Backend, Plan, make_plan, refusals
from probes.program import Program

IN_LAB = "IOPHASE_LAB" in os.environ
"""The lab's kernels refuse no backend: there every one of them must work."""


@pytest.fixture(scope="session")
def plans(live: None) -> dict[Backend, Plan]:
    """The attach plan of each backend that this host allows."""
    refused = refusals()
    return {backend: make_plan(backend) for backend in BACKENDS if backend not in refused}


@pytest.fixture(scope="session")
def compiled(plans: dict[Backend, Plan]) -> Iterator[Program]:
    """A program that can be attached by any of the plans; it is not attached."""
    first, *further = plans.values()
    program = Program(first, further=further)
    yield program
    program.close()


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request: pytest.FixtureRequest, plans: dict[Backend, Plan]) -> Backend:
    name: Backend = request.param
    if name not in plans:
        reason = f"{name}: {refusals()[name]}"
        if IN_LAB:
            pytest.fail(reason, pytrace=False)
        pytest.skip(f"{reason} (try 'make lab KERNEL=6.1')")
    return name


@pytest.fixture
def program(backend: Backend, compiled: Program, plans: dict[Backend, Plan]) -> Program:
    """The program, attached by ``backend``."""
    if not compiled.attached or compiled.plan is not plans[backend]:
        compiled.detach()
        compiled.attach(plans[backend])
    return compiled


@pytest.fixture
def best(compiled: Program, plans: dict[Backend, Plan]) -> Program:
    """The program, attached by the best backend of this kernel."""
    plan = next(iter(plans.values()))
    if not compiled.attached or compiled.plan is not plan:
        compiled.detach()
        compiled.attach(plan)
    return compiled
