"""Every test here ends with the audit: whatever it did, the ledger is whole."""

from collections.abc import AsyncIterator

import pytest

from tests.support.key_check import audit
from tests.support.ledger import Ledger


@pytest.fixture
async def ledger(ledger: Ledger) -> AsyncIterator[Ledger]:
    """Tenant `acme` on a clock that stands still, audited at the end."""
    yield ledger
    await audit(ledger.client, ledger.context, ledger.time.now_us, ledger.rules)
