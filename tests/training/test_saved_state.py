"""What a checkpoint's JSON files must hold, also when they are signed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from foretrain.reading import Unreadable
from foretrain.training.saved_state import check_manifest, check_state

RUN = Path(__file__).parents[1] / "fixtures" / "old_runs" / "chronos2" / "interrupted" / "checkpoints" / "step-00000004"
STATE = json.loads((RUN / "state.json").read_text())
MANIFEST = json.loads((RUN / "manifest.json").read_text())


def changed(tree: dict[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    tree = copy.deepcopy(tree)
    *parents, last = dotted.split(".")
    place = tree
    for key in parents:
        place = place[key]
    place[last] = value
    return tree


def test_those_of_an_older_version_are_accepted() -> None:
    check_state(STATE)
    check_manifest(MANIFEST)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("progress", []),
        ("progress.step", -1),
        ("progress.step", 4.5),
        ("progress.step", 2**60),
        ("progress.best", "1"),
        ("progress.ended", "tired"),
        ("progress.unknown", 1),
        ("progress.plateau", None),
        ("progress.plateau.scale", -1.0),
        ("progress.validation_due", 1),
        ("totals", {"seconds": float("inf")}),
        ("config", None),
        ("batch_size", 0),
        ("seed", "42"),
        ("threads", None),
        ("data_fingerprint", 5),
        ("optimizer.state", []),
        ("optimizer.state.step", {"float32": {"x": "y"}}),
        ("optimizer.groups", [{"lr": 0.1}]),
        ("optimizer.groups", [{"lr": ["plain", 0.1, 0.2]}]),
    ],
)
def test_a_state_with_a_value_of_another_type_or_range_is_unreadable_and_named(place: str, value: Any) -> None:
    with pytest.raises(Unreadable, match=place.split(".")[0]) as raised:
        check_state(changed(STATE, place, value))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("key", ["progress", "config", "seed", "micro_batch_size", "data_fingerprint"])
def test_a_state_that_lacks_a_key_is_unreadable(key: str) -> None:
    with pytest.raises(Unreadable, match=key):
        check_state({name: value for name, value in STATE.items() if name != key})


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("files", []),
        ("files", {"../x": {"sha256": "0", "bytes": 1}}),
        ("files", {"x": {"sha256": "0"}}),
        ("files", {"x": {"sha256": None, "bytes": 1}}),
        ("step", "4"),
        ("metric", float("nan")),
        ("final", 1),
    ],
)
def test_a_manifest_that_names_no_files_of_its_folder_is_unreadable(place: str, value: Any) -> None:
    with pytest.raises(Unreadable, match=place):
        check_manifest(changed(MANIFEST, place, value))
