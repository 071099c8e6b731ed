"""The sandbox as an ASGI application: all routes over one world."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from console.sandbox import (
    routes_admin,
    routes_agents,
    routes_conversations,
    routes_messages,
    routes_runs,
    routes_things,
)
from console.sandbox.answers import Answer
from console.sandbox.errors import Refusal
from console.sandbox.world import World


def build_app(world: World) -> Starlette:
    """The application; the hottest routes come first."""
    routes = [
        *routes_messages.ROUTES,
        *routes_conversations.ROUTES,
        *routes_runs.ROUTES,
        *routes_agents.ROUTES,
        *routes_things.ROUTES,
        *routes_admin.ROUTES,
    ]
    app = Starlette(routes=routes, exception_handlers={Refusal: _refused, HTTPException: _unknown})
    app.state.world = world
    return app


async def _refused(_: Request, error: Exception) -> Response:
    if not isinstance(error, Refusal):
        raise error
    return Answer(error.body, error.status, error.headers)


async def _unknown(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return Answer({"detail": error.detail}, error.status_code)
