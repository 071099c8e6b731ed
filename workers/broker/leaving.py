"""The scripts of a tenant's coming and going. Each one typed coroutine of its script's name."""

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.context import Context
from workers.broker.runner import Runner, text

NAMES = ("register", "amend", "evict", "leave", "clear", "bury")

Fields = Sequence[tuple[str, str | int]]


@dataclass(frozen=True, slots=True)
class Left:
    """The answer to a leave."""

    status: str
    """left, busy, active or absent."""
    mark: int
    """The mark that stands."""
    marked_at_ms: int
    """Redis' time of the mark; 0 where there is none."""


class LeavingScripts(Runner):
    """How a tenant comes and goes."""

    async def register(self, context: Context, *, fields: Fields) -> bool:
        """Makes the tenant, where it is not there yet; False where one of its name is on its way out."""
        return bool(await self._run(context, "register", *(part for field in fields for part in field)))

    async def amend(self, context: Context, *, fields: Fields) -> bool:
        """Changes fields of the tenant; False where it is not there."""
        return bool(await self._run(context, "amend", *(part for field in fields for part in field)))

    async def evict(self, context: Context, *, limit: int) -> int:
        """Takes back up to `limit` leases of a suspended tenant; how many are left, below zero if it is not."""
        return int(await self._run(context, "evict", limit))

    async def leave(self, context: Context, *, mark: int) -> Left:
        """Marks a suspended tenant without running turns as gone, once."""
        status, stands, at_ms = await self._run(context, "leave", mark)
        return Left(text(status), int(stands), int(at_ms))

    async def clear(self, context: Context, *, mark: int, names: Sequence[str]) -> int:
        """Deletes keys of a tenant that has left, given without its root; below zero where the mark does not stand."""
        return int(await self._run(context, "clear", mark, *names))

    async def bury(self, context: Context, *, mark: int) -> bool:
        """Drops the last key of a tenant that has left; False where the mark does not stand."""
        return bool(await self._run(context, "bury", mark))
