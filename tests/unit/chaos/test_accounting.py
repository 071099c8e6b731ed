"""The rig's own accounting: it must see a turn that was doubled and a message that was lost, or it proves nothing."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from schemas.delivery import Cause, State
from schemas.event import Event
from tests.chaos.account import Account, Strike, disorder, recovery, turns_of
from tests.chaos.catalogue import ALL, ELSEWHERE, chosen
from tests.chaos.load import Load, Sent
from tests.chaos.scene import Fault, Scale, Scene
from tests.chaos.table import Row, markdown

ROOT = Path(__file__).parents[3]
AGENT = "agent-00000000-0000-4000-8000-000000000001"
OTID = f"postroom:acme:x:f01-00001:1:{AGENT}:1"


def line(event: str, **fields: Any) -> str:
    return json.dumps({"at": 1, "event": event, "otid": OTID, **fields})


def begun(run: str, at: int = 1) -> str:
    return line("begun", run=run, at=at)


def ended(run: str, status: str) -> str:
    return line("ended", run=run, status=status)


def load_of(*ids: str, agent: str = "a") -> Load:
    accepted = {id_: Sent("acme", agent, n, accepted_at_ms=100) for n, id_ in enumerate(ids)}
    return cast("Load", SimpleNamespace(accepted=accepted, refused={}, prefix="f01"))


def event(at_ms: int, state: State, cause: Cause | None = None) -> Event:
    return Event(at_ms=at_ms, message_id="m", delivery_id="m:1", state=state, cause=cause)


@pytest.mark.parametrize(
    ("lines", "doubled"),
    [
        ([begun("r1"), ended("r1", "completed")], 0),
        ([begun("r1"), ended("r1", "completed"), begun("r2"), ended("r2", "completed")], 1),
        ([begun("r1"), begun("r2")], 1),
        ([begun("r1"), ended("r1", "failed"), begun("r2"), ended("r2", "completed")], 0),
        ([begun("r1"), ended("r1", "failed"), begun("r2"), begun("r3")], 1),
    ],
)
def test_a_second_turn_is_seen_unless_the_first_came_to_nothing(lines: list[str], doubled: int) -> None:
    assert turns_of(lines)["f01-00001:1"].doubled == doubled


def test_requests_are_counted_by_delivery_whatever_their_epoch() -> None:
    lines = [line("request"), json.dumps({"at": 2, "event": "request", "otid": OTID[:-1] + "2"})]

    assert turns_of(lines)["f01-00001:1"].requests == [1, 2]


def test_what_is_not_a_delivery_of_ours_is_left_out() -> None:
    assert turns_of([line("request", otid=None), line("request", otid="message-1")]) == {}


def test_messages_of_an_agent_that_began_in_another_order_are_seen() -> None:
    first, second = OTID, OTID.replace("00001", "00002")
    lines = [
        json.dumps({"at": at, "event": "begun", "otid": otid, "run": otid}) for at, otid in ((5, second), (9, first))
    ]
    done = Account(turns=turns_of(lines))

    assert disorder(done, load_of("f01-00001", "f01-00002")) == ["a had its messages as [1, 0]"]
    assert disorder(done, load_of("f01-00002", "f01-00001")) == []


def test_recovery_counts_what_ran_at_the_blow_until_it_is_under_way_again() -> None:
    story = [
        event(900, State.RUNNING),
        event(1000 + 15_000, State.WAITING, Cause.RECOVERED),
        event(1000 + 15_100, State.RUNNING),
        event(1000 + 15_200, State.WAITING, Cause.RETURNED),
        event(1000 + 16_000, State.RUNNING),
        event(1000 + 17_000, State.DELIVERED),
    ]
    done = Account(events={"m": story})

    assert recovery(done, load_of("m"), Strike(1000, 1000)) == [16_000]


def test_a_turn_of_another_process_that_simply_ends_was_not_struck() -> None:
    done = Account(events={"m": [event(900, State.RUNNING), event(1500, State.DELIVERED)]})

    assert recovery(done, load_of("m"), Strike(1000, 1000)) == []
    assert recovery(done, load_of("m"), Strike(1000, 1200, "outage")) == [300]
    assert recovery(done, load_of("m"), Strike(2000, 2200, "outage")) == []


def test_an_outage_strikes_all_that_was_in_flight_in_it_and_is_not_over() -> None:
    tried = [event(1500, State.RUNNING), event(1600, State.WAITING, Cause.BACKOFF), event(2700, State.RUNNING)]
    untried = [event(1500, State.WAITING), event(2900, State.RUNNING)]
    done = Account(events={"m": tried, "n": untried})

    assert recovery(done, load_of("m", "n"), Strike(1000, 2000, "outage")) == [700]


def test_what_was_not_yet_in_a_mailbox_is_struck_with_its_dispatcher() -> None:
    done = Account(events={"m": [event(5000, State.WAITING), event(5100, State.RUNNING)]})

    assert recovery(done, load_of("m"), Strike(1000, 1000, "stream")) == [4100]
    assert recovery(done, load_of("m"), Strike(50, 50, "stream")) == []


async def nothing(_: Scene) -> str:
    return "nothing"


def verdict(done: Account, **more: Any) -> Row:
    rig: Any = SimpleNamespace(plan=SimpleNamespace(mode="joins"))
    scene = Scene(rig, load_of(), Scale(quick=True), cast("Any", None))
    return Row.of(Fault("F00", "nothing", nothing, **more), scene, done, "nothing was done", 1.0)


@pytest.mark.parametrize(
    ("done", "word"),
    [
        (Account(lost=["m is waiting"]), "1 lost"),
        (Account(doubled=["m had 2 turns"]), "1 doubled"),
        (Account(ended_twice=["m"]), "ended twice"),
        (Account(disorder=["a"]), "out of order"),
        (Account(left=["a under a lease"]), "left behind"),
        (Account(extra_calls=1), "1 extra calls, 0 at most"),
        (Account(recovery_ms=[61_000]), "recovered within 61.0 s"),
    ],
)
def test_whatever_is_wrong_stands_in_the_verdict_and_in_the_table(done: Account, word: str) -> None:
    row = verdict(done)

    assert not row.holds
    assert word in row.verdict
    assert "DOES NOT HOLD" in markdown([row])


def test_a_fault_that_left_everything_as_it_should_be_holds() -> None:
    row = verdict(Account(accepted=3, recovery_ms=[1000, 2000, 3000]))

    assert row.holds
    assert row.recovery_seconds == (2.0, 3.0, 3.0)


def test_what_was_slower_than_promised_is_said_where_a_busy_machine_may_be() -> None:
    row = verdict(Account(recovery_ms=[31_000]))

    assert row.holds
    assert "SLOWER THAN PROMISED" in markdown([row])


def test_each_fault_has_a_name_of_its_own_and_can_be_asked_for() -> None:
    names = [fault.name for fault in ALL]

    assert len(names) == len(set(names))
    assert [fault.name for fault in chosen(Scale(quick=False), "F06")] == ["F06", "F06 everysec"]
    with pytest.raises(ValueError, match="no fault 'F99'"):
        chosen(Scale(quick=True), "F99")


@pytest.mark.parametrize("where", [where for _, where in ELSEWHERE.values()])
def test_the_tests_that_the_table_names_are_there(where: str) -> None:
    path, _, name = where.partition("::")

    assert (ROOT / path).is_file()
    assert name in (ROOT / path).read_text()
