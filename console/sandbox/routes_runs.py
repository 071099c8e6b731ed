"""Runs: list, retrieve, their messages, steps, usage, and their stream. A server without runs answers 404."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from console.sandbox.answers import Answer
from console.sandbox.calls import resume
from console.sandbox.errors import detail, no_background
from console.sandbox.nouns import Run
from console.sandbox.query import chronological_page, count, flag, one_of, page, several, world_of
from console.sandbox.reading import read_object
from console.sandbox.wire import message_json, run_json, run_usage_json, step_json
from console.sandbox.world import World

_STATUSES = frozenset({"created", "running", "completed", "failed", "cancelled"})
_MOST = 1000


async def list_runs(request: Request) -> Response:
    """Runs, newest first; `active` means created or running.

    The cursors are the wrong way round, as on the real server: `after` gives newer runs in the default order
    and older ones in ascending order, so a walk by the SDK repeats runs and misses others.
    """
    world, query = _world(request), request.query_params
    limit = count(request, "limit", 100, least=1)
    statuses = frozenset(several(request, "statuses"))
    for status in statuses - _STATUSES:
        raise detail(400, f"{status!r} is not a valid RunStatus")
    if not statuses and flag(request, "active"):
        statuses = frozenset({"created", "running"})
    agents = frozenset([query["agent_id"]] if "agent_id" in query else query.getlist("agent_ids"))
    background, conversation_id, stop = (
        flag(request, "background"),
        query.get("conversation_id"),
        query.get("stop_reason"),
    )
    rows = [
        run
        for run in world.runs.values()
        if (not agents or run.agent_id in agents)
        and (not statuses or run.status in statuses)
        and background in {None, run.background}
        and conversation_id in {None, run.conversation_id}
        and stop in {None, run.stop_reason}
    ]
    newest_first = one_of(request, "order", ("desc", "asc")) == "desc" and not flag(request, "ascending")
    after, before = query.get("after"), query.get("before")
    if not newest_first:
        after, before = before, after
    rows = chronological_page(rows, after=after, before=before, limit=min(limit, _MOST), newest_first=newest_first)
    return Answer([run_json(run) for run in rows])


async def retrieve(request: Request) -> Response:
    """One run."""
    return Answer(run_json(_run(request)))


async def list_messages(request: Request) -> Response:
    """What landed in a run so far, in order."""
    run, query = _run(request), request.query_params
    newest_first, limit = one_of(request, "order", ("asc", "desc")) == "desc", count(request, "limit", 100)
    after, before = query.get("after"), query.get("before")
    rows = chronological_page(run.messages, after=after, before=before, limit=limit, newest_first=newest_first)
    return Answer([message_json(each) for each in rows])


async def list_steps(request: Request) -> Response:
    """The model calls of a run, newest first."""
    world, run = _world(request), _run(request)
    agent = world.agents.get(run.agent_id)
    query = request.query_params
    steps = run.steps if one_of(request, "order", ("desc", "asc")) == "asc" else run.steps[::-1]
    steps = page(steps, after=query.get("after"), before=query.get("before"), limit=count(request, "limit", 100))
    return Answer([step_json(run, step, agent.model if agent else "unknown") for step in steps])


async def usage(request: Request) -> Response:
    """Token figures of a run."""
    return Answer(run_usage_json(_run(request)))


async def stream(request: Request) -> Response:
    """runs.messages.stream: read a background run's events again, from a sequence number on."""
    world, run, body = _world(request), _run(request), await read_object(request)
    if not run.background:
        raise detail(400, "INVALID_ARGUMENT: Run was not created in background mode, so it cannot be retrieved.")
    if not world.has_redis:
        raise no_background()
    after = int(str(body.get("starting_after") or 0))
    return resume(world, run, after=after, pings=bool(body.get("include_pings")))


async def trace(request: Request) -> Response:
    """Not on a server without ClickHouse."""
    _run(request)
    text = "OTEL traces require ClickHouse. Set LETTA_CLICKHOUSE_ENDPOINT and configure ClickHouse connection."
    raise detail(501, text)


def _world(request: Request) -> World:
    world = world_of(request)
    if not world.has_runs:
        raise detail(404, "Not Found")
    return world


def _run(request: Request) -> Run:
    return _world(request).run(request.path_params["run_id"])


ROUTES = [
    Route("/v1/runs/", list_runs, methods=["GET"]),
    Route("/v1/runs/{run_id}", retrieve, methods=["GET"]),
    Route("/v1/runs/{run_id}/messages", list_messages, methods=["GET"]),
    Route("/v1/runs/{run_id}/steps", list_steps, methods=["GET"]),
    Route("/v1/runs/{run_id}/usage", usage, methods=["GET"]),
    Route("/v1/runs/{run_id}/stream", stream, methods=["POST"]),
    Route("/v1/runs/{run_id}/trace", trace, methods=["GET"]),
]
