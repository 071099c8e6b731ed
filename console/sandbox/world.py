"""The server's whole memory: who exists, which runs happened, which locks are held, what goes wrong."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from enum import StrEnum

from console.sandbox.behaviour import Behaviour
from console.sandbox.clock import Clock, Waits
from console.sandbox.errors import agent_not_found, detail, malformed_path, not_found
from console.sandbox.events import EventLog
from console.sandbox.gate import Gate
from console.sandbox.ids import AGENT_PATTERN, is_agent_id, is_run_id, new_id
from console.sandbox.locks import RedisKeys
from console.sandbox.nouns import (
    SYSTEM_PROMPT,
    Agent,
    Block,
    Conversation,
    JsonObject,
    Message,
    Run,
    Thread,
    Tool,
)
from console.sandbox.turnlog import TurnLog

KEPT_RUNS = 20_000
BASE_TOOLS = ("conversation_search", "memory_insert", "memory_replace")


class Mode(StrEnum):
    """What kind of server this is: with Redis, without it, or one that knows only the blocking call."""

    JOINS = "joins"
    RUNS = "runs"
    PLAIN = "plain"


class World:
    """Everything in memory; one per server."""

    def __init__(self, mode: Mode, turn_log: TurnLog | None = None) -> None:
        self.mode = mode
        self.turn_log = turn_log or TurnLog(None)
        self.clock = Clock()
        self.waits = Waits()
        self.tasks: set[asyncio.Task[None]] = set()
        self.reset()

    def reset(self) -> None:
        """Forget everything, as on the first day; turns in progress die without a trace."""
        self.waits.crash()
        self.behaviour: Behaviour | None = None
        self.gate = Gate()
        self.agents: dict[str, Agent] = {}
        self.conversations: dict[str, Conversation] = {}
        self.runs: dict[str, Run] = {}
        self.logs: dict[str, EventLog] = {}
        self.blocks: dict[str, Block] = {}
        self.tools: dict[str, Tool] = {}
        self.redis = RedisKeys(self.clock)
        self.llm_calls: Counter[str] = Counter()
        for name in BASE_TOOLS:
            self.add_tool(
                Tool(
                    new_id("tool"),
                    name,
                    "letta_core",
                    f"Simulated {name}.",
                    {"name": name},
                    tags=["letta_core"],
                )
            )

    @property
    def has_redis(self) -> bool:
        """Locks, background streams and otids exist only with Redis."""
        return self.mode is Mode.JOINS

    @property
    def has_runs(self) -> bool:
        """Whether runs are visible at all."""
        return self.mode is not Mode.PLAIN

    def agent(self, agent_id: str) -> Agent:
        """The agent, or the server's 422 or 404."""
        found = self.agents.get(agent_id)
        if found is not None:
            return found
        if not is_agent_id(agent_id):
            example = ["agent-123e4567-e89b-42d3-8456-426614174000"]
            raise malformed_path("agent_id", agent_id, AGENT_PATTERN, "agent-{uuid4}", examples=example)
        raise agent_not_found(agent_id)

    def add_agent(
        self, name: str, model: str, agent_type: str = "letta_v1_agent", system: str = SYSTEM_PROMPT
    ) -> Agent:
        """Create an agent with its first system message. Same name twice is two agents."""
        now = self.clock.now()
        agent = Agent(new_id("agent"), name, now, now, model, agent_type, system)
        agent.thread = self.new_thread(agent, None)
        self.agents[agent.id] = agent
        return agent

    def run(self, run_id: str) -> Run:
        """The run, or the server's 400 or 404."""
        found = self.runs.get(run_id)
        if found is None:
            if not is_run_id(run_id):
                raise detail(400, f"INVALID_ARGUMENT: Invalid run ID format: {run_id}. Expected format: 'run-<uuid4>'")
            raise not_found("Run", run_id)
        return found

    def new_thread(self, agent: Agent, conversation_id: str | None) -> Thread:
        """A context that holds only the system message."""
        first = Message(
            new_id("message"),
            "system_message",
            self.clock.now(),
            conversation_id=conversation_id,
            content=agent.system,
        )
        agent.keep(first)
        return Thread([first.id], len(agent.system))

    def add_tool(self, tool: Tool) -> Tool:
        """Create a tool, or replace the one of that name."""
        for known in self.tools.values():
            if known.name == tool.name:
                tool.id = known.id
        self.tools[tool.id] = tool
        return tool

    def conversation(self, conversation_id: str) -> Conversation:
        """The conversation, or 404."""
        found = self.conversations.get(conversation_id)
        if found is None:
            raise not_found("Conversation", conversation_id)
        return found

    def add_run(
        self,
        agent: Agent,
        run_type: str,
        *,
        background: bool = False,
        asynchronous: bool = False,
        conversation: Conversation | None = None,
    ) -> Run:
        """Record a new run; the oldest ended ones go when too many are held."""
        run = Run(new_id("run"), agent.id, self.clock.now(), run_type, background, asynchronous=asynchronous)
        run.conversation_id = conversation.id if conversation else None
        self.runs[run.id] = run
        self.redis.last_run[agent.id] = run.id
        if len(self.runs) > KEPT_RUNS:
            self._drop_old_runs()
        return run

    def forget_runs(self, agent_id: str | None = None) -> int:
        """Lose the runs (of one agent), their streams and their otids, as after a restore from a backup."""
        gone = frozenset(run.id for run in self.runs.values() if agent_id in {None, run.agent_id})
        self.runs = {key: run for key, run in self.runs.items() if key not in gone}
        self.logs = {key: log for key, log in self.logs.items() if key not in gone}
        self.redis.forget_runs(gone)
        return len(gone)

    def task(self, coroutine: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run a turn apart from its request: a client that goes away does not stop it."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def behaviours(self, agent: Agent) -> tuple[Behaviour, ...]:
        """The faults that apply to this agent: its own first, then the server's."""
        return tuple(each for each in (agent.behaviour, self.behaviour) if each is not None)

    def state(self) -> JsonObject:
        """What happened so far, for `GET /_sandbox/state`."""
        agents: dict[str, object] = {
            agent.id: {"name": agent.name, **agent.gate.counts()}
            for agent in self.agents.values()
            if agent.gate.requests
        }
        return {"mode": self.mode.value, **self.gate.counts(), "runs": len(self.runs), "agents": agents}

    def _drop_old_runs(self) -> None:
        for key in list(self.runs)[: KEPT_RUNS // 10]:
            if not self.runs[key].active:
                del self.runs[key]
                self.logs.pop(key, None)
