"""What is too large is refused and stored nowhere, by every way in of ours; what just fits passes (FAULTS.md F23)."""

import asyncio
import json
import time
from pathlib import Path

import pytest

from schemas.delivery import Cause, State
from schemas.envelope import MAX_CONTENT_BYTES
from tests.support.shell import Cli
from tests.support.town import Town
from tests.support.waiting import until
from workers.broker import keys
from workers.errors import RefusedError

ACME = keys.TenantKeys("acme")
TEN_MEGABYTES = 10_000_000
AT_ONCE_SECONDS = 0.1
TRIES = 3
"""The quickest counts: this machine may be busy with something else."""
SIZES = (MAX_CONTENT_BYTES + 1, TEN_MEGABYTES)


async def stored(town: Town) -> set[bytes]:
    return {key async for key in town.client.scan_iter(match=f"{ACME.root}*")}


@pytest.mark.parametrize("size", SIZES)
async def test_python_refuses_it_at_once(acme_town: Town, size: int) -> None:
    content, took = "x" * size, []
    async with acme_town.of() as acme:
        for _ in range(TRIES):
            began = time.monotonic()
            with pytest.raises(RefusedError, match="bytes, more than"):
                await acme.send("echo", content)
            took.append(time.monotonic() - began)

    assert min(took) < AT_ONCE_SECONDS
    assert not {ACME.tasks.encode(), ACME.messages.encode()} & await stored(acme_town)


@pytest.mark.parametrize("size", SIZES)
async def test_the_shell_refuses_it(
    acme_town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    cli = Cli(tmp_path, monkeypatch)
    cli.set(POSTROOM_REDIS_URL=acme_town.server.url, POSTROOM_TENANT="acme", POSTROOM_ACCEPT_LOSS="true")
    ran = await asyncio.to_thread(cli, "send", "echo", "-", stdin=b"x" * size)

    assert ran.code == 3
    assert "bytes, more than" in ran.err
    assert not {ACME.tasks.encode(), ACME.messages.encode()} & await stored(acme_town)


@pytest.mark.parametrize("size", SIZES)
async def test_a_raw_xadd_of_it_is_a_dead_letter_and_holds_up_nobody(acme_town: Town, size: int) -> None:
    """Redis has taken it before anybody of ours could look: it leaves the stream, and counts for nothing."""
    acme_town.add_agent("echo")
    wire = json.dumps({"to": {"agent": "echo"}, "content": "x" * size})
    entry = await acme_town.client.xadd(ACME.tasks, {"message": wire})
    async with acme_town.of() as acme:
        assert (await acme.ask("echo", "[[say behind]]", within=10)).reply == "behind"
        receipt = await acme.wait(f"x{entry.decode()}", within=10)

    assert (receipt.state, receipt.cause) == (State.REFUSED, Cause.INVALID)
    assert await acme_town.client.xlen(ACME.tasks) == 0
    assert int(await acme_town.client.hget(ACME.counters, "bytes") or 0) == 0


async def test_what_just_fits_passes_by_every_way(
    acme_town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme_town.add_agent("echo")
    content = "[[say ok]]".ljust(MAX_CONTENT_BYTES, "x")
    cli = Cli(tmp_path, monkeypatch)
    cli.set(POSTROOM_REDIS_URL=acme_town.server.url, POSTROOM_TENANT="acme", POSTROOM_ACCEPT_LOSS="true")
    entry = await acme_town.client.xadd(
        ACME.tasks, {"message": json.dumps({"to": {"agent": "echo"}, "content": content})}
    )
    record = ACME.message(f"x{entry.decode()}")
    await until(lambda: acme_town.client.exists(record))
    ran = await asyncio.to_thread(cli, "send", "echo", "-", stdin=content.encode())
    async with acme_town.of() as acme:
        sent = await acme.send("echo", content)
        ids = [f"x{entry.decode()}", ran.out.strip(), sent.message_id]
        receipts = [await acme.wait(one, within=10) for one in ids]

    assert [one.state for one in receipts] == [State.DELIVERED] * 3
