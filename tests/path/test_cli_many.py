"""The `postroom` command for messages to many: what a person types, sees and ends with."""

import csv
import io
import json
import os
import pty
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from console.local import Home
from tests.support.shell import COMMAND, Cli, Ran, Up

pytestmark = pytest.mark.processes

MANY = 12
BROKEN = 101
"""More dead letters than are put away without a question."""


@dataclass
class Office:
    """The shell of one tenant, and the server its agents are on."""

    cli: Cli
    letta: httpx.Client

    def __call__(self, *arguments: str, stdin: bytes = b"") -> Ran:
        return self.cli(*arguments, "-t", "initech", stdin=stdin)

    def later(self, id_: str, *options: str) -> Ran:
        """To many, and nothing of it begins."""
        return self("send", "--tags", "role:many", "later", "--id", id_, "--confirm", "--not-before", "+10m", *options)

    def make(self, prefix: str, count: int, *tags: str, fail_status: int = 0) -> None:
        body = {"prefix": prefix, "count": count, "tags": ["tenant:initech", *tags]}
        self.letta.post("/_sandbox/agents", json=body).raise_for_status()
        agents = self.letta.get("/v1/agents/", params={"tags": tags[0], "limit": 1000}).json()
        for agent in agents if fail_status else ():
            fault = {"fail_status": fail_status, "fail_where": "llm"}
            self.letta.post(f"/_sandbox/agents/{agent['id']}/behaviour", json=fault).raise_for_status()


@pytest.fixture(scope="module")
def letta(up: Up) -> Iterator[httpx.Client]:
    running = Home(up.folder / "home").running()
    assert running is not None
    with httpx.Client(base_url=str(running.letta_base_url)) as client:
        yield client


@pytest.fixture(scope="module")
def staffed(letta: httpx.Client, up: Up) -> httpx.Client:
    """Twelve that answer, two canaries of them, a desk of three, one of two that always fails, and many that do."""
    with pytest.MonkeyPatch.context() as patch:
        office = Office(Cli(up.folder, patch), letta)
        office.make("many", MANY, "role:many")
        office.make("CANARY-many", 2, "role:many")
        office.make("desk", 3, "team:desk", "role:front")
        office.make("half-good", 1, "half:yes")
        office.make("half-bad", 1, "half-bad:yes", "half:yes", fail_status=400)
        office.make("broken", BROKEN, "role:broken", fail_status=400)
    # Only now: nobody has read a list of its agents that lacks some.
    subprocess.run(
        [*COMMAND, "tenant", "create", "initech"], env=up.environment, cwd=up.folder, check=True, capture_output=True
    )
    return letta


@pytest.fixture
def office(cli: Cli, staffed: httpx.Client) -> Office:
    return Office(cli, staffed)


def on_a_terminal(up: Up, said: str, *arguments: str) -> tuple[int, str]:
    """Runs one command on a pseudo terminal where somebody types `said`; its code, and all that was to be seen."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments], env=up.environment, cwd=up.folder, stdin=its, stdout=its, stderr=its, close_fds=True
    )
    os.close(its)
    os.write(ours, said.encode())
    seen = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    return process.wait(30), " ".join(seen.decode().split())


def test_a_dry_run_names_everybody_and_sends_nothing(office: Office) -> None:
    shown = office("send", "--tags", "role:many", "hello", "--dry-run")
    found = office("send", "--tags", "role:many", "hello", "--dry-run", "--json").json
    with_canaries = office("send", "--all", "*many-*", "hello", "--dry-run", "--canaries", "--json").json

    assert (shown.code, len(shown.out.splitlines())) == (0, MANY + 1)
    assert f"{MANY} agents, about" in shown.err
    assert "left out: 2 canary copies (CANARY-many-0, CANARY-many-1); --canaries takes them in\n" in shown.err
    assert (found["count"], len(found["agents"]), found["dry_run"]) == (MANY, MANY, True)
    assert {"seconds", "tokens", "judged_by_turns", "copies"} <= found.keys()
    assert [agent["name"] for agent in found["canaries_left_out"]] == ["CANARY-many-0", "CANARY-many-1"]
    assert (with_canaries["count"], with_canaries["canaries_left_out"]) == (MANY + 2, [])


def test_many_are_not_sent_to_without_a_yes(office: Office) -> None:
    refused = office("send", "--tags", "role:many", "hello", "--id", "unasked")

    assert (refused.code, refused.out) == (3, "")
    assert f"this goes to {MANY} agents: give --confirm to send it, or --dry-run to look" in refused.err
    assert office("describe", "message", "unasked").code == 4


def test_everybody_takes_the_operators_word(office: Office) -> None:
    refused = office("send", "--all", "*", "hello", "--confirm")
    allowed = office("send", "--all", "*", "hello", "--everyone", "--dry-run", "--json")

    assert (refused.code, "--everyone" in refused.err) == (3, True)
    assert (allowed.code, allowed.json["count"]) == (0, MANY + BROKEN + 5)


def test_sent_to_many_and_waited_for_it_says_how_it_ended_and_by_which_id(office: Office) -> None:
    ran = office("send", "--tags", "role:many", "[[say ok]]", "--id", "all-well", "--confirm", "--wait")
    again = office("send", "--tags", "role:many", "[[say ok]]", "--id", "all-well", "--confirm", "--wait", "--json")

    assert (ran.code, ran.out) == (0, f"{MANY} delivered\n")
    assert "all-well" in ran.err
    assert (again.code, again.json["ends"]) == (0, {"delivered": MANY})
    assert office("bulk", "watch", "all-well").code == 0
    line = office("get", "messages", "--thread", "all-well").out.splitlines()[-1]
    assert f"and {MANY - 3} more" in line
    described = office("describe", "message", "all-well").out
    assert f"{MANY}, 0 open: {MANY} delivered" in described
    assert described.count("\ndelivery all-well:") == 5
    assert f"… {MANY - 5} more deliveries; `postroom bulk results all-well` shows them all" in described


def test_what_failed_for_some_or_for_all_has_its_code(office: Office) -> None:
    some = office("send", "--tags", "half:yes", "[[say ok]]", "--id", "half", "--wait")
    none = office("send", "--all", "half-bad*", "[[say ok]]", "--id", "none", "--wait")

    assert (some.code, some.out) == (8, "1 delivered, 1 dead\n")
    assert "`postroom bulk results half` tells of each" in some.err
    assert (none.code, none.out) == (5, "1 dead\n")
    assert [office("bulk", "watch", id_).code for id_ in ("half", "none")] == [8, 5]
    shown = office("bulk", "show", "half", "--json").json
    assert {(one["state"], one["count"]) for one in shown["now"]} == {("delivered", 1), ("dead", 1)}
    table = office("bulk", "results", "half", "--state", "dead").out
    assert len(table.splitlines()) == 2
    assert "half-bad-0" in table
    rows = list(csv.DictReader(io.StringIO(office("bulk", "results", "half", "-o", "csv").out)))
    assert {row["agent"]: row["reply"] for row in rows} == {"half-good-0": "ok", "half-bad-0": ""}
    documents = office("bulk", "results", "half", "--json").json
    assert {one["agent_name"]: one["state"] for one in documents} == {"half-good-0": "delivered", "half-bad-0": "dead"}


def test_a_bulk_send_is_listed_paused_resumed_and_taken_back(office: Office) -> None:
    sent = office.later("later-1")
    assert (sent.code, sent.out) == (0, "later-1\n")
    paused = office("bulk", "pause", "later-1")
    assert (paused.code, paused.out) == (0, f"later-1 paused: {MANY} of {MANY} open\n")
    listed = office("bulk", "list").out
    assert re.search(r"^later-1 +paused ", listed, re.MULTILINE)
    assert office("bulk", "watch", "later-1", "--timeout", "0.2s").code == 7
    resumed = office("bulk", "resume", "later-1")
    assert (resumed.code, resumed.out) == (0, f"later-1 goes on: {MANY} of {MANY} open\n")
    cancelled = office("bulk", "cancel", "later-1")
    assert (cancelled.code, cancelled.out) == (0, f"{MANY} cancelled\n")
    assert office("bulk", "pause", "later-1").code == 3
    assert office("bulk", "watch", "later-1").code == 5
    assert [office("bulk", what, "nobody").code for what in ("show", "results", "watch", "pause", "cancel")] == [4] * 5


def test_a_team_is_sent_to_and_its_replies_are_gathered(office: Office) -> None:
    waited = office("send", "--team", "desk", "[[say yes]]", "--wait")
    every = office("send", "--team", "desk", "[[say yes]]", "--gather", "all", "--timeout", "20s")
    one = office("send", "--team", "desk", "--role", "front", "[[say yes]]", "--gather", "1", "--timeout", "20s")

    assert (waited.code, waited.out) == (0, "yes\n" * 3)
    assert (every.code, every.out) == (0, "yes\n" * 3)
    assert "3 of 3 replied" in every.err
    assert (one.code, one.out.count("yes")) == (0, 1)
    assert office("send", "--team", "nowhere", "hello", "--wait").code == 5
    unknown = office("send", "--team", "nowhere", "hello", "--dry-run")
    assert (unknown.code, "there is no team 'nowhere'" in unknown.err) == (4, True)


def test_a_gathering_that_lacks_replies_has_its_code(office: Office) -> None:
    office("team", "create", "half", "-m", "half-good-0", "-m", "half-bad-0")
    office("team", "create", "bad", "-m", "half-bad-0")
    some = office("send", "--team", "half", "[[say ok]]", "--gather", "all", "--timeout", "20s")
    none = office("send", "--team", "bad", "[[say ok]]", "--gather", "all", "--timeout", "20s")

    assert (some.code, some.out) == (8, "ok\n")
    assert "1 of 2 replied; without half-bad-0 (dead)" in some.err
    assert (none.code, none.out) == (5, "")
    assert {office("team", "delete", name, "--yes").code for name in ("half", "bad")} == {0}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--role", "x", "hello"), "--role is of a team: give --team, too"),
        (("--team", "desk", "--tags", "x", "hello"), "give --team, or --tags and --all, not both"),
        (("--canaries", "desk-0", "hello"), "--canaries is for --tags and --all"),
        (("--team", "desk", "two", "words"), "expected TEXT alone: an option says to whom, got 2 words"),
        (("alone",), "expected AGENT TEXT, got 1 words"),
        (("--tags", " , ", "hello"), "give tags, a name pattern, or both"),
        (("--tags", "half:yes", "hello", "--gather", "all"), "--gather is for --team"),
        (("--team", "desk", "hello", "--gather", "none"), "expected all or a number, got 'none'"),
    ],
)
def test_wrong_usage_is_told_in_words(office: Office, arguments: tuple[str, ...], said: str) -> None:
    ran = office("send", *arguments)

    assert (ran.code, ran.out) == (2, "")
    assert said in " ".join(ran.err.replace("│", " ").split())


def test_on_a_terminal_it_asks_and_takes_no_for_an_answer(office: Office, up: Up) -> None:
    send = ("send", "--tags", "role:many", "[[say ok]]", "-t", "initech", "--id", "asked")
    code, seen = on_a_terminal(up, "n\n", *send)
    assert (code, "nothing was sent" in seen) == (3, True)
    assert f"send to {MANY} agents?" in seen
    assert office("describe", "message", "asked").code == 4

    code, seen = on_a_terminal(up, "y\n", *send)
    assert (code, "accepted" in seen) == (0, True)
    assert office("bulk", "watch", "asked").code == 0


def test_on_a_terminal_dead_letters_are_asked_about(office: Office, up: Up) -> None:
    office("send", "--tags", "role:broken", "[[say ok]]", "--id", "broke", "--confirm", "--wait")
    assert office("bulk", "show", "broke", "--json").json["ends"] == {"dead": BROKEN}
    discard = ("dead", "discard", "--all", "-t", "initech")
    refused = office("dead", "discard", "--all")
    assert (refused.code, "give --yes to discard them" in refused.err) == (3, True)

    code, seen = on_a_terminal(up, "n\n", *discard)
    assert (code, "were left as they are" in seen) == (3, True)
    code, seen = on_a_terminal(up, "y\n", *discard)
    assert code == 0, seen
    assert json.loads(office("dead", "list", "--json").out) == []
