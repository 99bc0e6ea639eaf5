"""Isolation for every test, and the sample bucket behind a real S3 protocol server on loopback."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from faults import FaultServer, serve_faults
from helpers import TINY, find_aws, sandbox
from hypothesis import HealthCheck, settings
from slurm import find_slurm, remove_left_over
from warm import COLD, find_starter, start_snakemake_warm, warm_up_aws

from laion_fmri.sample import SampleServer, sample_objects, serve_sample


def is_loopback(address: Any) -> bool:
    """Whether a socket address stays on this machine."""
    if not isinstance(address, tuple):  # a Unix socket
        return True
    host = address[0]
    try:
        return host in ("localhost", "") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# A busy machine is no failure.
settings.register_profile("ours", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("ours")

# Started in the background by a shell, this process would hand on to all others that interrupts are
# to be ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Tidy up after tests of SLURM that were killed."""
    if not hasattr(session.config, "workerinput") and find_slurm() is None:
        remove_left_over()


#: The real AWS CLI, and what starts a process, before either is started warm.
COLD_AWS, COLD_POPEN = os.environ.get("LAION_FMRI_AWS") or "aws", subprocess.Popen


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start aws and Snakemake from processes that have loaded them already."""
    if session.items and not COLD:
        start_snakemake_warm(find_starter().path)
        if shutil.which(COLD_AWS):  # without one, the tests that need it say so
            os.environ["LAION_FMRI_AWS"] = warm_up_aws(find_aws())


@contextlib.contextmanager
def start_cold_if_marked(node: pytest.Item | pytest.Collector) -> Iterator[None]:
    """Start aws and Snakemake as users do, in a module or a test with the mark ``cold``."""
    with pytest.MonkeyPatch.context() as patch:
        if node.get_closest_marker("cold"):
            patch.setenv("LAION_FMRI_AWS", COLD_AWS)
            patch.setattr(subprocess, "Popen", COLD_POPEN)
        yield


@pytest.fixture(autouse=True, scope="module")
def start_module_cold(request: pytest.FixtureRequest) -> Iterator[None]:
    """Start aws and Snakemake cold for what a whole module shares."""
    with start_cold_if_marked(request.node):
        yield


@pytest.fixture(autouse=True)
def start_test_cold(request: pytest.FixtureRequest) -> Iterator[None]:
    """Start aws and Snakemake cold for one test."""
    with start_cold_if_marked(request.node):
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With ``LAION_FMRI_TEST_ONE_WAY``, slow tests that go by each way in go by one of them.

    Not all by the same: which one it is depends on the name of the test.
    """
    if not os.environ.get("LAION_FMRI_TEST_ONE_WAY"):
        return
    ways: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec and "way" in callspec.params and item.get_closest_marker("faults"):
            others = {name: value for name, value in callspec.params.items() if name != "way"}
            ways[f"{item.location[0]} {item.originalname} {others!r}"].append(item)
    dropped = set()
    for found in ways.values():
        turn = zlib.crc32(found[0].originalname.encode()) % len(found)
        dropped |= {item for index, item in enumerate(found) if index != turn}
    config.hook.pytest_deselected(items=[*dropped])
    items[:] = [item for item in items if item not in dropped]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """From the time ``LAION_FMRI_TEST_UNTIL``, in seconds since 1970, slow tests are skipped."""
    until = os.environ.get("LAION_FMRI_TEST_UNTIL")
    if until and item.get_closest_marker("faults") and time.time() > float(until):
        # CI has half an hour, on a slow machine too; by hand there is no such time.
        pytest.skip("the time for slow tests is over: LAION_FMRI_TEST_UNTIL")


@pytest.fixture(autouse=True)
def isolate(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Give every test an empty home, hostile AWS settings, and no network but loopback."""
    real = {name: getattr(socket.socket, name) for name in ("connect", "connect_ex")}

    def guard(name: str):
        def connect(self: socket.socket, address: Any) -> Any:
            if not is_loopback(address):
                raise RuntimeError(f"a test wants to talk to {address}")
            return real[name](self, address)

        return connect

    for name in real:
        monkeypatch.setattr(socket.socket, name, guard(name))
    with sandbox(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture(scope="session")
def server() -> Iterator[SampleServer]:
    """Serve the sample bucket on loopback, once for all tests."""
    find_aws()
    with serve_sample() as running:
        yield running


@pytest.fixture(scope="session")
def objects() -> dict[str, bytes]:
    """Return what the sample bucket holds: key -> content."""
    return dict(sample_objects())


@pytest.fixture
def bucket(server: SampleServer, monkeypatch: pytest.MonkeyPatch) -> SampleServer:
    """Point the package at the sample bucket; the request log is empty."""
    monkeypatch.setenv("LAION_FMRI_ENDPOINT_URL", server.endpoint_url)
    server.clear_requests()
    return server


@pytest.fixture(scope="session")
def tiny_objects(server: SampleServer) -> dict[str, bytes]:
    """Return the objects of the bucket ``tiny``, which the server has as well."""
    made = {key: f"{key}\n".encode() * (1 + index) for index, key in enumerate(TINY)}
    server.add_bucket("tiny", made)
    return made


@pytest.fixture
def tiny(
    bucket: SampleServer, tiny_objects: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> SampleServer:
    """Point the package at the bucket ``tiny``: runs are quick."""
    monkeypatch.setenv("LAION_FMRI_BUCKET", "tiny")
    return bucket


@pytest.fixture(scope="module")
def filled(server: SampleServer, request: pytest.FixtureRequest) -> str:
    """Serve the ``OBJECTS`` of a test module as a bucket that is named after it."""
    name = request.module.__name__.removeprefix("test_")
    server.add_bucket(name, request.module.OBJECTS)
    return name


@pytest.fixture
def bench(
    filled: str, server: SampleServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultServer]:
    """Point the package at the objects of a test module, behind the fault bench."""
    monkeypatch.setenv("LAION_FMRI_BUCKET", filled)
    with serve_faults(server) as bench:
        monkeypatch.setenv("LAION_FMRI_ENDPOINT_URL", bench.endpoint_url)
        yield bench
