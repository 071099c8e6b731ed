"""What the doctor concludes from what it finds."""

from dataclasses import replace

import pytest

from console.checks import Level, append_only, eviction, memory, replicas
from console.checks_letta import one_at_a_time, one_turn
from tests.support.builders import settings
from workers.broker.client import Durability
from workers.turn.letta.contract import Abilities

WELL = Durability((7, 2, 4), append_only=True, fsync="everysec", eviction="noeviction", max_memory=0, used_memory=10)
JOINS = Abilities(joins=True, lists_runs=True, locks=True, version="0.16.8", simulated=False)


def test_a_redis_that_keeps_what_it_is_given_is_well() -> None:
    checks = [append_only(WELL, accepted=False), eviction(WELL, accepted=False), memory(WELL)]

    assert {check.level for check in checks} == {Level.OK}
    assert not any(check.do for check in checks)


@pytest.mark.parametrize(("accepted", "level"), [(False, Level.FAIL), (True, Level.WARN)])
def test_one_that_forgets_fails_unless_loss_was_accepted(accepted: bool, level: Level) -> None:  # noqa: FBT001
    assert append_only(replace(WELL, append_only=False), accepted=accepted).level is level
    assert eviction(replace(WELL, eviction="allkeys-lru"), accepted=accepted).level is level


def test_one_that_does_not_tell_is_warned_of() -> None:
    silent = replace(WELL, append_only=None, fsync=None, eviction=None)

    assert append_only(silent, accepted=False).level is Level.WARN
    assert eviction(silent, accepted=False).level is Level.WARN


@pytest.mark.parametrize(("used", "level"), [(10, Level.OK), (75, Level.WARN), (90, Level.FAIL)])
def test_memory_is_warned_of_before_it_refuses(used: int, level: Level) -> None:
    assert memory(replace(WELL, max_memory=100, used_memory=used)).level is level


@pytest.mark.parametrize(
    ("there", "wanted", "min_replicas", "level", "said"),
    [
        (0, 0, 0, Level.OK, "this one Redis has it"),
        (2, 0, 1, Level.WARN, "may lose what was accepted just before"),
        (2, 1, 0, Level.WARN, "goes on delivering"),
        (2, 1, 1, Level.OK, "1 confirm each acceptance"),
        (2, 1, None, Level.OK, "1 confirm each acceptance"),
        (0, 1, 1, Level.FAIL, "every publish is answered as not accepted"),
        (1, 2, 1, Level.FAIL, "every publish is answered as not accepted"),
    ],
)
def test_what_a_failover_costs_is_said(
    there: int, wanted: int, min_replicas: int | None, level: Level, said: str
) -> None:
    check = replicas(replace(WELL, replicas=there, min_replicas=min_replicas), settings(wait_replicas=wanted))

    assert check.level is level
    assert said in check.found
    assert bool(check.do) is (level is not Level.OK)


@pytest.mark.parametrize(
    ("abilities", "level", "said"),
    [
        (JOINS, Level.OK, "joined again"),
        (replace(JOINS, joins=False, locks=False), Level.WARN, "runs and thread"),
        (replace(JOINS, joins=False, locks=False, lists_runs=False), Level.WARN, "the thread only"),
    ],
)
def test_what_holds_with_a_server_is_said_in_words(abilities: Abilities, level: Level, said: str) -> None:
    found = one_turn(abilities)

    assert found.level is level
    assert said in found.found
    assert one_at_a_time(abilities).level is level
