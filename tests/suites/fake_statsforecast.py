"""A stand-in for the package statsforecast, as a fixture for other modules: it can be imported, and has a version.

It forecasts the newest value with a distance of a tenth for each percent of an interval, and refuses what falls.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

MODELS = """
import numpy as np

class AutoETS:
    asked, refusal = [], NotImplementedError

    def __init__(self, season_length):
        self.season = season_length

    def forecast(self, y, h, level):
        np.random.seed(0)  # as Theta's intervals do
        self.asked.append((y.tolist(), h, level, self.season))
        if y[-1] < y[0]:
            raise self.refusal("it falls")
        found = {"mean": np.full(h, y[-1])}
        for one in level:
            found |= {f"lo-{one}": np.full(h, y[-1] - one / 10), f"hi-{one}": np.full(h, y[-1] + one / 10)}
        return found

class AutoTheta(AutoETS):
    refusal = Exception
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch) -> Iterator[Callable[[str], None]]:
    """A function that sets the stand-in's version, which is 1.0; it lies in the current folder, a temporary one."""
    package = tmp_path / "statsforecast"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "models.py").write_text(MODELS)
    for name in [name for name in sys.modules if name.partition(".")[0] == "statsforecast"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def set_version(version: str) -> None:
        for old in tmp_path.glob("statsforecast-*.dist-info"):
            (old / "METADATA").unlink()
            old.rmdir()
        described = tmp_path / f"statsforecast-{version}.dist-info"
        described.mkdir()
        (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: statsforecast\nVersion: {version}\n")

    set_version("1.0")
    yield set_version
    for name in [name for name in sys.modules if name.partition(".")[0] == "statsforecast"]:
        del sys.modules[name]


def of_stand_in(folder: Path) -> bool:
    """Return whether the package that is imported is the one in a folder."""
    return Path(sys.modules["statsforecast"].__file__ or "").is_relative_to(folder)
