"""Which keys separate the best trials from the others."""

from __future__ import annotations

import pytest
from tests.tuning import needs_optuna  # noqa: F401
from tests.tuning.reported import DECAY, NAME, RATE, SPACE, drawn, trial

from foretrain.config import build
from foretrain.tuning.config import TuneConfig
from foretrain.tuning.importance import importance
from foretrain.tuning.records import TrialRecord
from foretrain.tuning.space import SearchSpace


def space_of(**more: object) -> SearchSpace:
    tree = {"output_dir": "x", "run": "debug", "space": {**SPACE, **more}}
    return SearchSpace(build(TuneConfig, tree, source="a test").space)


@pytest.mark.parametrize("way", ["minimize", "maximize"])
def test_the_key_that_decides_has_the_highest_share_and_the_other_is_within_chance(way: str):
    sign = -1.0 if way == "maximize" else 1.0
    records = [r.model_copy(update={"values": tuple(sign * v for v in r.values or ())}) for r in drawn(40)]
    (found,) = importance(space_of(), records, [way])
    assert list(found["keys"]) == [RATE, DECAY] and found["trials"] == 40 and found["best"] == 5
    assert found["keys"][RATE]["share"] > 0.8 and found["keys"][RATE]["above_chance"]
    assert not found["keys"][DECAY]["above_chance"]
    assert sum(one["share"] for one in found["keys"].values()) == pytest.approx(1)


def test_noise_is_within_chance():
    values = [record.values for record in drawn(30, seed=1)]
    records = [r.model_copy(update={"values": v}) for r, v in zip(drawn(30, seed=2), values, strict=True)]
    (found,) = importance(space_of(), records, ["minimize"])
    assert not any(one["above_chance"] for one in found["keys"].values())


def test_a_pruned_trial_counts_as_worse_than_every_complete_one():
    records = [
        trial(r.number, r.params, state="pruned", curve=(0.0,)) if (r.values or (0,))[0] > 2 else r for r in drawn(40)
    ]
    assert any(record.state == "pruned" for record in records)
    (found,) = importance(space_of(), records, ["minimize"])
    (all_complete,) = importance(space_of(), drawn(40), ["minimize"])
    assert found["trials"] == 40 and found["keys"][RATE] == all_complete["keys"][RATE]


def test_each_objective_and_a_conditional_key_have_a_share():
    epsilon = {"kind": "float", "low": 0, "high": 1, "when": {NAME: ["muon"]}}
    space = space_of(**{NAME: {"kind": "categorical", "choices": ["adamw", "muon"]}, "optimizer.epsilon": epsilon})
    records = []
    for record in drawn(30):
        muon = record.number % 2 == 0
        own = {**record.params, NAME: "muon" if muon else "adamw", **({"optimizer.epsilon": 0.5} if muon else {})}
        records.append(record.model_copy(update={"params": own, "values": (*(record.values or ()), float(muon))}))
    first, second = importance(space, records, ["minimize", "minimize"])
    assert next(iter(first["keys"])) == RATE
    assert next(iter(second["keys"])) in (NAME, "optimizer.epsilon")


def same(records: list[TrialRecord]) -> list[TrialRecord]:
    return [record.model_copy(update={"values": (1.0,)}) for record in records]


@pytest.mark.parametrize(
    "records, keys, reason",
    [
        (drawn(9), SPACE, "9 trials, 9 of them complete, are too few"),
        (same(drawn(20)), SPACE, "all trials have the same value"),
        ([trial(k, {RATE: 0.1 / (k + 1)}, float(k)) for k in range(12)], {RATE: SPACE[RATE]}, "the space has one key"),
    ],
)
def test_where_there_is_none_it_is_said_why(records: list[TrialRecord], keys: dict, reason: str):
    tree = {"output_dir": "x", "run": "debug", "space": keys}
    space = SearchSpace(build(TuneConfig, tree, source="a test").space)
    (found,) = importance(space, records, ["minimize"])
    assert found["keys"] == {} and reason in found["reason"]
