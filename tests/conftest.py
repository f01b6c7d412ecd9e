"""What suites over all families share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    """Builder of small models of every family, and of the releases they are made of."""
    from tests.models.zoo import Zoo  # imports torch, which not every test wants

    return Zoo(tmp_path_factory.mktemp("zoo"))
