"""The clock that tests give the scripts counts milliseconds the way tests do."""

from typing import cast

import pytest

from tests.support.time import ScriptTime
from workers.broker.client import Client


class LastMicrosecond:
    """A server on which a millisecond is all but over."""

    async def time(self) -> tuple[int, int]:
        return 1_800_000_000, 123_999

    async def set(self, _key: str, _value: int) -> None:
        pass


async def started() -> ScriptTime:
    time = ScriptTime(cast("Client", LastMicrosecond()))
    await time.start()
    return time


async def test_microseconds_on_the_way_do_not_bring_a_millisecond_forward() -> None:
    """Whenever it was started: a time of 5 s, set now, is not reached after 4,999 ms and a microsecond."""
    time = await started()
    due = time.now_ms + 5_000
    await time.advance(ms=0.001)
    await time.advance(ms=4_999)
    assert time.now_ms < due
    await time.advance(ms=1)
    assert time.now_ms == due


@pytest.mark.parametrize("ms", [1, 400, 999, 1_001, 4_999, 61_001])
async def test_a_microsecond_more_is_one_microsecond_more(ms: int) -> None:
    """1.001 * 1000 is 1000.9999999999999."""
    time = await started()
    before = time.now_us
    await time.advance(ms=ms + 0.001)
    assert time.now_us == before + ms * 1000 + 1
