"""Runs Lua scripts: lua/<name>.lua behind a common head, loaded when Redis does not know it.

The head: the table of names, the rules, the clock, lua/ledger.lua.
"""

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError

from schemas.context import Context
from workers.broker import keys
from workers.broker.client import Client
from workers.broker.rules import Pool, Rules, Wait

LUA = files("workers.broker") / "lua"


class Runner:
    """The scripts of these names on one connection. `clock_lua` is replaced by tests only: it defines `now_us()`."""

    names: tuple[str, ...] = ()

    def __init__(
        self, client: Client, rules: Rules | None = None, *, wait: Wait | None = None, clock_lua: str | None = None
    ) -> None:
        self.client = client
        self._wait = wait or Wait()
        head = [*keys.lua_names(), *(rules or Rules()).as_lua(), clock_lua or _read("clock"), _read("ledger")]
        self._sources = {name: "\n".join((*head, _read(name))) for name in self.names}
        self._shas = {
            name: hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
            for name, source in self._sources.items()
        }

    async def _run_all(self, context: Context, name: str, calls: Sequence[Sequence[str | bytes | int]]) -> list[Any]:
        answers = await self._run_together(context, name, calls)
        if any(isinstance(answer, NoScriptError) for answer in answers):
            # One was not there, so none was, and nothing was done.
            await self.client.script_load(self._sources[name])
            answers = await self._run_together(context, name, calls)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    async def _run_together(
        self, context: Context, name: str, calls: Sequence[Sequence[str | bytes | int]]
    ) -> list[Any]:
        root = keys.of(context).root
        async with self.client.pipeline(transaction=True) as pipe:
            for arguments in calls:
                pipe.execute_command("EVALSHA", self._shas[name], 1, root, *arguments)
            answers: list[Any] = await pipe.execute(raise_on_error=False)
        return answers

    async def _run(self, context: Context, name: str, *arguments: str | bytes | int) -> Any:
        root = keys.of(context).root
        try:
            return await self.client.execute_command("EVALSHA", self._shas[name], 1, root, *arguments)
        except NoScriptError:
            # Redis restarted or its scripts were flushed (HAZARDS.md S16). EVAL stores it again.
            return await self.client.execute_command("EVAL", self._sources[name], 1, root, *arguments)

    async def _run_kept(self, context: Context, name: str, *arguments: str | bytes | int) -> tuple[Any, bool]:
        """The same, answered once as many replicas as were asked for have it, too; False where they did not in time.

        The wait is for all that was written before, whether or not by this call: asking again waits again.
        """
        if not self._wait.replicas:
            return await self._run(context, name, *arguments), True
        root = keys.of(context).root
        answer, replicas = await self._and_wait("EVALSHA", self._shas[name], 1, root, *arguments)
        if isinstance(answer, NoScriptError):
            answer, replicas = await self._and_wait("EVAL", self._sources[name], 1, root, *arguments)
        if isinstance(answer, Exception):
            raise answer
        return answer, isinstance(replicas, int) and replicas >= self._wait.replicas

    async def _and_wait(self, *command: str | bytes | int) -> tuple[Any, Any]:
        # On one connection: WAIT is about what its own connection wrote.
        async with self.client.pipeline(transaction=False) as pipe:
            pipe.execute_command(*command)
            pipe.execute_command("WAIT", self._wait.replicas, self._wait.timeout_ms)
            answer, replicas = await pipe.execute(raise_on_error=False)
        return answer, replicas


def text(value: bytes | str) -> str:
    """What a script answers, decoded."""
    return value.decode() if isinstance(value, bytes) else value


def optional(value: int | None) -> str:
    """An argument that may be left out."""
    return "" if value is None else str(value)


def pools(names: Sequence[bytes | str]) -> tuple[Pool, ...]:
    """The pools to ring that a script answers."""
    return tuple(Pool(text(name)) for name in names)


def _read(name: str) -> str:
    return (LUA / f"{name}.lua").read_text()
