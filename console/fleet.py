"""`postroom serve fleet`: dispatchers and pools as child processes, and a parent that buries its dead.

The parent waits for its children, so it knows the moment one is dead. It then frees what the child held in Redis
(workers/mailbox/aftermath.py) and gives its place to a spare process that stands by: seconds, where a process that
nobody waits for is missed when its leases run out. The parent itself holds nothing: where it is killed, its
children finish their turns and end, and whoever is started next goes on.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field

from console.child import Orders
from console.exits import Code
from console.running import Ending, signals
from console.session import wait_for_addresses
from console.up import Voice, say_stopping
from schemas.context import Operator
from workers import log
from workers.backoff import backoff_ms
from workers.broker.arq import connect_arq
from workers.broker.client import REDIS_AWAY, close
from workers.broker.rules import Pool
from workers.errors import ConfigurationError, GivenUpError
from workers.ids import new_process_id
from workers.mailbox.aftermath import Aftermath
from workers.mailbox.ring import Bells
from workers.resources import Resources, build
from workers.roles import STOP_MARGIN_SECONDS
from workers.settings import LEASE_SECONDS, Settings
from workers.tasks import end

GIVES_UP_AFTER = 5
"""Deaths of one place in a row, each before it was ready."""
LONG_LIFE_SECONDS = 10.0
"""Who lived so long is replaced at once; who died sooner, after a pause that grows."""
PAUSE_BASE_MS, PAUSE_CAP_MS = 250, 5_000
SPARE_AFTER_SECONDS = 3.0
"""A new spare is started when the last one has had time to find its feet: to start takes a processor for seconds."""
FREE_AGAIN_SECONDS = 0.25
COMMAND = (sys.executable, "-P", "-m", "console.child")
"""-P: whatever is called `console` in the folder that this was started in is not ours."""
OPERATOR = Operator("service:fleet")


@dataclass(slots=True)
class Place:
    """One place of the fleet, whichever child fills it."""

    name: str
    role: str
    pools: tuple[Pool, ...] = ()
    unready_deaths: int = 0
    """In a row."""
    early_deaths: int = 0
    """In a row."""


class Child:
    """One child process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.process_id = ""
        self.ready = asyncio.Event()

    @classmethod
    async def start(cls) -> "Child":
        """Starts one that waits for its orders. In a session of its own: the terminal's Ctrl-C is for the parent."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*COMMAND, stdin=pipe, stdout=pipe, start_new_session=True)
        return cls(process)

    @property
    def pid(self) -> int:
        """Of the operating system."""
        return self._process.pid

    @property
    def is_dead(self) -> bool:
        """Whether it was waited for."""
        return self._process.returncode is not None

    async def follow(self, place: Place) -> int:
        """Gives it a place and waits for its death; its exit code, below zero for a signal."""
        self.process_id = new_process_id(place.role, self.pid)
        orders = Orders(process_id=self.process_id, pools=place.pools)
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("a child has pipes")
        try:
            self._process.stdin.write(orders.model_dump_json().encode() + b"\n")
            while await self._process.stdout.readline():
                self.ready.set()
        except (BrokenPipeError, ConnectionResetError):
            # It died before it could read them.
            self.let_go()
        return await self._process.wait()

    def let_go(self) -> None:
        """Asks it to end: its turns finish first."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def kill(self) -> None:
        """Ends it without a look back."""
        if not self.is_dead:
            self._process.kill()

    async def leave(self) -> None:
        """Lets a spare go, and waits for it."""
        self.let_go()
        await self._process.wait()


@dataclass(slots=True)
class Fleet:
    """The children, and what becomes of what they leave."""

    resources: Resources
    aftermath: Aftermath
    voice: Voice
    grace_seconds: float
    _children: dict[str, Child] = field(default_factory=dict)
    """By the name of their place."""
    _spare: Child | None = None
    _over: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self, places: Sequence[Place], ending: Ending, stopping: Callable[[], None]) -> None:
        """Keeps every place filled until the end is asked for; lets the children finish their turns.

        Raises:
            ConfigurationError: a child cannot start as things are set up.
            GivenUpError: one died again and again before it was ready.
        """
        keeping = [asyncio.create_task(self._keep(place), name=place.name) for place in places]
        asked = asyncio.create_task(ending.asked.wait(), name="asked")
        announcing = asyncio.create_task(self._announce(places), name="announce")
        await asyncio.wait({asked, *keeping}, return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            stopping()
        self._over.set()
        for child in self._children.values():
            child.let_go()
        _, late = await asyncio.wait(keeping, timeout=self.grace_seconds)
        if late:
            self.kill()
        outcomes = await asyncio.gather(*keeping, return_exceptions=True)
        await end(asked, announcing)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LEASE_SECONDS)
            await end(*self._tasks)
        if self._spare is not None:
            await self._spare.leave()
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    def kill(self) -> None:
        """Ends every child without a look back."""
        for child in (*self._children.values(), *([self._spare] if self._spare else [])):
            child.kill()

    async def _keep(self, place: Place) -> None:
        """Fills one place again and again."""
        while not self._over.is_set():
            child = self._children[place.name] = await self._next()
            began = self.resources.clock.monotonic()
            if self._over.is_set():
                child.let_go()
            code = await child.follow(place)
            if not self._over.is_set() or code:
                self._in_background(self._free(child.process_id))
            if self._over.is_set():
                return
            lived = self.resources.clock.monotonic() - began
            pause_ms = self._judge(place, child, code, lived)
            await self._pause(pause_ms / 1000)

    def _judge(self, place: Place, child: Child, code: int, lived: float) -> int:
        """Tells of a death, and how long to pause before the place is filled again.

        Raises:
            ConfigurationError: the child said that it cannot start as things are set up.
            GivenUpError: that was one too many.
        """
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        if code == Code.CONFIGURATION:
            raise ConfigurationError(f"{place.name} cannot start as things are set up; it said why above")
        place.unready_deaths = 0 if child.ready.is_set() else place.unready_deaths + 1
        place.early_deaths = 0 if lived >= LONG_LIFE_SECONDS else place.early_deaths + 1
        if place.unready_deaths >= GIVES_UP_AFTER:
            self.resources.log.process.error("given up", service=place.name, count=place.unready_deaths, code=code)
            raise GivenUpError(
                f"{place.name} died {place.unready_deaths} times in a row before it was ready (the last one {how}); "
                "nothing is lost: look at its log, mend it, and start the fleet again"
            )
        pause_ms = 0
        if place.early_deaths > 1:
            pause_ms = backoff_ms(
                place.early_deaths - 1,
                base_ms=PAUSE_BASE_MS,
                cap_ms=PAUSE_CAP_MS,
                random=self.resources.random.random,
            )
        self.resources.log.process.warning(
            "child died", service=place.name, process=child.process_id, pid=child.pid, code=code, ms=pause_ms
        )
        self.voice.facts(
            {"event": "died", "service": place.name, "process": child.process_id, "code": code},
            f"{place.name} (process {child.pid}) {how}; another takes its place",
        )
        return pause_ms

    async def _next(self) -> Child:
        """The spare, or a new one; a new spare is started a while later."""
        spare, self._spare = self._spare, None
        self._in_background(self._stand_by())
        if spare is not None and not spare.is_dead:
            return spare
        return await Child.start()

    async def _stand_by(self) -> None:
        await self._pause(SPARE_AFTER_SECONDS)
        if self._spare is None and not self._over.is_set():
            self._spare = await Child.start()

    async def _free(self, process_id: str) -> None:
        """Frees what a dead child held, for as long as its leases have not run out by themselves."""
        clock, known = self.resources.clock, self.resources.log.process
        until = clock.monotonic() + LEASE_SECONDS
        while clock.monotonic() < until:
            try:
                freed = await self.aftermath.clear(OPERATOR, process_id)
            except REDIS_AWAY as error:
                known.warning("not freed yet", process=process_id, error_type=type(error).__name__)
                await clock.sleep(FREE_AGAIN_SECONDS)
            else:
                known.info("freed", process=process_id, leases=freed.leases, streams=freed.streams)
                self.voice.document(
                    {"event": "freed", "process": process_id, "leases": freed.leases, "streams": freed.streams}
                )
                return

    async def _announce(self, places: Sequence[Place]) -> None:
        for place in places:
            while place.name not in self._children or not self._children[place.name].ready.is_set():  # noqa: ASYNC110  # whichever child fills it then
                await asyncio.sleep(0.05)
        names = [place.name for place in places]
        self.voice.facts({"event": "ready", "service": "fleet", "places": names}, f"fleet: ready ({', '.join(names)})")

    async def _pause(self, seconds: float) -> None:
        """Waits, but not past the end."""
        if seconds > 0:
            over = asyncio.create_task(self._over.wait())
            await asyncio.wait({over}, timeout=seconds)
            over.cancel()

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def serve_fleet(*, dispatchers: int, pools: int, as_json: bool) -> None:
    """So many dispatchers and pool processes, until a signal.

    Raises:
        ConfigurationError: a setting is wrong, or Redis would lose messages.
        GivenUpError: a child died again and again before it was ready.
    """
    voice = Voice(as_json)
    async with signals() as ending:
        settings = await wait_for_addresses()
        log.configure(settings)
        resources = build(settings, "fleet")
        arq = connect_arq(settings.required_arq_url())
        fleet = Fleet(
            resources,
            Aftermath(resources, Bells(arq, resources.scripts, resources.log)),
            voice,
            settings.turn_deadline_seconds + 2 * STOP_MARGIN_SECONDS,
        )
        try:
            await _run(fleet, _places(settings, dispatchers, pools), ending, voice)
        finally:
            await close(arq)
            await resources.close()
    voice.facts({"event": "stopped"}, "stopped; what was accepted is kept")


async def _run(fleet: Fleet, places: Sequence[Place], ending: Ending, voice: Voice) -> None:
    work = asyncio.create_task(fleet.run(places, ending, lambda: say_stopping(voice)), name="fleet")
    hurry = asyncio.create_task(ending.insisted.wait(), name="hurry")
    await asyncio.wait({work, hurry}, return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
        fleet.kill()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(Code.INTERRUPTED)
    hurry.cancel()
    await work


def _places(settings: Settings, dispatchers: int, pools: int) -> list[Place]:
    return [
        *(Place(f"dispatcher-{number}", "dispatcher") for number in range(1, dispatchers + 1)),
        *(Place(f"pool-{number}", f"pool-{number}", settings.pools) for number in range(1, pools + 1)),
    ]
