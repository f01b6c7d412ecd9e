"""What suites over all families share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from foretrain.notes import Note


@pytest.fixture
def told(caplog) -> Callable[[], list[Note]]:
    """What the library has logged since the last call, as the notes that it logged."""

    def take() -> list[Note]:
        records = [record for record in caplog.records if record.name.partition(".")[0] == "foretrain"]
        caplog.clear()
        return [Note(record.code, record.getMessage(), record.counts) for record in records]

    return take


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    """Builder of small models of every family, and of the releases they are made of."""
    from tests.models.zoo import Zoo  # imports torch, which not every test wants

    return Zoo(tmp_path_factory.mktemp("zoo"))
