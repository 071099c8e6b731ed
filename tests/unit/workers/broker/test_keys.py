"""Every Redis name is one entry in one file."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.context import service_context
from workers.broker import keys
from workers.broker.keys import GLOBAL_NAMES, TENANT_NAMES, TenantKeys

ROOT = Path(__file__).parents[4]
ELSEWHERE = {"workers/turn/run.py": "an otid, sent to Letta: no Redis name"}
AGENT = "agent-00000000-0000-4000-8000-000000000001"
OF_ONE = {
    "message": "m1",
    "delivery": "m1:1",
    "mailbox": AGENT,
    "ready": "urgent",
    "rate": f"agent:{AGENT}",
    "snapshot": "m1",
    "aside": "m1",
    "out": "crm",
    "callback": "jobs",
}


def texts(source: str) -> Iterator[str]:
    """Every string of a module, the beginnings of f-strings included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            yield node.value if isinstance(node.value, str) else node.value.decode(errors="replace")


def test_no_other_file_spells_a_name() -> None:
    found = {
        str(path.relative_to(ROOT))
        for package in ("schemas", "workers", "orchestrator", "console")
        for path in (ROOT / package).rglob("*.py")
        if any(text.startswith(keys.PREFIX) for text in texts(path.read_text()))
    }
    assert found - set(ELSEWHERE) == {"workers/broker/keys.py"}


@pytest.mark.parametrize("name", TENANT_NAMES)
def test_a_name_of_a_tenant_is_recognised(name: str) -> None:
    entry = TENANT_NAMES[name]
    concrete = f"postroom:{{acme}}:{entry.suffix}{OF_ONE.get(name, '')}"
    assert entry.suffix.endswith(":") == (name in OF_ONE)
    assert keys.describe(concrete) is entry


@pytest.mark.parametrize("name", GLOBAL_NAMES)
def test_a_global_name_is_recognised(name: str) -> None:
    entry = GLOBAL_NAMES[name]
    concrete = f"postroom:{entry.suffix}" + ("x" if entry.suffix.endswith(":") else "")
    assert keys.describe(concrete) is entry


@pytest.mark.parametrize(
    "key",
    [
        "",
        "postroom:",
        "other:{acme}:tasks",
        "postroom:{acme}:",
        "postroom:{acme}:message:",
        "postroom:{acme}:tasks:1",
        "postroom:{acme}:unknown",
        "postroom:{acme}",
        "postroom:{acme}tasks",
        "postroom:tasks",
        "postroom:{acme}:agenda",
        "postroom:process:",
        "postroom:tenant",
    ],
)
def test_what_is_in_no_table_is_not_recognised(key: str) -> None:
    assert keys.describe(key) is None


def test_names_do_not_shadow_each_other() -> None:
    """Two entries never match one key."""
    for table in (TENANT_NAMES, GLOBAL_NAMES):
        for name, entry in table.items():
            concrete = entry.suffix + ("x" if entry.suffix.endswith(":") else "")
            assert [other for other, one in table.items() if keys._matches(one, concrete)] == [name]


def test_everything_of_a_tenant_is_in_one_slot() -> None:
    """Whatever stands in an id: Redis hashes what is between the first brace and the next closing one."""
    mine = TenantKeys("acme")
    names = [getattr(mine, one) for one in dir(mine) if not one.startswith("_")]
    found = [one for one in names if isinstance(one, str)]
    found += [mine.message("m1"), mine.delivery("m1:1"), mine.mailbox(AGENT), mine.ready(0)]
    assert len(found) > 10
    for key in found:
        assert re.findall(r"\{(.*?)\}", key) == ["acme"]
        assert keys.describe(key) is not None or key == mine.root


def test_the_properties_are_the_tables() -> None:
    mine = keys.of(service_context("acme", "test"))
    for one in dir(mine):
        value = getattr(mine, one)
        if one != "root" and not one.startswith("_") and isinstance(value, str):
            assert value == mine.root + TENANT_NAMES[one].suffix
    assert [mine.ready(rank) for rank in range(4)] == [
        f"postroom:{{acme}}:ready:{priority}" for priority in ("urgent", "high", "normal", "low")
    ]


def test_global_names_are_the_tables() -> None:
    assert keys.tenants() == "postroom:tenants"
    for key in (keys.tenants(), keys.control(), keys.agenda(), keys.dispatchers()):
        assert keys.describe(key) is not None
    assert keys.describe(keys.process("p1")) is GLOBAL_NAMES["process"]
    assert keys.describe(keys.queue("bulk")) is GLOBAL_NAMES["queue"]
    assert keys.describe(keys.bell("bulk")) is GLOBAL_NAMES["bell"]


def test_lua_gets_the_same_table() -> None:
    text = "\n".join(keys.lua_names())
    for name, entry in TENANT_NAMES.items():
        assert f"  {name} = '{entry.suffix}'," in text
    assert "local RANKS = {'urgent', 'high', 'normal', 'low'}" in text
