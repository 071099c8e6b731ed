"""A Redis written out field by field, and made again: `python -m tests.support.fixture FOLDER` writes this version's.

A fixture is kept for good: it is what a version left behind, and every later one must read and finish it
(tests/redis/test_fixtures.py). It is never made anew for a version that is out.
"""

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

import fakeredis

from tests.support.time import ScriptTime
from workers.broker.client import Client
from workers.version import own

FOLDER = Path(__file__).parents[1] / "fixtures"
Document = dict[str, Any]


def folders() -> list[Path]:
    """Every version's."""
    return sorted(FOLDER.glob("ledger-*"))


async def dump(client: Client) -> dict[str, Document]:
    """Every key with its type, value and life, sorted; but not the test's clock."""
    found = {}
    for key in sorted(await client.keys("*")):
        if ScriptTime.owns(key.decode()):
            continue
        kind = (await client.type(key)).decode()
        one = {"type": kind, "value": await _value(client, key, kind)}
        life = await client.pttl(key)
        if one["value"]:
            found[key.decode()] = one if life < 0 else {**one, "px": life}
    return found


async def restore(client: Client, keys: dict[str, Document]) -> None:
    """The same again, on an empty Redis. What has a life begins it now."""
    for key, one in keys.items():
        value = one["value"]
        match one["type"]:
            case "string":
                await client.set(key, _bytes(value))
            case "hash":
                await client.hset(key, mapping={field: _bytes(said) for field, said in value.items()})
            case "list":
                await client.rpush(key, *(_bytes(said) for said in value))
            case "set":
                await client.sadd(key, *(_bytes(said) for said in value))
            case "zset":
                await client.zadd(key, {_bytes(member): score for member, score in value})
            case _:
                for entry_id, fields in value:
                    await client.xadd(key, {_bytes(name): _bytes(said) for name, said in fields}, id=entry_id)
        if "px" in one:
            await client.pexpire(key, one["px"])


async def _value(client: Client, key: bytes, kind: str) -> Any:
    match kind:
        case "string":
            return _text(await client.get(key))
        case "hash":
            return {field.decode(): _text(said) for field, said in sorted((await client.hgetall(key)).items())}
        case "list":
            return [_text(said) for said in await client.lrange(key, 0, -1)]
        case "set":
            return sorted(_text(said) for said in await client.smembers(key))
        case "zset":
            return [[_text(member), int(score)] for member, score in await client.zrange(key, 0, -1, withscores=True)]
        case _:
            entries = await client.xrange(key)
            return [[id_.decode(), [[_text(a), _text(b)] for a, b in fields.items()]] for id_, fields in entries]


def _text(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _bytes(value: Any) -> bytes:
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else str(value).encode()


async def write(folder: Path) -> None:
    """This version's ledger with everything in it, and what it tells of each message."""
    from tests.support.fixture_ledger import make  # noqa: PLC0415  # only whoever makes one needs it

    client = fakeredis.FakeAsyncRedis()
    now_us, receipts = await make(client)
    folder.mkdir(parents=True, exist_ok=True)
    for name, document in (
        ("keys", {"version": own(), "now_us": now_us, "keys": await dump(client)}),
        ("receipts", receipts),
    ):
        text = json.dumps(document, indent=1, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n")
    await client.aclose()


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1])))
