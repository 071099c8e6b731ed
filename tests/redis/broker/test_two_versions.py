"""Scripts of two versions on one Redis: each process runs its own, by its SHA, over one ledger."""

import hashlib
import random

import pytest

from tests.support.key_check import audit
from tests.support.ledger import OWNER, Ledger, agent_id
from tests.support.time import CLOCK_LUA
from workers.broker.scripts import Scripts


class NextScripts(Scripts):
    """The next version: its settle and dispatch write a field more."""

    def of_the_next(self) -> "NextScripts":
        for name, old in (("settle", "'settled', token, "), ("dispatch", "'state', 'waiting', ")):
            source = self._sources[name].replace(old, f"{old}'of_the_next', '1', ")
            assert source != self._sources[name]
            self._sources[name] = source
            self._shas[name] = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        return self


@pytest.mark.parametrize("seed", range(3))
async def test_two_versions_of_the_scripts_work_side_by_side(ledger: Ledger, seed: int) -> None:
    chance = random.Random(seed)
    mine = ledger.scripts
    theirs = NextScripts(ledger.client, ledger.rules, clock_lua=CLOCK_LUA).of_the_next()
    assert mine._shas["settle"] != theirs._shas["settle"]
    assert mine._shas["take"] == theirs._shas["take"]
    for number in range(40):
        ledger.scripts = chance.choice([mine, theirs])
        assert (await ledger.send(f"m{number}", agent_id(1 + number % 5))).status == "moved"
    ended = 0
    while ended < 40:
        ledger.scripts = chance.choice([mine, theirs])
        batch = await ledger.take(limit=3)
        for one in batch.taken:
            ledger.scripts = chance.choice([mine, theirs])
            assert await ledger.settle(one) == "settled"
            assert await ledger.settle(one) == "already"
            ended += 1
        if chance.random() < 0.1:
            await ledger.client.script_flush()

    assert await ledger.scripts.hold_stream(ledger.context, owner=OWNER, lease_ms=1_000)
    ledgered = await audit(ledger.client, ledger.context, ledger.time.now_us)
    assert set(ledgered.states().values()) == {"delivered"}
    written = {fields.get("of_the_next") for fields in ledgered.deliveries.values()}
    assert "1" in written
