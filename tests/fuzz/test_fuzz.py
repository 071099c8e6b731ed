"""Whatever stands in a stream or in arq's keys is an envelope or a refusal, a drain or nothing; nothing is executed."""

import os
from pathlib import Path

import pytest

from schemas.envelope import Envelope
from tests.fuzz.mutate import Mutator, corpus
from tests.support.builders import ACME
from workers.broker.arq import deserialize
from workers.bus import door

SEED = int(os.environ.get("POSTROOM_TEST_SEED", "1"))


def test_the_door_answers_every_mutation_with_an_envelope_or_a_refusal(tmp_path: Path) -> None:
    mutator = Mutator(SEED, tmp_path / "executed")
    ends = {"valid": 0, "refused": 0}
    for _ in range(3_000):
        raw = mutator.entry().get(b"message", b"")
        try:
            one = door.read(ACME, raw)
        except door.Refusal as refusal:
            ends["refused"] += 1
            str(refusal).encode()
        else:
            ends["valid"] += 1
            assert door.read(ACME, one.to_wire()).digest() == one.digest()

    assert min(ends.values()) > 300


def test_a_job_is_a_drain_or_nothing(tmp_path: Path) -> None:
    mutator = Mutator(SEED, tmp_path / "executed")
    for _ in range(3_000):
        _, _, payload = mutator.job()
        try:
            job = deserialize(payload or b"")
        except ValueError:
            continue
        assert job["f"] == "drain"
    assert not (tmp_path / "executed").exists()


def test_the_same_seed_makes_the_same_run(tmp_path: Path) -> None:
    one, other = Mutator(7, tmp_path), Mutator(7, tmp_path)

    assert [one.entry() for _ in range(200)] == [other.entry() for _ in range(200)]
    assert [one.job() for _ in range(200)] == [other.job() for _ in range(200)]


@pytest.mark.parametrize(
    "raw", [raw for raw in corpus("envelope") if b"survey" not in raw], ids=lambda raw: raw[:24].decode()
)
def test_the_corpus_is_of_good_envelopes(raw: bytes) -> None:
    assert isinstance(door.read(ACME, raw), Envelope)
