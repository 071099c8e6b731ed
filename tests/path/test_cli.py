"""The `postroom` command against a `postroom up` of its own: what a person types, sees and ends with."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from console.local import Home
from schemas.team import MAX_MEMBERS
from tests.conftest import REAL
from tests.support.redis_server import RedisServer
from tests.support.shell import COMMAND, Cli, Up

START_SECONDS = 30.0

pytestmark = pytest.mark.processes


def send_later(cli: Cli) -> str:
    """A message that waits, and its id."""
    return cli("send", "acme-writer", "not yet", "-t", "acme", "--not-before", "+10m").out.strip()


def test_send_waits_and_prints_the_reply_alone(cli: Cli) -> None:
    ran = cli("send", "acme-researcher", "Topic: tea", "-t", "acme", "--wait")

    assert ran.code == 0
    assert ran.out.startswith("Findings on tea\n1. On tea")
    assert "delivered in" in ran.err


def test_send_reads_stdin_and_the_tenant_from_the_environment(cli: Cli) -> None:
    cli.set(POSTROOM_TENANT="acme")
    ran = cli("send", "acme-researcher", "-", "--wait", "--json", stdin="Topic: grüner Tee".encode())

    assert ran.json["state"] == "delivered"
    assert "grüner Tee" in ran.json["deliveries"][0]["reply"]


def test_send_without_wait_prints_the_id_alone(cli: Cli) -> None:
    ran = cli("send", "acme-writer", "hello", "-t", "acme", "--id", "my-own.id_1")

    assert (ran.code, ran.out) == (0, "my-own.id_1\n")


def test_the_same_id_is_accepted_once_and_another_body_is_refused(cli: Cli) -> None:
    first = cli("send", "acme-writer", "hello", "-t", "acme", "--id", "once", "--json")
    again = cli("send", "acme-writer", "hello", "-t", "acme", "--id", "once", "--json")
    other = cli("send", "acme-writer", "other", "-t", "acme", "--id", "once", "--json")

    assert (first.json["duplicate"], again.json["duplicate"]) == (False, True)
    assert (other.code, other.out, json.loads(other.err)["error"]["code"]) == (3, "", 3)


def test_every_option_of_send_stands_in_the_envelope(cli: Cli) -> None:
    options = {
        "--priority": "urgent",
        "--expires-in": "2h",
        "--not-before": "+5m",
        "--reply-to": "acme-editor",
        "--conversation": "conv-1",
        "--on-unknown": "never_resend",
        "--metadata": "ticket=7",
    }
    id_ = cli(
        "send", "acme-writer", "all", "-t", "acme", *(part for pair in options.items() for part in pair)
    ).out.strip()

    envelope = cli("describe", "message", id_, "-t", "acme", "--json").json["envelope"]
    assert envelope["priority"] == "urgent"
    assert envelope["ttl"] == 7200
    assert envelope["reply_to"] == {"agent": "acme-editor"}
    assert (envelope["conversation"], envelope["on_unknown"]) == ("conv-1", "never_resend")
    assert envelope["metadata"] == {"ticket": 7}
    assert envelope["sender"].startswith("cli:")


@pytest.mark.parametrize("place", ["stream", "queue"])
def test_replies_to_a_stream_or_a_queue_are_read_and_stay(cli: Cli, place: str) -> None:
    where = ("--reply-to", f"{place}:crm")
    nothing = cli("get", "replies", f"--{place}", "crm", "-t", "acme")
    assert (nothing.code, nothing.out) == (0, "")
    assert "--reply-to" in nothing.err
    delivered = cli("send", "acme-researcher", "Topic: tea", "-t", "acme", "--wait", "--json", *where).json
    refused = cli("send", "nobody-here", "x", "-t", "acme", "--wait", "--json", *where).json["message_id"]

    for _ in range(2):
        second, first = cli("get", "replies", f"--{place}", "crm", "-t", "acme", "--json").json
        assert (first["message_id"], first["state"]) == (delivered["message_id"], "delivered")
        assert first["text"] == delivered["deliveries"][0]["reply"]
        assert first["agent_name"] == "acme-researcher"
        assert (second["id"], second["cause"]) == (refused, "unknown_agent")
    table = cli("get", "replies", f"--{place}", "crm", "-t", "acme").out
    assert "Findings on tea" in table
    assert "the tenant has no such agent" in table


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("team:editorial", {"team": "editorial"}),
        ("team:editorial/lead", {"team": "editorial", "role": "lead"}),
        ("agent:team:odd", {"agent": "team:odd"}),
        ("a:b", {"agent": "a:b"}),
    ],
)
def test_reply_to_takes_an_address_in_one_line(cli: Cli, given: str, meant: dict[str, str]) -> None:
    id_ = cli("send", "acme-writer", "x", "-t", "acme", "--not-before", "+10m", "--reply-to", given).out.strip()
    assert cli("describe", "message", id_, "-t", "acme", "--json").json["envelope"]["reply_to"] == meant
    cli("cancel", id_, "-t", "acme")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("send", "acme-writer", "x", "-t", "nobody"), 4, "there is no tenant 'nobody'"),
        (("send", "acme-writer", "x", "-t", "acme", "--reply-to", "stream:a b"), 3, "reply_to.stream"),
        (("get", "replies", "-t", "acme"), 2, "--stream NAME or --queue NAME"),
        (("get", "replies", "-t", "acme", "--stream", "a b"), 2, "cannot be a name"),
        (("send", "acme-writer", "x", "-t", "Not A Tenant"), 4, "there is no tenant"),
        (("send", "acme-writer", "x"), 2, "registered: acme, globex"),
        (("send", "acme-writer", "", "-t", "acme"), 3, "content is empty"),
        (("send", "acme-writer", "x", "-t", "acme", "--id", "../etc"), 3, "id:"),
        (("send", "acme-writer", "x", "-t", "acme", "--expires-in", "soon"), 2, "10m"),
        (("send", "acme-writer", "x", "-t", "acme", "--metadata", "novalue"), 2, "KEY=VALUE"),
        (
            ("send", "acme-writer", "x", "-t", "acme", "--not-before", "+9m", "--wait", "--timeout", "100ms"),
            7,
            "goes on",
        ),
        (("send", "nobody-here", "x", "-t", "acme", "--wait"), 5, "no such agent"),
        (("send", "globex-editor", "x", "-t", "acme", "--wait"), 5, "no such agent"),
        (("describe", "message", "nothing", "-t", "acme"), 4, "there is no message"),
        (("describe", "message", "a/b", "-t", "acme"), 4, "there is no message"),
        (("cancel", "nothing", "-t", "acme"), 4, "there is no message"),
        (("tenant", "show", "nobody"), 4, "postroom tenant create nobody"),
        (("tenant", "create", "acme"), 3, "registered already"),
        (("tenant", "create", "Not-Good"), 3, "lower-case"),
        (("tenant", "limit", "acme"), 2, "nothing to change"),
        (("get", "nonsense"), 2, "No such command"),
    ],
)
def test_what_cannot_be_done_has_its_code_and_its_sentence(
    cli: Cli, arguments: tuple[str, ...], code: int, said: str
) -> None:
    ran = cli(*arguments)

    assert (ran.code, ran.out) == (code, "")
    assert said in " ".join(ran.err.replace("│", " ").split())
    assert "Traceback" not in ran.err


def test_stdin_that_is_not_utf8_is_refused_with_its_place(cli: Cli) -> None:
    ran = cli("send", "acme-writer", "-", "-t", "acme", stdin=b"ab\xff")

    assert (ran.code, ran.err) == (3, "error: stdin: not UTF-8 at byte 2\n")


def test_get_messages_filters_and_forms(cli: Cli) -> None:
    waiting = send_later(cli)
    cli("send", "acme-editor", "hello", "-t", "acme", "--wait")

    names = cli("get", "messages", "-t", "acme", "--state", "waiting", "-o", "name").out.split()
    assert names[0] == waiting
    for_editor = cli("get", "messages", "-t", "acme", "--agent", "acme-editor", "-n", "1", "--json").json
    assert [one["to"] for one in for_editor] == ["acme-editor"]
    table = cli("get", "messages", "-t", "acme", "-o", "wide").out
    assert table.split("\n", 1)[0].split()[:3] == ["ID", "STATE", "AGENT"]
    assert waiting in table
    refused = cli("send", "not-an-agent", "x", "-t", "acme", "--wait", "--json").json["message_id"]
    found = cli("get", "messages", "-t", "acme", "--agent", "not-an-agent", "--json").json
    assert [(one["message_id"], one["cause"]) for one in found] == [(refused, "unknown_agent")]
    nothing = cli("get", "messages", "-t", "acme", "--since", "2099-01-01")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "no messages\n")


def test_a_thread_and_a_history_read_as_a_conversation(cli: Cli) -> None:
    asked = cli("send", "acme-researcher", "Topic: tea", "-t", "acme", "--wait", "--json", "--reply-to", "acme-writer")
    root, deadline = asked.json["message_id"], time.monotonic() + 10
    while len(chain := cli("get", "messages", "-t", "acme", "--thread", root, "--json").json) < 2:
        assert time.monotonic() < deadline
    onward = chain[1]["message_id"]
    assert [one["message_id"] for one in chain] == [root, onward]
    cli.wait_for("get", "messages", "-t", "acme", "--thread", onward, "--agent", "acme-writer", state="delivered")
    assert cli("get", "deliveries", "-t", "acme", "--thread", root, "-o", "name").out.split() == [
        f"{root}:1",
        f"{onward}:1",
    ]

    said = cli("history", "--thread", root, "-t", "acme", "--json").json
    assert [(one["from"].partition(":")[0], one["to"]) for one in said] == [
        ("cli", "acme-researcher"),
        ("acme-researcher", "acme-writer"),
    ]
    assert (said[0]["text"], said[1]["text"]) == ("Topic: tea", said[0]["deliveries"][0]["reply"])
    of_one = cli("history", "--agent", "acme-researcher", "-t", "acme", "-n", "2", "--json").json
    assert [one["message_id"] for one in of_one] == [root, onward]
    shown = cli("history", "--agent", "acme-researcher", "-t", "acme", "-n", "2").out
    assert "acme-researcher → acme-writer" in shown
    assert "│ Findings on tea" in shown
    assert cli("history", "-t", "acme").code == 2
    assert cli("history", "--team", "nobody", "-t", "acme").out == ""
    assert cli("get", "messages", "--thread", "nothing", "-t", "acme").code == 4


def test_messages_that_are_over_are_acked_by_each_reader(cli: Cli) -> None:
    over = cli("send", "acme-editor", "ack me", "-t", "acme", "--wait", "--json").json["message_id"]
    waiting = send_later(cli)

    first = cli("messages", "ack", over, "-t", "acme", "--reader", "crm", "--json")
    assert (first.code, first.json) == (0, [{"message_id": over, "result": "acked"}])
    again = cli("messages", "ack", over, waiting, "-t", "acme", "--reader", "crm")
    assert (again.code, again.out) == (1, f"{over} acked before\n{waiting} not over yet; nothing was changed\n")
    assert cli("messages", "ack", waiting, "-t", "acme").code == 3
    assert cli("messages", "ack", "nothing", "-t", "acme").code == 4
    names = ("get", "messages", "-t", "acme", "-o", "name", "--unacked")
    assert over not in cli(*names, "--reader", "crm").out.split()
    assert over in cli(*names).out.split()
    assert "crm" in cli("describe", "message", over, "-t", "acme").out
    cli("cancel", waiting, "-t", "acme")


def test_get_deliveries_and_agents_and_tenants(cli: Cli) -> None:
    waiting = send_later(cli)

    deliveries = cli("get", "deliveries", "-t", "acme", "--state", "waiting", "--json").json
    assert f"{waiting}:1" in {one["id"] for one in deliveries}
    agents = cli("get", "agents", "-t", "acme", "-o", "name").out.split()
    assert agents == ["acme-editor", "acme-researcher", "acme-support", "acme-writer"]
    assert {"acme", "globex"} <= {one["id"] for one in cli("get", "tenants", "--json").json}


def test_describe_says_in_words_why_a_message_waits(cli: Cli) -> None:
    waiting = send_later(cli)
    cli.wait_for("get", "messages", "-t", "acme", "--state", "waiting", "-n", "1", state="waiting")

    said = cli("describe", "message", waiting, "-t", "acme").out
    assert "it is to wait until its time; until" in said
    assert "(in 10 min)" in said
    assert "history" in said
    receipt = cli("describe", "message", waiting, "-t", "acme", "--json").json["receipt"]
    assert [step["state"] for step in receipt["deliveries"][0]["history"]] == ["waiting"]


def test_cancel_wins_or_comes_too_late(cli: Cli) -> None:
    waiting = send_later(cli)
    delivered = cli("send", "acme-writer", "hello", "-t", "acme", "--wait", "--json").json["message_id"]

    assert cli("cancel", waiting, "-t", "acme").out == f"{waiting} cancelled\n"
    late = cli("cancel", delivered, "-t", "acme")
    assert (late.code, late.out) == (3, "")
    assert "too late to cancel" in late.err


def test_a_tenant_is_created_limited_suspended_and_resumed(cli: Cli) -> None:
    created = cli("tenant", "create", "initech", "--per-minute", "300", "--max-bytes", "1MiB", "--json").json
    assert (created["limits"]["per_minute"], created["limits"]["max_bytes"]) == (300, 1024**2)
    limited = cli("tenant", "limit", "initech", "--in-flight", "8", "--json").json
    assert (limited["limits"]["per_minute"], limited["limits"]["in_flight"]) == (300, 8)

    assert cli("tenant", "suspend", "initech", "--json").json["suspended"] is True
    refused = cli("send", "anybody", "x", "-t", "initech")
    assert (refused.code, refused.err) == (3, "error: tenant 'initech': is suspended\n")
    assert "suspended" in cli("describe", "tenant", "initech").out
    assert cli("tenant", "resume", "initech", "--json").json["suspended"] is False
    assert "initech" in cli("tenant", "list").out


def test_a_team_is_created_changed_shown_and_deleted(cli: Cli) -> None:
    members = ("--member", "acme-editor:editor", "-m", "acme-writer")
    made = cli("team", "create", "editorial", "-t", "acme", *members, "--json").json
    assert [(one["name"], one["role"]) for one in made["members"]] == [("acme-editor", "editor"), ("acme-writer", None)]
    added = cli("team", "add", "editorial", "acme-researcher", "--role", "source", "-t", "acme")
    assert (added.code, added.out) == (0, "acme-researcher is in team editorial as source: 3 members\n")
    removed = cli("team", "remove", "editorial", "acme-writer", "-t", "acme")
    assert removed.out == "acme-writer is not in team editorial any more: 2 members\n"

    shown = cli("team", "show", "editorial", "-t", "acme", "--json").json
    assert [(one["name"], one["roles"], one["on_server"]) for one in shown["members"]] == [
        ("acme-editor", ["editor"], True),
        ("acme-researcher", ["source"], True),
    ]
    assert (shown["size"], shown["registered"], shown["turns_in_window"]) == (2, True, 0)
    said = cli("team", "show", "editorial", "-t", "acme").out
    assert f"0 of {shown['turns_a_minute']} turns a minute" in said
    assert "acme-researcher" in said
    assert "editorial" in cli("get", "teams", "-t", "acme", "-o", "name").out.split()
    assert cli("team", "list", "-t", "globex", "--json").json == []

    asked = cli("team", "delete", "editorial", "-t", "acme")
    assert (asked.code, asked.err) == (3, "error: team 'editorial': give --yes to delete it\n")
    assert cli("team", "delete", "editorial", "-t", "acme", "--yes").out == "team editorial is deleted\n"
    assert cli("team", "show", "editorial", "-t", "acme").code == 4


def test_a_team_by_tags_has_whoever_carries_them(cli: Cli) -> None:
    made = cli("team", "create", "everybody", "-t", "acme", "--tag", "tenant:acme")
    assert made.out == "team everybody is registered: finds its members by tenant:acme\n"

    shown = cli("team", "show", "everybody", "-t", "acme", "--json").json
    assert (shown["by"], shown["size"], len(shown["members"])) == ("tags", 4, 4)
    listed = {one["name"]: one for one in cli("team", "list", "-t", "acme", "--json").json}
    assert (listed["everybody"]["size"], listed["everybody"]["tags"]) == (4, ["tenant:acme"])
    changed = cli("team", "add", "everybody", "acme-writer", "-t", "acme")
    assert (changed.code, changed.err) == (
        3,
        "error: team 'everybody': finds its members by tags: change the tags of the agent\n",
    )
    assert cli("team", "delete", "everybody", "-t", "acme", "--yes").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("create", "x", "-m", "acme-writer", "--tag", "a"), 2, "lists its members or finds them"),
        (("create", "x", "-m", "acme-writr"), 4, "did you mean 'acme-writer'"),
        (("create", "x", "-m", "globex-helper"), 4, "there is no agent 'globex-helper' in tenant 'acme'"),
        (("create", "x", "-m", "acme-writer", "-m", "acme-writer:lead"), 3, "names an agent twice"),
        (("create", "a team"), 3, "expected letters"),
        (("add", "nobodys", "acme-writer"), 4, "there is no team 'nobodys'"),
        (("remove", "nobodys", "acme-writer"), 4, "there is no team 'nobodys'"),
        (("show", "nobodys"), 4, "there is no team 'nobodys'"),
        (("delete", "nobodys", "--yes"), 4, "there is no team 'nobodys'"),
    ],
)
def test_what_cannot_be_done_to_a_team_has_its_code_and_its_sentence(
    cli: Cli, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    ran = cli("team", *arguments, "-t", "acme")

    assert (ran.code, ran.out) == (code, "")
    assert sentence in " ".join(ran.err.split())
    assert cli("team", "list", "-t", "acme", "--json").json == []


def test_a_team_is_shown_while_the_server_is_away_and_nobody_is_called_gone(cli: Cli) -> None:
    cli("team", "create", "away", "-t", "acme", "-m", "acme-writer:author")
    cli.set(LETTA_BASE_URL="http://127.0.0.1:9")
    shown = cli("team", "show", "away", "-t", "acme", "--json").json

    # Asked a moment ago, the list is as good as the server's word.
    (only,) = shown["members"]
    assert (only["name"], only["roles"], only["on_server"] in {True, None}) == ("acme-writer", ["author"], True)
    assert cli("team", "remove", "away", "acme-writer", "-t", "acme").code == 0
    assert cli("team", "delete", "away", "-t", "acme", "--yes").code == 0


def test_a_team_finds_no_more_by_tags_than_it_may_have(cli: Cli, up: Up) -> None:
    cli("tenant", "create", "hooli")
    running = Home(up.folder / "home").running()
    assert running is not None
    with httpx.Client(base_url=str(running.letta_base_url)) as letta:
        for number in range(MAX_MEMBERS + 1):
            body = {"name": f"h{number}", "model": "openai-proxy/stub-chat", "tags": ["tenant:hooli", "role:x"]}
            letta.post("/v1/agents/", json=body).raise_for_status()
    refused = cli("team", "create", "all", "-t", "hooli", "--tag", "role:x")

    assert (refused.code, refused.out) == (3, "")
    assert f"{MAX_MEMBERS + 1} agents have these tags, a team has at most {MAX_MEMBERS}" in refused.err
    assert cli("team", "list", "-t", "hooli", "--json").json == []


def test_the_example_of_tenant_show_works_when_it_is_pasted(cli: Cli) -> None:
    shown = cli("tenant", "show", "globex")
    example = next(line for line in shown.out.splitlines() if "redis-cli" in line)
    assert cli("tenant", "show", "globex", "--json").json["example"] == example.strip()
    assert "the tag tenant:globex" in shown.out

    folders = [str(Path(shutil.which(path) or path).parent) for path in REAL.values()]
    environment = {**os.environ, "PATH": os.pathsep.join([*folders, os.environ["PATH"]])}
    pasted = subprocess.run(["bash", "-c", example], env=environment, capture_output=True, text=True, check=True)

    entry = pasted.stdout.strip()
    found = cli.wait_for("get", "messages", "-t", "globex", "-n", "1", state="delivered")
    assert found["message_id"] == f"x{entry}"


def test_doctor_finds_all_well_and_says_that_the_agents_are_simulated(cli: Cli) -> None:
    ran = cli("doctor", "--json")

    checks = {check["name"]: check for check in ran.json["checks"]}
    assert (ran.code, ran.json["ok"]) == (0, True)
    assert "SIMULATED" in checks["letta"]["found"]
    assert checks["tenant acme"]["found"] == "4 agents tagged tenant:acme"
    assert checks["one turn a message"]["level"] == "ok"
    assert {"redis", "append-only file", "eviction", "scripts", "clocks", "process"} <= set(checks)
    assert "0 failed" in cli("doctor").out


def test_doctor_fails_on_a_redis_that_forgets(alone: Cli, redis_servers: dict[str, RedisServer]) -> None:
    alone.set(POSTROOM_REDIS_URL=next(iter(redis_servers.values())).url)
    ran = alone("doctor", "--json")

    failed = {check["name"]: check["do"] for check in ran.json["checks"] if check["level"] == "fail"}
    assert ran.code == 1
    assert failed == {
        "append-only file": "set appendonly yes (and appendfsync everysec)",
        "letta": "set it, or run `postroom up` in this folder",
    }


def test_doctor_names_a_redis_that_is_away_without_its_password(alone: Cli) -> None:
    alone.set(POSTROOM_REDIS_URL="redis://:hunter2@127.0.0.1:1/0")
    ran = alone("doctor")

    assert ran.code == 1
    assert "redis://127.0.0.1:1/0 cannot be used" in ran.out
    assert "hunter2" not in ran.out + ran.err


def test_a_send_that_redis_does_not_confirm_says_so(alone: Cli) -> None:
    alone.set(POSTROOM_REDIS_URL="redis://127.0.0.1:1/0")
    ran = alone("send", "a", "b", "-t", "acme")

    assert ran.code == 6
    assert "publish it again under the same id" in ran.err


def test_without_an_up_the_commands_say_what_to_do(alone: Cli) -> None:
    ran = alone("get", "tenants")

    assert ran.code == 78
    assert "POSTROOM_REDIS_URL not set, and no `postroom up` runs" in ran.err


def test_a_wrong_setting_is_named(alone: Cli) -> None:
    alone.set(POSTROOM_MAX_ATTEMPTS="many")
    ran = alone("get", "tenants")

    assert ran.code == 78
    assert "POSTROOM_MAX_ATTEMPTS" in ran.err
    assert "'many'" in ran.err


def test_schema_is_what_is_on_the_wire(alone: Cli) -> None:
    assert {"to", "content", "priority"} <= set(alone("schema").json["properties"])
    assert "deliveries" in alone("schema", "--receipt").json["properties"]
    assert {"delivery_id", "text"} <= set(alone("schema", "--reply").json["properties"])
    assert alone("schema", "--reply", "--receipt").code == 2


def test_a_second_up_in_the_same_folder_is_refused(up: Up) -> None:
    second = subprocess.run(
        [*COMMAND, "up"], env=up.environment, cwd=up.folder, capture_output=True, text=True, timeout=30, check=False
    )

    assert second.returncode == 3
    assert "is running already (process" in second.stderr


def test_up_refuses_a_redis_that_forgets(redis_servers: dict[str, RedisServer], tmp_path: Path) -> None:
    environment = {**Up(tmp_path).environment, "POSTROOM_REDIS_URL": next(iter(redis_servers.values())).url}
    refused = subprocess.run(
        [*COMMAND, "up"], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )

    assert refused.returncode == 78
    assert "appendonly is no" in refused.stderr
    assert "POSTROOM_ACCEPT_LOSS" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_what_waits_survives_a_restart_and_finds_its_agent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli, running = Cli(tmp_path, monkeypatch), Up(tmp_path)
    said = running.start()
    assert (said["simulated"], said["redis_embedded"], said["letta_embedded"]) == (True, True, True)
    sent = cli("send", "acme-researcher", "Topic: patience", "-t", "acme", "--not-before", "+2s", "--json")
    assert running.stop() == 0
    assert "has ended" not in cli("get", "tenants").err
    assert cli("get", "tenants").code == 78

    running.start()
    found = cli.wait_for("get", "messages", "-t", "acme", state="delivered")
    assert found["message_id"] == sent.json["message_id"]
    assert running.stop() == 0
