"""The account: every message that was published, against how it ended. Nothing may be missing, nothing too much."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from console.demo.scene import Published, Scene
from console.sandbox.seed import DEMO_TENANTS
from schemas.delivery import State
from schemas.ids import MessageId
from workers.bus import listing

SETTLE_SECONDS = 10.0
SHOWN_ENDS = (State.DELIVERED, State.EXPIRED, State.REFUSED, State.DEAD, State.CANCELLED)
UNENDED = ("accepted", "waiting", "running")


@dataclass(frozen=True, slots=True)
class Account:
    """What Redis and the sandbox say of all that was published."""

    published: Sequence[Published]
    ended: dict[tuple[str, MessageId], State]
    """How each message that either tenant's ledger knows has ended."""
    unended: dict[str, int]
    """What the tenants' counters still count as under way."""
    delivered: int
    """How many deliveries were delivered: a message to a team has several."""
    turns: int
    """How many turns the sandbox completed, by its own count."""

    @property
    def missing(self) -> list[Published]:
        """Published, and not ended as it should."""
        return [one for one in self.published if self.ended.get((one.tenant, one.id)) is not one.expected]

    @property
    def unknown(self) -> list[str]:
        """In the ledger, and published by nobody."""
        known = {(one.tenant, one.id) for one in self.published}
        return sorted(id_ for tenant, id_ in self.ended if (tenant, id_) not in known)

    @property
    def balances(self) -> bool:
        """Whether everything is accounted for, and no agent had a turn too many."""
        nothing_left = not any(self.unended.values())
        return not self.missing and not self.unknown and nothing_left and self.turns == self.delivered

    def rows(self, acts: Sequence[str]) -> list[list[str | Text]]:
        """The table: a line for each act, and their sum."""
        rows = [self._row(name, [one for one in self.published if one.act == name]) for name in acts]
        return [*rows, self._row("all", list(self.published), bold=True)]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        ends = Counter(str(state) for state in self.ended.values())
        return {
            "published": len(self.published),
            "ended": sum(state.is_final for state in self.ended.values()),
            "ends": dict(sorted(ends.items())),
            "still_under_way": self.unended,
            "delivered": self.delivered,
            "turns_counted_by_the_sandbox": self.turns,
            "balances": self.balances,
            "messages": [
                {
                    "act": one.act,
                    "tenant": one.tenant,
                    "id": one.id,
                    "what": one.label,
                    "expected": one.expected,
                    "ended": self.ended.get((one.tenant, one.id)),
                }
                for one in self.published
            ],
        }

    def _row(self, name: str, published: Sequence[Published], *, bold: bool = False) -> list[str | Text]:
        ended = [self.ended.get((one.tenant, one.id)) for one in published]
        right = all(state is one.expected for state, one in zip(ended, published, strict=True))
        counts = [sum(state is shown for state in ended) for shown in SHOWN_ENDS]
        style = "bold" if bold else ""
        sign = Text("✓", "green") if right else Text("✗", "bold red")
        numbers = [Text(str(count) if count else "·", style if count else "bright_black") for count in counts]
        return [Text(name, style), Text(str(len(published)), style), *numbers, sign]


HEADERS = ("what", "sent", *SHOWN_ENDS, "ok")


async def take_account(scene: Scene) -> Account:
    """Reads both tenants' ledgers once nothing is under way any more."""
    unended = await _until_nothing_is_under_way(scene)
    ended, delivered = {}, 0
    for tenant in DEMO_TENANTS:
        found = await listing.messages(scene.context(tenant), scene.resources.client, limit=10_000)
        ended.update({(tenant, one.receipt.message_id): one.receipt.state for one in found})
        delivered += sum(one.receipt.ends.get(State.DELIVERED, 0) for one in found)
    turns = sum(run.status == "completed" for run in scene.world.runs.values())
    return Account(tuple(scene.published), ended, unended, delivered, turns)


async def _until_nothing_is_under_way(scene: Scene) -> dict[str, int]:
    clock = scene.resources.clock
    deadline = clock.monotonic() + SETTLE_SECONDS
    while True:
        unended: Counter[str] = Counter()
        for tenant in DEMO_TENANTS:
            counts = await listing.counters(scene.context(tenant), scene.resources.client)
            unended.update({name: counts.get(name, 0) for name in UNENDED})
        if not any(unended.values()) or clock.monotonic() > deadline:
            return dict(unended)
        await asyncio.sleep(0.05)
