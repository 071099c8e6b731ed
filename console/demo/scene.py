"""What runs in a demo, and how an act watches it: by the events streams, never by guessing how long things take."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Self

from console.demo.show import Show
from console.parts import Parts
from console.sandbox.behaviour import Behaviour
from console.sandbox.nouns import Agent as SandboxAgent
from console.sandbox.world import World
from console.words import in_words
from schemas.address import TeamAddress
from schemas.context import Context, Operator
from schemas.delivery import Cause, State
from schemas.event import Event
from schemas.ids import MessageId, delivery_id, reply_id_of
from schemas.receipt import Receipt
from workers.broker import keys
from workers.bus.client import TenantClient
from workers.bus.events import parse_event
from workers.directory.tenants import Tenants
from workers.errors import PostroomError
from workers.resources import Resources

PATIENCE_SECONDS = 20.0
BLOCK_MS = 200
ENDS = frozenset(state for state in State if state.is_final)


class DemoError(PostroomError):
    """Something did not come that should have come."""


@dataclass(frozen=True, slots=True)
class Published:
    """One message of the demo, and how it is to end."""

    act: str
    tenant: str
    id: MessageId
    label: str
    expected: State

    def ending(self, state: State) -> Self:
        """The same message, expected to end otherwise."""
        return replace(self, expected=state)


@dataclass(slots=True)
class Scene:
    """The stage that the acts share."""

    show: Show
    parts: Parts
    resources: Resources
    operator: Operator
    act: str = ""
    published: list[Published] = field(default_factory=list)
    _clients: dict[str, TenantClient] = field(default_factory=dict)

    @property
    def world(self) -> World:
        """The sandbox's inside: where agents are made busy, slow and failing."""
        if self.parts.sandbox is None:
            raise DemoError("the demo runs on its own sandbox only")
        return self.parts.sandbox.world

    @property
    def tenants(self) -> Tenants:
        """The register."""
        return Tenants(self.resources.client)

    def context(self, tenant: str) -> Context:
        """The operator inside a tenant."""
        return self.operator.for_tenant(tenant)

    def client(self, tenant: str) -> TenantClient:
        """The tenant's own client."""
        if tenant not in self._clients:
            self._clients[tenant] = TenantClient(self.context(tenant), self.resources)
        return self._clients[tenant]

    def agent(self, name: str) -> SandboxAgent:
        """One agent of the sandbox."""
        return next(agent for agent in self.world.agents.values() if agent.name == name)

    async def watch(self, tenant: str, *, shows: frozenset[State] = frozenset(State)) -> "Watch":
        """Begins to watch a tenant, before anything is published."""
        newest = await self.resources.client.xrevrange(keys.of(self.context(tenant)).events, count=1)
        return Watch(self, tenant, shows, newest[0][0].decode() if newest else "0-0")

    @asynccontextmanager
    async def occupied(self, name: str) -> AsyncIterator[None]:
        """The agent thinks until the end of the block: its next turn begins, and does not end before."""
        gate, waits = self.agent(name).gate, self.world.waits
        gate.limit = 1
        await gate.enter(waits)
        try:
            yield
        finally:
            gate.leave()
            gate.limit = 0

    @asynccontextmanager
    async def misbehaving(self, name: str, behaviour: Behaviour) -> AsyncIterator[None]:
        """The agent has faults until the end of the block."""
        agent = self.agent(name)
        agent.behaviour = behaviour
        try:
            yield
        finally:
            agent.behaviour = None

    async def close(self) -> None:
        """Stops listening."""
        for client in self._clients.values():
            await client.close()


@dataclass(slots=True)
class Watch:
    """One tenant's events, as they come."""

    scene: Scene
    tenant: str
    shows: frozenset[State]
    last: str
    labels: dict[MessageId, str] = field(default_factory=dict)
    states: dict[MessageId, State] = field(default_factory=dict)
    turns: list[MessageId] = field(default_factory=list)
    """Whose turn began, in order."""
    began_ms: int | None = None
    causes: set[Cause] = field(default_factory=set)
    """All that were seen."""

    async def send(
        self, to: str | TeamAddress, content: str, label: str, *, expected: State = State.DELIVERED, **options: object
    ) -> MessageId:
        """Publishes one message, and writes down how it is to end."""
        client = self.scene.client(self.tenant)
        receipt = await client.send(to, content, **options)  # type: ignore[arg-type]  # the options of `send`
        self._expect(receipt.message_id, label, expected)
        return receipt.message_id

    def expect_reply_of(self, message_id: MessageId, label: str) -> MessageId:
        """The message that a reply will be, when it is sent on."""
        reply = reply_id_of(delivery_id(message_id, 1))
        self._expect(reply, label, State.DELIVERED)
        return reply

    async def receipt(self, message_id: MessageId) -> Receipt:
        """What became of it."""
        return await self.scene.client(self.tenant).receipt(message_id)

    async def all_ended(self) -> None:
        """Waits until every message that was published through this watch has ended."""
        await self.until(lambda: all(self.states.get(id_) in ENDS for id_ in self.labels), "its messages to end")

    async def until_state(self, message_id: MessageId, state: State) -> None:
        """Waits until one message is in that state."""
        await self.until(lambda: self.states.get(message_id) is state, f"{self.labels[message_id]} to be {state}")

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        """Reads on, and shows, until it holds.

        Raises:
            DemoError: it does not come.
        """
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not holds():
                    await self.read()
        except TimeoutError:
            raise DemoError(f"waited {PATIENCE_SECONDS:g} s in vain for {what}") from None

    def count(self, state: State) -> int:
        """How many of the messages are in that state."""
        return sum(one is state for one in self.states.values())

    async def read(self) -> None:
        """Takes note of what happened, or of nothing for a moment."""
        stream = keys.of(self.scene.context(self.tenant)).events
        answer = await self.scene.resources.client.xread({stream: self.last}, block=BLOCK_MS)
        for _, entries in answer:
            self.last = entries[-1][0].decode()
            for entry_id, fields in entries:
                self._note(parse_event(entry_id, fields))

    def _note(self, event: Event) -> None:
        label = self.labels.get(event.message_id)
        if label is None:
            return
        if event.cause is not None:
            self.causes.add(event.cause)
        if event.cause is Cause.GATHERED:
            return
        self.states[event.message_id] = event.state
        if event.state is State.RUNNING:
            self.turns.append(event.message_id)
        self.began_ms = self.began_ms or event.at_ms
        if event.state in self.shows:
            told = event.cause is not None and event.state is not State.DELIVERED
            why = in_words(event.state, event.cause).partition(";")[0] if told else ""
            self.scene.show.event(label, event.state, event.at_ms - self.began_ms, why)

    def _expect(self, message_id: MessageId, label: str, expected: State) -> None:
        self.labels[message_id] = label
        self.scene.published.append(Published(self.scene.act, self.tenant, message_id, label, expected))
