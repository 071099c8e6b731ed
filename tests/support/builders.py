"""Short ways to make what the tests of `workers` need: records, and the parts of a process on one Redis."""

import logging
import random
from typing import Any

import structlog
from arq.connections import ArqRedis

from schemas.agent import Agent
from schemas.context import Context, service_context
from schemas.delivery import Taken
from schemas.envelope import Envelope
from tests.support.fake_letta_port import FakeLetta
from tests.support.ledger import agent_id
from workers.broker import keys
from workers.broker.arq import deserialize, serialize
from workers.broker.client import Client
from workers.broker.rules import Pool
from workers.broker.scripts import Scripts
from workers.clock import Clock, SystemClock
from workers.directory.agents import Directory
from workers.log import Log
from workers.mailbox.leases import Keeper
from workers.mailbox.ring import Bells
from workers.mailbox.settle import Settler
from workers.mailbox.sweep import Sweeper
from workers.patience import Patience
from workers.resources import Resources
from workers.settings import Settings
from workers.telemetry import Telemetry
from workers.turn.drain import Hands
from workers.turn.inflight import AdaptiveLimit
from workers.turn.run import TurnRunner
from workers.turn.slots import ServerSlots, Slots

# structlog's own default draws tracebacks with every local variable: seconds each, and content in the output.
structlog.configure(
    processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()],
    wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
)

ACME = service_context("acme", "test")
AGENT = agent_id(1)


def settings(**overrides: Any) -> Settings:
    """Settings that no environment file has a say in."""
    return Settings(_env_file=None, **{"accept_loss": True, "log_level": "error", **overrides})


def resources(
    client: Client,
    *,
    scripts: Scripts | None = None,
    clock: Clock | None = None,
    process_id: str = "process-1",
    **overrides: Any,
) -> Resources:
    """A process's resources on this client. Closing them is nobody's duty: the client is the fixture's."""
    chosen = settings(**overrides)
    log = Log(chosen, role="test")
    return Resources(
        settings=chosen,
        client=client,
        scripts=scripts or Scripts(client, chosen.rules(), wait=chosen.wait()),
        clock=clock or SystemClock(),
        random=random.Random(1),
        log=log,
        telemetry=Telemetry(log.opaque, "test"),
        process_id=process_id,
    )


def arq_on(client: Client, pool: Pool = Pool.STANDARD) -> ArqRedis:
    """arq's client on the same connections, fake ones too."""
    return ArqRedis(
        client.connection_pool,
        job_serializer=serialize,
        job_deserializer=deserialize,
        default_queue_name=keys.queue(pool),
    )


def agent(number: int = 1, name: str = "", *tags: str, tenant: str = "acme") -> Agent:
    """An agent of a tenant."""
    return Agent(id=agent_id(number), name=name or f"agent-{number}", tags=(f"tenant:{tenant}", *tags))


def envelope(**fields: Any) -> Envelope:
    """A good envelope."""
    return Envelope.model_validate({"to": {"agent": AGENT}, "content": "hello", **fields})


def taken(**fields: Any) -> Taken:
    """A delivery as a take gives it: the first attempt, nothing known of an earlier one."""
    stored = fields.pop("envelope", None) or envelope()
    known: dict[str, Any] = {
        "id": "m1:1",
        "message_id": "m1",
        "agent": AGENT,
        "token": 1,
        "attempt": 1,
        "epoch": 1,
        "fate_open": False,
        "opened_at_ms": 1_800_000_000_000,
        "run_id": None,
        "expires_at_ms": None,
        "accepted_at_ms": 1_800_000_000_000,
        "envelope": stored.to_wire().encode() if isinstance(stored, Envelope) else stored,
    }
    return Taken(**{**known, **fields})


def of_tenant(tenant: str) -> Context:
    """A service's context in a tenant."""
    return service_context(tenant, "test")


class Workshop:
    """What a pool process is made of, around a scripted Letta, on any Redis; nothing is started."""

    def __init__(self, resources: Resources, letta: FakeLetta, arq: ArqRedis) -> None:
        self.resources = resources
        self.letta = letta
        self.bells = Bells(arq, resources.scripts, resources.log)
        self.keeper = Keeper(resources)
        self.limit = AdaptiveLimit(resources.clock, highest=64)
        self.server = ServerSlots(self.limit)
        self.directory = Directory(resources.client, letta, resources.clock)
        self.hands = Hands(
            resources=resources,
            runner=TurnRunner(resources, letta, self.directory, self.keeper, self.limit),
            keeper=self.keeper,
            settler=Settler(resources, self.bells),
            bells=self.bells,
            sweeper=Sweeper(resources, self.bells),
            patience=Patience(resources.clock, resources.settings.newer_wait_seconds),
        )

    def slots(self, pool: Pool = Pool.STANDARD, size: int = 8) -> Slots:
        return Slots(pool, size, self.server)
