"""The whole demo: sets the scene, plays the acts, takes the account."""

import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from console.addresses import this_command
from console.demo.account import HEADERS, Account, take_account
from console.demo.acts import ACTS, Act, Seen
from console.demo.scene import Scene
from console.demo.show import Show
from console.parts import embedded_parts
from console.session import principal
from schemas.context import Operator
from workers import log, roles
from workers import settings as settings_module
from workers.broker.client import REDIS_AWAY, durability
from workers.broker.rules import Pool
from workers.errors import PostroomError
from workers.resources import build
from workers.settings import Settings

EXPECTED: tuple[type[BaseException], ...] = (PostroomError, *REDIS_AWAY)


@dataclass(frozen=True, slots=True)
class Played:
    """What the demo comes to."""

    document: dict[str, Any]
    as_expected: bool


async def play(*, silent: bool, keep: bool) -> Played:
    """Plays the demo in a folder of its own, which goes with it unless it is to be kept.

    Raises:
        ConfigurationError: there is no Redis to start.
    """
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="postroom-demo-"))
    show = Show(silent=silent)
    try:
        async with _scene(folder, show) as scene:
            seen = [await _one(scene, name, act) for name, act in ACTS]
            account = await take_account(scene)
        as_expected = account.balances and all(one.as_expected for one in seen)
        took = time.monotonic() - began
        document = _document(seen, account, as_expected=as_expected, seconds=took)
        _close(show, account, as_expected=as_expected, seconds=took, kept=folder if keep else None)
        return Played({**document, "kept": str(folder) if keep else None}, as_expected)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def _scene(folder: Path, show: Show) -> AsyncIterator[Scene]:
    """A Redis, a sandbox Letta, a dispatcher and all pools, in this process."""
    settings, operator = _settings(folder), Operator(principal())
    with (folder / "services.log").open("w") as stream:
        log.configure(settings, stream)
        async with embedded_parts(settings, operator) as parts:
            resources = build(parts.settings, "demo")
            processes = [roles.dispatcher(parts.settings), roles.pools(parts.settings, list(Pool))]
            scene = Scene(show, parts, resources, operator)
            try:
                for process in processes:
                    await process.start()
                redis = await durability(resources.client)
                show.opening(
                    [
                        ("Redis", f"{redis.version_text}, private, append-only file on"),
                        ("services", "dispatcher, pools express, standard and bulk"),
                        ("tenants", "acme and globex, with four agents each"),
                    ]
                )
                yield scene
            finally:
                await scene.close()
                for process in reversed(processes):
                    await process.stop()
                await resources.close()


def _settings(folder: Path) -> Settings:
    """The demo's own, whatever is set outside: it never touches a real Redis or Letta, and it does not wait long."""
    return settings_module.load(
        redis_url=None,
        arq_redis_url=None,
        letta_base_url=None,
        letta_api_key=None,
        home=folder,
        pools=tuple(Pool),
        max_attempts=3,
        backoff_base_seconds=0.2,
        backoff_cap_seconds=0.5,
        # Nothing waits so long here that it goes before more urgent work.
        aging_high_seconds=600,
        aging_normal_seconds=600,
        aging_low_seconds=600,
        accept_loss=False,
        log_level="info",
        log_format="console",
    )


async def _one(scene: Scene, name: str, act: Act) -> Seen:
    scene.act = name
    try:
        seen = await act(scene)
    except EXPECTED as error:
        seen = Seen(f"{type(error).__name__}: {error}", as_expected=False)
    scene.show.result(seen.said, as_expected=seen.as_expected)
    await scene.show.breathe()
    return seen


def _document(seen: list[Seen], account: Account, *, as_expected: bool, seconds: float) -> dict[str, Any]:
    return {
        "simulated": True,
        "note": "The agents are simulated: a sandbox Letta, no language model.",
        "as_expected": as_expected,
        "seconds": round(seconds, 1),
        "acts": [
            {"name": name, "as_expected": one.as_expected, "said": one.said, "facts": one.facts}
            for (name, _), one in zip(ACTS, seen, strict=True)
        ],
        "account": account.document(),
    }


def _close(show: Show, account: Account, *, as_expected: bool, seconds: float, kept: Path | None) -> None:
    show.table(HEADERS, account.rows([name for name, _ in ACTS]))
    command = this_command()
    published, ended = len(account.published), sum(state.is_final for state in account.ended.values())
    if as_expected:
        verdict = Text(f"{published} published, {ended} ended, each as told beforehand; ", style="bold green")
        verdict.append(f"{account.turns} turns for {account.delivered} delivered: none twice. ({seconds:.0f} s)")
    else:
        verdict = Text(f"Not as it should be: {published} published, {ended} ended; ", style="bold red")
        verdict.append(f"{len(account.missing)} otherwise than told, {len(account.unknown)} nobody knows; ")
        verdict.append(f"{account.turns} turns for {account.delivered} delivered. ({seconds:.0f} s)")
    commands = [
        f"{command} up          # the same services, and they stay; then, in another terminal:",
        f'{command} send acme-researcher "Topic: tea" -t acme --wait',
        f"{command} get messages -t acme",
        f"{command} --help",
    ]
    if kept is not None:
        commands.insert(0, f"POSTROOM_HOME={kept} {command} up          # on what this demo left")
    show.closing(verdict, commands)
