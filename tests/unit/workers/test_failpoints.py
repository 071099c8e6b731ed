"""Fail-points: inert unless set and allowed, refused loudly otherwise, and every one of them has its one place."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers import failpoints, roles
from workers.errors import ConfigurationError
from workers.failpoints import ALLOWED, VARIABLE, Point
from workers.settings import load

ROOT = Path(__file__).parents[3]
WORKER = (
    "import sys; from workers.failpoints import *; arm(__import__('os').environ); hit(Point(sys.argv[1])); print('on')"
)


@pytest.fixture(autouse=True)
def nothing_stays_set() -> Iterator[None]:
    yield
    failpoints.arm({})


def passes(point: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A process that comes by one point."""
    command = [sys.executable, "-c", WORKER, point]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, check=False, cwd=ROOT)


def test_a_process_without_one_passes_every_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("struck"))

    assert failpoints.arm({ALLOWED: "1"}) is None
    for point in Point:
        failpoints.hit(point)


def test_one_that_is_set_and_allowed_ends_the_process_as_kill_9_does() -> None:
    ended = passes("after_take", **{VARIABLE: "after_take:kill", ALLOWED: "1"})

    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout == b""


def test_another_point_is_passed() -> None:
    assert passes("before_call", **{VARIABLE: "after_take:kill", ALLOWED: "1"}).stdout == b"on\n"


def test_it_strikes_the_so_many_th_time_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    struck: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _, number: struck.append(number))
    failpoints.arm({VARIABLE: "after_call:stop@3", ALLOWED: "1"})

    counts = []
    for _ in range(5):
        failpoints.hit(Point.AFTER_CALL)
        counts.append(len(struck))

    assert counts == [0, 0, 1, 1, 1]
    assert struck == [signal.SIGSTOP]


def test_a_process_refuses_to_start_with_one_that_was_not_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "after_take:kill")
    settings = load(redis_url="redis://127.0.0.1:1/0", letta_base_url="http://127.0.0.1:1")

    for build in (roles.dispatcher, lambda known: roles.pools(known, known.pools)):
        with pytest.raises(ConfigurationError, match=ALLOWED):
            build(settings)


@pytest.mark.parametrize("text", ["after_take", "nowhere:kill", "after_take:explode", "after_take:kill@0", ":kill"])
def test_one_that_cannot_be_read_is_refused_with_the_names_there_are(text: str) -> None:
    with pytest.raises(ConfigurationError, match="after_snapshot"):
        failpoints.arm({VARIABLE: text, ALLOWED: "1"})


@pytest.mark.parametrize("point", list(Point))
def test_every_point_has_one_place_in_the_product(point: Point) -> None:
    calls = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "workers").rglob("*.py")
        for _ in re.findall(rf"\bhit\(Point\.{point.name}\)", path.read_text())
    ]

    assert len(calls) == 1
