"""Logs carry ids and outcomes; whatever else somebody hands them is withheld by name."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from pydantic import TypeAdapter, ValidationError

from schemas.context import TraceContext
from tests.support.builders import ACME, envelope, of_tenant, settings
from workers.log import ALLOWED, Log, Opaque, configure

CANARY = "canary-51d0"


@pytest.fixture
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    before = structlog.get_config()
    yield
    structlog.reset_defaults()
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(params=["json", "console"])
def stream(request: pytest.FixtureRequest, _restored: None) -> io.StringIO:
    out = io.StringIO()
    configure(settings(log_format=request.param, log_level="debug"), out)
    return out


def log() -> Log:
    return Log(settings(), role="test")


@pytest.mark.parametrize("field", ["content", "reply", "text", "password", "url", "token_value", "detail", "envelope"])
def test_a_field_that_is_not_on_the_list_is_withheld(stream: io.StringIO, field: str) -> None:
    log().of(ACME).info("settled", **{field: CANARY})

    assert CANARY not in stream.getvalue()
    assert field in stream.getvalue()
    assert "<withheld>" in stream.getvalue()


def test_ids_and_outcomes_are_written(stream: io.StringIO) -> None:
    log().of(ACME).info("settled", delivery="m1:1", state="delivered")

    assert "m1:1" in stream.getvalue()
    assert "delivered" in stream.getvalue()


def test_no_allowed_field_is_one_that_carries_text() -> None:
    assert ALLOWED.isdisjoint({"content", "reply", "detail", "body", "text", "prompt", "url", "key", "args", "kwargs"})


def test_a_tenant_is_opaque_and_the_same_wherever_the_key_is(stream: io.StringIO) -> None:
    log().of(ACME.with_trace(TraceContext(f"00-{'a' * 32}-{'b' * 16}-01"))).info("x")

    assert "acme" not in stream.getvalue()
    assert Opaque("postroom")("acme") in stream.getvalue()
    assert "a" * 32 in stream.getvalue()
    assert Opaque("k1")("acme") == Opaque("k1")("acme") != Opaque("k2")("acme")
    assert Opaque("k1")("acme") != Opaque("k1")("acme2")
    assert log().opaque("globex") == log().opaque(of_tenant("globex").tenant)


def error_with_content() -> Exception:
    """What pydantic says of an envelope quotes it."""
    try:
        TypeAdapter(type(envelope())).validate_python({"to": {"agent": "x"}, "content": CANARY, "kind": CANARY})
    except ValidationError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize("error", [RuntimeError(CANARY), KeyError(CANARY), error_with_content()])
def test_a_traceback_says_where_and_what_kind_but_not_what_was_in_the_message(
    stream: io.StringIO, error: Exception
) -> None:
    """The words of an exception that is not ours may quote anything."""
    content = CANARY
    try:
        raise error  # noqa: TRY301
    except Exception:  # noqa: BLE001
        log().of(ACME).exception("turn failed", delivery="m1:1")
    said = stream.getvalue()

    assert content not in said
    assert type(error).__name__ in said
    assert "test_log.py" in said


def test_the_chain_of_an_exception_is_told_without_its_words(stream: io.StringIO) -> None:
    def fail() -> None:
        try:
            raise KeyError(CANARY)  # noqa: TRY301
        except KeyError as error:
            raise RuntimeError(CANARY) from error

    try:
        fail()
    except RuntimeError:
        log().process.exception("bug")

    assert CANARY not in stream.getvalue()
    assert "KeyError" in stream.getvalue()


@pytest.mark.parametrize("name", ["arq", "arq.worker", "httpx", "aiohttp", "redis", "asyncio"])
def test_libraries_are_heard_at_warning_and_above(stream: io.StringIO, name: str) -> None:
    """A23: arq writes arguments and results at info."""
    logging.getLogger(name).info("drain(%s)", CANARY)
    assert CANARY not in stream.getvalue()

    logging.getLogger(name).warning("slow")
    assert "slow" in stream.getvalue()


def test_a_librarys_traceback_keeps_its_words_too(stream: io.StringIO) -> None:
    try:
        raise ValueError(CANARY)  # noqa: TRY301
    except ValueError:
        logging.getLogger("arq.worker").exception("job failed")

    assert CANARY not in stream.getvalue()
    assert "ValueError" in stream.getvalue()


@pytest.mark.usefixtures("_restored")
def test_json_lines_are_one_document_each() -> None:
    out = io.StringIO()
    configure(settings(log_format="json", log_level="info"), out)
    log().process.info("one\ntwo")
    log().process.debug("not at this level")
    lines: list[dict[str, Any]] = [json.loads(line) for line in out.getvalue().splitlines()]

    assert [line["event"] for line in lines] == ["one\ntwo"]
    assert {"level", "timestamp", "role"} <= set(lines[0])
