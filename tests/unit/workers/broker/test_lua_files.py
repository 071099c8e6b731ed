"""Every script is a file with a header and one coroutine of the same name and arguments, and keeps to its place."""

import dataclasses
import inspect
import re
from collections.abc import Sequence
from typing import Any, get_origin, get_type_hints

import pytest

from schemas.context import service_context
from schemas.delivery import Cause, State
from workers.broker import keys
from workers.broker.results import Move, Settlement
from workers.broker.rules import POOL_OF_RANK, RANKS_OF_POOL, Pool, Rules
from workers.broker.runner import LUA
from workers.broker.scripts import NAMES, Scripts

HEADS = {"clock", "ledger"}
"""Not scripts: what stands at the head of each."""
FILES = {file.name.removesuffix(".lua"): file.read_text() for file in LUA.iterdir() if file.name.endswith(".lua")}
MAY_CALL = {"math", "string", "table", "redis.call", "tonumber", "ipairs", "unpack", "cjson.encode"}
ALL_OF_A_KEY = {"KEYS", "SCAN", "HSCAN", "ZSCAN", "SSCAN", "HKEYS", "HVALS", "SMEMBERS", "SORT", "FLUSHALL", "FLUSHDB"}


def header(name: str) -> dict[str, str]:
    """KEYS, ARGV and RETURNS of a script's header, and what stands before them."""
    lines = []
    for line in FILES[name].splitlines():
        if not line.startswith("--"):
            break
        lines.append(line.removeprefix("--").strip())
    text = "\n".join(lines)
    purpose, keys_, argv, returns = re.split(r"\n(?:KEYS|ARGV|RETURNS): ", text)
    return {"purpose": purpose, "KEYS": keys_, "ARGV": argv.replace("\n", " "), "RETURNS": returns}


def declared(name: str) -> list[str]:
    """The arguments a header names, the repeated ones as one."""
    return header(name)["ARGV"].partition(" (each: ")[0].split()


def repeated(name: str) -> list[str]:
    """What each of the repeated ones is made of."""
    return header(name)["ARGV"].partition(" (each: ")[2].removesuffix(")").split()


def parameters(name: str) -> list[str]:
    """The coroutine's, a record as its fields, and what is repeated last, as the script gets them."""
    hints = get_type_hints(getattr(Scripts, name))
    flat: list[str] = []
    last: list[str] = []
    for parameter in list(inspect.signature(getattr(Scripts, name)).parameters)[2:]:
        hint = hints[parameter]
        fields = [(one.name, one.type) for one in dataclasses.fields(hint)] if dataclasses.is_dataclass(hint) else None
        for field, type_ in fields or [(parameter, hint)]:
            is_repeated = get_origin(type_) in {tuple, Sequence}
            (last if is_repeated else flat).append(f"{field}..." if is_repeated else field)
    return flat + last


def code(name: str) -> str:
    """The script without comments and strings."""
    without = re.sub(r"--[^\n]*", "", FILES[name])
    return re.sub(r"'[^']*'", "''", without)


def test_every_file_is_a_script_with_a_coroutine() -> None:
    assert set(FILES) == {*NAMES, *HEADS}
    assert len(set(NAMES)) == len(NAMES)
    public = {name for name, _ in inspect.getmembers(Scripts, inspect.iscoroutinefunction) if not name.startswith("_")}
    assert public == {*NAMES, "dispatch_all"}


@pytest.mark.parametrize("name", NAMES)
def test_the_header_names_what_goes_in_and_comes_out(name: str) -> None:
    found = header(name)
    assert found["KEYS"] == "the tenant's root"
    assert all(found.values())
    assert found["purpose"].rstrip().endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_the_header_and_the_coroutine_name_the_same_arguments(name: str) -> None:
    assert declared(name) == parameters(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_script_reads_every_argument_and_no_other(name: str) -> None:
    """By its number; what is repeated is read by a counted index."""
    numbers = {int(number) for number in re.findall(r"ARGV\[(\d+)\]", code(name))}
    fixed = [one for one in declared(name) if not one.endswith("...")]
    assert numbers == set(range(1, len(fixed) + 1))


class Recorder:
    """Answers every script with its canned answer and remembers what it was given."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.arguments: list[Any] = []

    async def execute_command(self, _command: str, _sha: str, _keys: int, root: str, *arguments: Any) -> Any:
        assert root == "postroom:{acme}:"
        self.arguments = list(arguments)
        return self.answer


GIVEN: dict[str, tuple[dict[str, Any], Any]] = {
    "publish": (
        {
            "message_id": "m",
            "digest": "d",
            "envelope": "e",
            "size": 1,
            "expires_at_ms": 2,
            "answers": "s",
            "by_operator": 1,
        },
        [b"accepted", b"0"],
    ),
    "hold_stream": ({"owner": "o", "lease_ms": 1}, 1),
    "release_stream": ({"owner": "o"}, 1),
    "refuse": (
        {"owner": "o", "entry_id": "e", "message_id": "m", "cause": Cause.LOOP, "detail": "d", "answers": "s"},
        b"refused",
    ),
    "take": ({"owner": "o", "pool": Pool.BULK, "limit": 1, "lease_ms": 2}, [b"1", 0, b"0"]),
    "record_run": ({"delivery_id": "d", "agent": "a", "token": 1, "run_id": "r"}, 1),
    "ring": ({"pool": Pool.BULK, "seed": "s"}, 1),
    "cancel": ({"message_id": "m", "first": 1}, [b"not_found", b"0", 0]),
    "sweep": ({"seed": "s", "overflow_ms": 1}, [b"0", [], []]),
    "expand": (
        {"owner": "o", "entry_id": "e", "message_id": "m", "limit": 1, "seed": "s"},
        [b"moved", 0, b"0"],
    ),
    "pause": ({"message_id": "m"}, b"paused"),
    "resume": ({"message_id": "m"}, [b"resumed", b"0"]),
    "write_team": ({"name": "n", "before": b"", "after": b"a"}, b"written"),
    "redrive": ({"entry_id": "e", "ttl_ms": 1}, [b"gone", b"0"]),
    "discard": ({"entry_id": "e"}, b"gone"),
    "park": ({"agent": "a", "by": "p", "why": "w"}, b"already"),
    "unpark": ({"agent": "a"}, [b"not_parked", b"0"]),
    "note_away": ({"for_ms": 1}, 1),
    "abandon": ({"owner": "o", "cursor": 0, "seed": "s"}, [b"0", 0, 0, b"0"]),
    "recount": ({"counter": "waiting", "drift": -1}, b"0"),
    "repair_agent": ({"agent": "a"}, b"0"),
    "repair_delivery": ({"delivery_id": "d", "agent": "a"}, b"0"),
    "repair_message": ({"message_id": "m"}, b"0"),
    "evict": ({"limit": 1}, 0),
    "leave": ({"mark": 1}, [b"left", b"1", b"2"]),
    "bury": ({"mark": 1}, 1),
}


@pytest.mark.parametrize("name", GIVEN)
async def test_arguments_travel_in_the_order_of_the_header(name: str) -> None:
    given, answer = GIVEN[name]
    recorder = Recorder(answer)

    await getattr(Scripts(recorder), name)(service_context("acme", "test"), **given)

    assert list(map(str, recorder.arguments)) == [str(given[argument]) for argument in declared(name)]


async def test_agents_travel_as_pairs() -> None:
    recorder = Recorder(1)
    await Scripts(recorder).store_agents(service_context("acme", "test"), age_ms=5, records=[("a", "x"), ("b", "y")])
    assert recorder.arguments == [5, "a", "x", "b", "y"]


async def test_a_gathering_travels_in_the_order_of_the_header() -> None:
    recorder = Recorder([b"gathered", b"0"])
    scripts, context = Scripts(recorder), service_context("acme", "test")
    await scripts.gather(
        context,
        message_id="m",
        text="t",
        deliveries=("m:1", "m:2"),
        forward_id="r",
        forward_digest="d",
        forward_envelope="e",
    )
    assert recorder.arguments == ["m", "t", "r", "d", "e", "m:1", "m:2"]


async def test_messages_that_were_read_travel_behind_their_reader() -> None:
    recorder = Recorder([b"acked", b"already"])
    results = await Scripts(recorder).ack(service_context("acme", "test"), reader="r", message_ids=["m1", "m2"])
    assert (recorder.arguments, results) == (["r", "m1", "m2"], ("acked", "already"))


async def test_leases_travel_as_pairs() -> None:
    recorder = Recorder([])
    await Scripts(recorder).renew(service_context("acme", "test"), lease_ms=5, pairs=[("a", 1), ("b", 2)])
    assert recorder.arguments == [5, "a", 1, "b", 2]


async def test_settlements_travel_in_the_order_of_the_header() -> None:
    """Every field of each, and the script's stride is their number."""
    names = repeated("settle")
    one = Settlement(
        *("d", "a", 1, State.DEAD, Cause.LOOP, "detail", 2, "agent", 3, True, True),
        *("run", "reply", "stop", 4, "id", "digest", "envelope"),
    )
    recorder = Recorder([b"0", [b"settled"]])

    await Scripts(recorder).settle(service_context("acme", "test"), seed="s", settlements=[one, one])

    assert names == [field.name for field in dataclasses.fields(Settlement)]
    first, *values = recorder.arguments
    expected = ["d", "a", 1, "dead", "loop", "detail", 2, "agent", 3, "1", "open"]
    expected += ["run", "reply", "stop", 4, "id", "digest", "envelope"]
    assert (first, values) == ("s", expected * 2)
    assert f"STRIDE = ARGV[1], {len(names)}" in FILES["settle"]


def test_moves_travel_in_the_order_of_the_header() -> None:
    move = Move("e", "m", "d", "env", 1, 2, 3, None, (("a", ("x", "y")), ("b", ())), 4, 5, "stream|n|c")
    from workers.broker.scripts import _dispatch_arguments  # noqa: PLC0415  # its only reader here

    assert _dispatch_arguments("o", move, "s") == (
        *("o", "e", "m", "d", "env", 1, 2, 3, "", 4, 5, "stream|n|c", "s"),
        *("a", "x,y", "b", ""),
    )


async def test_a_snapshot_travels_in_the_order_of_the_header() -> None:
    move = Move("e", "m", "d", "env", 1, 2, 3, None, (("a", ("x", "y")), ("b", ())), 4, 5, "stream|n|c")
    recorder = Recorder(b"taken")

    await Scripts(recorder).snapshot(service_context("acme", "test"), owner="o", move=move)

    assert recorder.arguments == [
        *("o", "e", "m", "d", "env", 1, 2, 3, "", 4, 5, "stream|n|c"),
        *("a|x,y", "b|"),
    ]


@pytest.mark.parametrize("name", FILES)
def test_a_script_calls_nothing_but_its_own_and_a_few(name: str) -> None:
    """fakeredis has no more, and no script needs it (HAZARDS.md section 3): a new one is argued here."""
    own = set(re.findall(r"local function (\w+)", "\n".join(FILES.values())))
    called = set(re.findall(r"([A-Za-z_][\w.]*)\s*\(", code(name))) - own
    words = {"if", "and", "or", "not", "while", "for", "function", "return", "in", "elseif", "until"}
    foreign = {one for one in called if one not in words and one not in MAY_CALL and one.split(".")[0] not in MAY_CALL}
    assert foreign == set()
    assert not re.search(r"\b(loadstring|load|dofile|require|setmetatable|_G|pcall)\b", code(name))


@pytest.mark.parametrize("name", FILES)
def test_no_script_walks_over_a_key_it_does_not_bound(name: str) -> None:
    """No KEYS, no SCAN, nothing that grows with what a tenant has; `rung` has one field a pool."""
    commands = re.findall(r"redis\.call\('([A-Z]+)', ([^,)]+(?:\('[a-z]+'\))?)", FILES[name])
    assert commands or name == "clock"
    for command, key in commands:
        # These walk by cursor, a step a call.
        assert command not in ALL_OF_A_KEY or (name, command) in {("lift", "HSCAN"), ("abandon", "HSCAN")}
        assert command not in {"HGETALL", "LRANGE"} or key == "key('rung'", (command, key)
    assert "'-inf', digits(NOW))" not in FILES[name], "a range without a limit"


@pytest.mark.parametrize("name", FILES)
def test_every_key_comes_from_the_table(name: str) -> None:
    """By `key(...)`, which knows no other names; never spelled."""
    assert "postroom" not in FILES[name]
    assert set(re.findall(r"\bkey\('([a-z]+)'", FILES[name])) <= set(keys.TENANT_NAMES)
    for argument in re.findall(r"redis\.call\('[A-Z]+', ([\w]+)", FILES[name]):
        # `clear` is given what it found under the root, whatever it is called.
        assert argument in {"key", "record", "box"} or (name, argument) == ("clear", "ROOT"), argument


@pytest.mark.parametrize("name", FILES)
def test_no_script_leaves_a_global_behind(name: str) -> None:
    """Redis refuses it at run time, on the path that gets there."""
    text = code(name)
    local: set[str] = set()
    declarations = re.findall(r"\blocal ([\w, ]+?)(?= =|\n)", text)
    for names in declarations + re.findall(r"function \w+\(([\w, ]*)\)", text):
        local |= {one.strip() for one in names.split(",")}
    for line in re.findall(r"^ *(?!for )(\w[\w, ]*?) = ", text, flags=re.MULTILINE):
        for one in line.removeprefix("local ").split(","):
            assert one.strip() in local, one


def test_the_rules_reach_lua_as_they_are() -> None:
    text = "\n".join(Rules(aging_ms=(1, 2, 3, 4), kept_ms=5, max_crashes=6, per_step=7, history_bytes=8).as_lua())
    assert "AGING_MS = {1, 2, 3, 4}" in text
    assert "KEPT_MS, MAX_CRASHES = 5, 6" in text
    assert "PER_STEP, HISTORY_BYTES = 7, 8" in text
    assert "POOL_OF_RANK, OVERFLOW_POOL = {'express', 'express', 'standard', 'bulk'}, 'standard'" in text


def test_every_priority_has_a_pool_that_looks_at_it() -> None:
    """The one it is rung for, and the one that takes over when that one does not come."""
    for rank, pool in enumerate(POOL_OF_RANK):
        assert rank in RANKS_OF_POOL[pool]
        assert rank in RANKS_OF_POOL[Pool.STANDARD]
