"""The search space: what it draws, checks, and tells an adviser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.tuning.needs_optuna import optuna

from foretrain.config import build
from foretrain.errors import ConfigError
from foretrain.run.shipped import config_folder, find_config
from foretrain.run.stages import load_any
from foretrain.tuning.candidates import check_keys
from foretrain.tuning.config import TuneConfig, load_study_config
from foretrain.tuning.space import SearchSpace

SPACE = {
    "adapter.rank": {"kind": "int", "low": 2, "high": 32, "log": True, "when": {"tuned": ["lora"]}},
    "optimizer.lr": {"kind": "float", "low": 1e-5, "high": 1e-2, "log": True},
    "tuned": {"kind": "categorical", "choices": ["lora", "all"]},
    "data.context_length": {"kind": "int", "low": 64, "high": 256, "step": 64},
    "dropout": {"kind": "float", "low": 0.0, "high": 0.5, "step": 0.1},
}


def space(tree: dict | None = None) -> SearchSpace:
    return SearchSpace(config(tree).space)


def config(tree: dict | None = None, **more: object) -> TuneConfig:
    return build(TuneConfig, {"output_dir": "out", "run": "debug", "space": tree or SPACE, **more}, source="a file")


def test_conditional_parameters_stand_after_those_they_depend_on() -> None:
    assert list(space())[:2] == ["tuned", "adapter.rank"]
    assert space().is_conditional and space().categorical == ["tuned"]


def test_draws_keep_bounds_steps_and_conditions() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    drawn = [space().suggest(study.ask()) for _ in range(200)]
    assert {one["tuned"] for one in drawn} == {"lora", "all"}
    for one in drawn:
        assert ("adapter.rank" in one) == (one["tuned"] == "lora")
        assert 1e-5 <= one["optimizer.lr"] <= 1e-2 and one["data.context_length"] in (64, 128, 192, 256)
        assert space().check(one).changes == []


def test_values_from_elsewhere_are_clipped_and_what_has_no_meaning_is_dropped() -> None:
    found = space().check(
        {"optimizer.lr": 1e9, "tuned": "all", "adapter.rank": 8, "data.context_length": 100, "dropout": -0.0}
    )
    assert found.values == {"tuned": "all", "optimizer.lr": 1e-2, "data.context_length": 128, "dropout": 0.0}
    assert len(found.changes) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"optimizer.lr": float("nan")}, "optimizer.lr: takes a finite number"),
        ({"optimizer.lr": True}, "optimizer.lr: takes a number, not True"),
        ({"optimizer.lr": "1e-3"}, "optimizer.lr: takes a number"),
        ({"optimizer.lr": 10**400}, "optimizer.lr: takes a number of at most"),
        ({"data.context_length": 64.5}, "takes a whole number"),
        ({"tuned": "everything"}, "'everything' is none of 'lora', 'all'"),
        ({"optimizer.rl": 1e-3}, "is not in the search space. Did you mean"),
    ],
)
def test_what_cannot_be_made_to_fit_is_refused(change: dict, said: str) -> None:
    good = {"optimizer.lr": 1e-3, "tuned": "all", "data.context_length": 64, "dropout": 0.1}
    with pytest.raises(ConfigError, match=said):
        space().check({**good, **change})
    del good["dropout"]
    with pytest.raises(ConfigError, match="dropout: is missing"):
        space().check(good)


def test_choices_of_different_types_stay_apart() -> None:
    mixed = space({"a": {"kind": "categorical", "choices": [True, 1, "1", None]}})
    assert [mixed.check({"a": value}).values["a"] for value in (True, 1, 1.0, "1", None)] == [True, 1, 1, "1", None]
    assert mixed.check({"a": True}).values["a"] is True


def test_the_schema_is_strict() -> None:
    schema = json.loads(json.dumps(space().json_schema()))
    assert schema["required"] == list(schema["properties"]) == list(space())
    assert schema["additionalProperties"] is False
    assert schema["properties"]["adapter.rank"]["anyOf"][1] == {"type": "null"}


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"a": {"kind": "float", "low": 2, "high": 1}}, "low 2 is above high 1"),
        ({"a": {"kind": "float", "low": 0, "high": 1, "log": True}}, "needs low above 0"),
        ({"a": {"kind": "int", "low": 1, "high": 10, "step": 2}}, "no whole number of steps"),
        ({"a": {"kind": "categorical", "choices": [1, 1.0]}}, "given twice"),
        ({"a": {"kind": "flaot", "low": 0, "high": 1}}, "'flaot' is not known"),
        ({"a": {"kind": "int", "low": 0, "high": 1, "when": {"b": [1]}}}, "the space has no b"),
        (
            {
                "a": {"kind": "int", "low": 0, "high": 1, "when": {"b": [1]}},
                "b": {"kind": "int", "low": 0, "high": 1, "when": {"a": [1]}},
            },
            "leads back",
        ),
        (
            {
                "a": {"kind": "int", "low": 0, "high": 1, "when": {"b": [7]}},
                "b": {"kind": "int", "low": 0, "high": 1},
            },
            "7 is no value of space.b",
        ),
    ],
)
def test_impossible_spaces_are_refused(tree: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config(tree)


def test_several_objectives_exclude_pruning() -> None:
    both = [{"metric": "val_wql"}, {"metric": "val_mase"}]
    assert len(config(objectives=both).objectives) == 2
    with pytest.raises(ConfigError, match="no single curve"):
        config(objectives=both, pruner={"kind": "median"})


def test_every_shipped_search_is_of_a_run_that_is_there_and_tries_keys_of_its_config() -> None:
    found = sorted(config_folder().glob("tune/*.yaml"))
    for path in found:
        if path.name == "compare.yaml":  # it names others of these (tests/tuning/test_compare.py)
            continue
        study = load_study_config(path)
        check_keys(study)
        values = {key: SearchSpace(study.space).parameters[key].fitted(low_of(study, key)) for key in study.space}
        of_run = values if study.task == "train" else {}
        assert load_any(find_config(Path(study.run))[0], [*study.set.items(), *of_run.items()])
    assert [path.stem for path in found] == [
        "chronos2", "compare", "folds", "forecast", "kronos", "linear", "quick", "toto", "toto2"
    ]  # fmt: skip


def test_dots_belong_to_the_keys_of_set_and_space() -> None:
    path = find_config(Path("tune/quick"), "tune")[0]
    before = load_study_config(path)
    overrides = [
        "set.training.max_steps=40", "set.optimizer.betas=[0.9, 0.95]", "space.optimizer.learning_rate.low=1e-3",
        "space.model.dropout_rate=null", "space.seed={kind: int, low: 0, high: 9}",
    ]  # fmt: skip
    after = load_study_config(path, [*overrides, ("sampler.kind", "random")])
    assert after.set == {**before.set, "training.max_steps": 40, "optimizer.betas": [0.9, 0.95]}
    assert after.space["optimizer.learning_rate"].low == 1e-3 and after.space["optimizer.learning_rate"].high == 2e-2
    assert list(after.space) == [*(key for key in before.space if key != "model.dropout_rate"), "seed"]
    with pytest.raises(ConfigError, match="high"):
        load_study_config(path, ["space.optimizer.learning_rate.high=1e-9"])


def low_of(study: TuneConfig, key: str) -> object:
    parameter = study.space[key]
    return parameter.choices[0] if parameter.kind == "categorical" else parameter.low


def test_an_override_of_what_trials_share_is_one_key_of_the_run(tmp_path: Path):
    path = tmp_path / "study.yaml"
    path.write_text(
        "run: debug\noutput_dir: x\nset: {training.max_steps: 100}\nspace: {seed: {kind: int, low: 1, high: 3}}\n"
    )
    found = load_study_config(path, ["set.training.log_every=5", "trials=3", ("set.training.max_steps", 7)])
    assert found.set == {"training.max_steps": 7, "training.log_every": 5} and found.trials == 3
    assert load_study_config(path, ["set={seed: 4}"]).set == {"seed": 4}
