"""Mutated entries and jobs, all from one seed: what somebody might write straight into Redis."""

import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent / "corpus"
MEBIBYTE = 1024 * 1024
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 2, 1e300, 10**400, -(10**18), "", " ", "\x00", "a\nb", "\u202e", "\ud800", "{acme}:*"),
    *([], {}, [[]], {"": ""}, "x" * 300, "../../etc/passwd", "*", "agent:", "2030-13-45", "9" * 5_000),
)
"""Values of every type where another was expected."""
WORDS = (
    *("id", "to", "content", "kind", "tenant", "schema_version", "priority", "ttl", "expires_at", "not_before", "hops"),
    *(
        "reply_to",
        "gather",
        "metadata",
        "trace",
        "on_unknown",
        "conversation",
        "__class__",
        "",
        "to.agent",
        "model_dump",
    ),
)
JOB_ID = "{pool}-fuzz{number}"


class Bomb:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._path),)


def corpus(kind: str) -> list[bytes]:
    """What is mutated: every file of that kind, in order."""
    return [path.read_bytes() for path in sorted(CORPUS.glob(f"{kind}-*"))]


class Mutator:
    """The same seed makes the same entries and jobs."""

    def __init__(self, seed: int, bomb: Path) -> None:
        self._chance = random.Random(seed)
        self._envelopes = corpus("envelope")
        self._jobs = corpus("job")
        self._bomb = pickle.dumps({"t": None, "f": "drain", "a": (Bomb(bomb),), "k": {}, "et": 1})
        self._number = 0

    def entry(self) -> dict[bytes, bytes]:
        """One entry for a stream."""
        raw = self._mutated(self._chance.choice(self._envelopes))
        match self._chance.randrange(60):
            case 0:
                return {b"": b""}
            case 1:
                return {self._bytes(8): raw, b"other": b"x"}
            case 2:
                return {b"f%d" % number: self._bytes(20) for number in range(200)}
            case 3:
                return {b"other": b"x", b"message": raw, b"more": self._bytes(50)}
            case _:
                return {b"message": raw}

    def job(self) -> tuple[bytes, float, bytes | None]:
        """One member of arq's queue, its score, and what stands under its key; None: nothing does."""
        self._number += 1
        pool = self._chance.choice(("express", "standard", "bulk"))
        member = JOB_ID.format(pool=pool, number=self._number).encode()
        if self._chance.random() < 0.3:
            member = self._flipped(member) or b"x"
        score = self._chance.choice((0, 1, -1, 1e12, 4e12, 1e300, float("-inf"), float("inf")))
        kinds: list[Callable[[], bytes | None]] = [
            lambda: None,
            lambda: self._bomb,
            lambda: self._bytes(200),
            lambda: self._mutated(self._chance.choice(self._jobs)),
            lambda: self._chance.choice(self._jobs),
        ]
        return member, score, self._chance.choice(kinds)()

    def _mutated(self, raw: bytes) -> bytes:
        ways: tuple[Callable[[bytes], bytes], ...] = (
            *(self._flipped, self._flipped, self._cut, self._spliced, self._doubled_key, self._nested),
            *(self._value_changed, self._value_changed, self._value_changed, self._key_changed, self._utf8, self._huge),
            lambda same: same,
        )
        for _ in range(self._chance.choice((1, 1, 1, 2, 4))):
            raw = self._chance.choice(ways)(raw)
        return raw

    def _bytes(self, most: int) -> bytes:
        return self._chance.randbytes(self._chance.randrange(most + 1))

    def _flipped(self, raw: bytes) -> bytes:
        changed = bytearray(raw)
        for _ in range(self._chance.choice((1, 1, 2, 8))):
            if changed:
                changed[self._chance.randrange(len(changed))] ^= 1 << self._chance.randrange(8)
        return bytes(changed)

    def _cut(self, raw: bytes) -> bytes:
        return raw[: self._chance.randrange(len(raw) + 1)]

    def _spliced(self, raw: bytes) -> bytes:
        other = self._chance.choice(self._envelopes)
        return raw[: self._chance.randrange(len(raw) + 1)] + other[self._chance.randrange(len(other)) :]

    def _doubled_key(self, raw: bytes) -> bytes:
        name = self._chance.choice(WORDS)
        return raw.replace(b"{", json.dumps({name: self._chance.choice(ODD)})[:-1].encode() + b",", 1)

    def _nested(self, raw: bytes) -> bytes:
        depth = self._chance.choice((20, 33, 1_000, 100_000))
        opening, closing = self._chance.choice(((b"[", b"]"), (b'{"a":', b"}")))
        deep = opening * depth + b"1" + closing * depth
        return raw.replace(b"{", b'{"metadata":{"a":' + deep + b"},", 1)

    def _value_changed(self, raw: bytes) -> bytes:
        def change(document: dict[str, Any]) -> None:
            place = self._somewhere(document)
            place[self._chance.choice([*place, *WORDS])] = self._chance.choice(ODD)

        return self._as_json(raw, change)

    def _key_changed(self, raw: bytes) -> bytes:
        def change(document: dict[str, Any]) -> None:
            place = self._somewhere(document)
            if place:
                value = place.pop(self._chance.choice([*place]))
                place[self._chance.choice([*WORDS, "Content", "x" * 500])] = value

        return self._as_json(raw, change)

    def _somewhere(self, document: dict[str, Any]) -> dict[str, Any]:
        inner = [value for value in document.values() if isinstance(value, dict)]
        return self._chance.choice([document, document, *inner])

    def _as_json(self, raw: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
        try:
            document = json.loads(raw)
        except (ValueError, RecursionError):
            return raw
        if not isinstance(document, dict):
            return raw
        change(document)
        return json.dumps(document, ensure_ascii=self._chance.random() < 0.9).encode(errors="surrogatepass")

    def _utf8(self, raw: bytes) -> bytes:
        odd = self._chance.choice(
            (b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x00", b"\\ud800", b"\xf8")
        )
        at = self._chance.randrange(len(raw) + 1)
        return raw[:at] + odd + raw[at:]

    def _huge(self, raw: bytes) -> bytes:
        if self._chance.random() < 0.97:
            return raw.replace(b'"content":"', b'"content":"' + b"y" * self._chance.randrange(2_000), 1)
        return raw.replace(b'"content":"', b'"content":"' + b"z" * MEBIBYTE, 1)
