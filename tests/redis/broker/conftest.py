"""Every test here ends with the audit: whatever it did, the ledger is whole."""

from collections.abc import AsyncIterator

import pytest

pytest.register_assert_rewrite("tests.redis.broker.machine", "tests.support.key_check")

from tests.support.key_check import audit  # noqa: E402  # after its asserts were made to speak
from tests.support.ledger import Ledger  # noqa: E402


@pytest.fixture
async def ledger(ledger: Ledger) -> AsyncIterator[Ledger]:
    """Tenant `acme` on a clock that stands still, audited at the end."""
    yield ledger
    await audit(ledger.client, ledger.context, ledger.time.now_us, ledger.rules)
