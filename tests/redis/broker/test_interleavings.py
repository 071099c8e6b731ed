"""Any order of calls, from any number of processes, leaves the ledger whole."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager

import fakeredis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.conftest import REAL
from tests.redis.broker.machine import LedgerMachine
from tests.support.redis_server import RedisServer
from workers.broker.client import Client, close, connect

EXAMPLES = int(os.environ.get("POSTROOM_TEST_EXAMPLES", "20"))
"""Interleavings on each server; some hundreds after a change of the scripts."""
PHASES = (Phase.generate, Phase.shrink) if "POSTROOM_TEST_SHRINK" in os.environ else (Phase.generate,)
"""Shrinking takes minutes: ask for it once something failed."""


@contextmanager
def running() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def explore(runner: asyncio.Runner, client: Client, examples: int, steps: int) -> None:
    class Machine(LedgerMachine):
        pass

    Machine.runner, Machine.client = runner, client
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=PHASES,
            database=None,
            print_blob=True,
        ),
    )


def test_any_interleaving_agrees_with_the_plain_model() -> None:
    """Publish, dispatch, take, renew, settle, cancel, sweep and time itself, in any order."""
    with running() as runner:
        client = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())
        explore(runner, client, examples=EXAMPLES, steps=40)
        runner.run(client.aclose())


@pytest.mark.parametrize("name", list(REAL))
def test_real_servers_agree_with_the_plain_model(redis_servers: dict[str, RedisServer], name: str) -> None:
    with running() as runner:
        client = connect(redis_servers[name].url)
        explore(runner, client, examples=EXAMPLES, steps=40)
        runner.run(close(client))
