"""What suites over all families share, and what the markers `processes` and `gpu` mean."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foretrain.notes import Note

_running: pytest.Item | None = None


@pytest.fixture
def logged_notes(caplog) -> Callable[[], list[Note]]:
    """A function that returns the notes the library has logged since its last call."""

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


def pytest_configure(config: pytest.Config) -> None:
    """Watch for processes that tests start, and collect no garbage while modules are imported."""
    sys.addaudithook(_refuse_processes)
    gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Collect garbage from here on, but never among what imports made: torch alone is a million objects to look at."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    """Note which test runs."""
    global _running
    _running = item
    try:
        return (yield)
    finally:
        _running = None


def _refuse_processes(event: str, details: tuple[Any, ...]) -> None:
    """Fail a test that starts a Python process or forks without the marker: it would run beside another worker's."""
    if event not in ("subprocess.Popen", "os.fork") or _running is None or _running.get_closest_marker("processes"):
        return
    if event == "subprocess.Popen":
        program = details[0] or details[1][0]
        if not Path(str(program)).name.startswith("python"):  # libraries ask uname, fc-list or a compiler
            return
    raise RuntimeError(f"{_running.nodeid} starts a process. Mark it, or its module: pytest.mark.processes")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    wanting = [item for item in items if item.get_closest_marker("gpu")]
    if not wanting:
        return
    import torch

    if not torch.cuda.is_available():
        for item in wanting:
            item.add_marker(pytest.mark.skip(reason=f"torch {torch.__version__} sees no CUDA device"))
