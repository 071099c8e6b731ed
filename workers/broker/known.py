"""The scripts of what is known of a tenant's agents and teams. Each one typed coroutine of its script's name."""

from collections.abc import Sequence

from schemas.context import Context
from schemas.ids import AgentId, TeamName
from workers.broker.runner import Runner, text

NAMES = ("write_team", "store_agents")


class KnownScripts(Runner):
    """What the directory writes."""

    async def write_team(self, context: Context, *, name: TeamName, before: bytes, after: bytes) -> str:
        """Writes a team's record where it still is `before`; empty for none. `written`, `changed` or `absent`."""
        return text(await self._run(context, "write_team", name, before, after))

    async def store_agents(
        self, context: Context, *, age_ms: int, records: Sequence[tuple[AgentId, str | bytes]]
    ) -> int:
        """Stores the list of agents as it was read so long ago; Redis' time of that, or 0 without such a tenant."""
        flat = [part for record in records for part in record]
        return int(await self._run(context, "store_agents", age_ms, *flat))
