"""What the command line does to settings of the file that it excludes, and to a warm-up that no longer fits."""

from __future__ import annotations

from typing import Any

import pytest

from foretrain.config import apply_overrides
from foretrain.errors import ConfigError
from foretrain.notes import Code
from foretrain.run.config import RunConfig
from foretrain.run.stages import Draft, StagesConfig

TREE: dict[str, Any] = {
    "model": {"family": "chronos2", "random_init": True},
    "data": {"corpora": [{"path": "corpora/x"}], "context_length": 64, "prediction_length": 8, "sampling": "epoch"},
    "training": {"max_steps": 1000, "batch_size": 256, "micro_batch_size": 8},
    "optimizer": {"schedule": {"kind": "cosine", "warmup_steps": 20}},
    "output_dir": "run",
}


def resolve(
    tree: dict[str, Any], *overrides: str, saved: dict[str, Any] | None = None, **flags: Any
) -> tuple[RunConfig | StagesConfig, list[str]]:
    draft = Draft.of(tree, overrides, {key.replace("__", "."): value for key, value in flags.items()})
    notes = [note for number, _, _ in list(draft.runs()) for note in draft.settle(number, saved=saved)]
    assert all(note.code == Code.SETTING_REPLACED for note in notes)
    return draft.build(), [note.text for note in notes]


def single(tree: dict[str, Any], *overrides: str, **more: Any) -> tuple[RunConfig, list[str]]:
    config, notes = resolve(tree, *overrides, **more)
    assert isinstance(config, RunConfig)
    return config, notes


def test_a_token_budget_of_the_command_line_replaces_the_batch_size_of_the_file_and_says_so():
    config, notes = single(TREE, "training.token_budget.max_tokens_per_batch=8192")
    training = config.training
    assert training.token_budget is not None and training.token_budget.max_tokens_per_batch == 8192
    assert training.micro_batch_size is None
    assert notes == [
        "training.token_budget takes the place of the config's training.batch_size 256 and training.micro_batch_size 8."
    ]


def test_a_batch_size_of_the_command_line_replaces_the_token_budget_of_the_file():
    tree = apply_overrides(TREE, ["training={max_steps: 9, token_budget: {}}", "optimizer={}"])
    config, notes = single(tree, "training.batch_size=16")
    assert config.training.batch_size == 16 and config.training.token_budget is None
    assert notes == ["training.batch_size takes the place of the config's training.token_budget."]


@pytest.mark.parametrize(
    ("override", "kept", "dropped"),
    [
        ("training.epochs=2", ("epochs", 2), "max_steps"),
        ("training.max_steps=30", ("max_steps", 30), "epochs"),
    ],
)
def test_steps_and_epochs_replace_each_other(override, kept, dropped):
    tree = apply_overrides(TREE, [f"training.{dropped}=5", f"training.{kept[0]}=null", "optimizer={}"])
    config, notes = single(tree, override)
    assert getattr(config.training, kept[0]) == kept[1] and getattr(config.training, dropped) is None
    assert f"training.{kept[0]} takes the place of the config's training.{dropped} 5." in notes


def test_a_corpus_of_the_command_line_replaces_generated_series():
    data = {"generated": {}, "context_length": 64, "prediction_length": 8}
    config, notes = single({**TREE, "data": data, "optimizer": {}}, "data.corpora.0.path=corpora/y")
    assert [spec.path for spec in config.data.corpora] == ["corpora/y"] and config.data.generated is None
    assert "data.corpora takes the place of the config's data.generated." in notes


def test_a_folder_of_the_command_line_replaces_the_generated_series_of_an_entry():
    tree = apply_overrides(TREE, ["data.corpora=[{path: a}, {synthetic: {kind: seasonal, num_series: 2, length: 99}}]"])
    config, notes = single(tree, "data.corpora.1.path=corpora/y")
    assert [spec.path for spec in config.data.corpora] == ["a", "corpora/y"]
    assert notes == ["data.corpora.1.path takes the place of the config's data.corpora.1.synthetic."]
    config, notes = single(tree, "data.corpora.0.synthetic={kind: seasonal, num_series: 2, length: 99}")
    assert [spec.path for spec in config.data.corpora] == [None, None] and "data.corpora.0.path a." in notes[0]
    with pytest.raises(ConfigError, match="give either path or synthetic"):
        single(tree, "data.corpora.1.path=y", "data.corpora.1.synthetic.num_series=3")


def test_weights_and_random_weights_replace_each_other():
    config, notes = single(TREE, "model.model_id=amazon/chronos-2")
    assert not config.model.random_init and "model.random_init" in notes[0]
    config, notes = single(apply_overrides(TREE, ["model={model_id: tiny}"]), model__random_init=True)
    assert config.model.model_id is None and "model.model_id tiny" in notes[0]


@pytest.mark.parametrize(
    "both",
    [
        ("training.epochs=2", "training.max_steps=30"),
        ("training.batch_size=16", "training.token_budget.max_tokens_per_batch=8192"),
    ],
)
def test_both_at_the_command_line_or_both_in_the_file_stay_an_error(both):
    for tree, overrides in ((TREE, both), (apply_overrides(TREE, both), ())):
        with pytest.raises(ConfigError, match=r"max_steps and epochs|no effect beside token_budget"):
            resolve(tree, *overrides)


def test_fewer_steps_than_the_warm_up_shrink_it_by_the_same_share():
    config, notes = single(TREE, training__max_steps=15)
    assert config.optimizer.schedule.warmup_steps == 1
    assert notes == [
        "optimizer.schedule.warmup_steps 20 -> 1, since the config's warm-up is longer than the run's 15 steps."
    ]
    assert single(TREE, training__max_steps=20)[0].optimizer.schedule.warmup_steps == 20
    in_epochs = apply_overrides(TREE, ["training.epochs=3", "training.max_steps=null"])
    assert single(in_epochs, training__max_steps=19)[0].optimizer.schedule.warmup_steps == 1


def test_a_warm_up_that_the_command_line_or_the_file_asks_for_is_not_shrunk():
    for overrides in (["training.max_steps=4", "optimizer.schedule.warmup_steps=9"],):
        assert single(TREE, *overrides) == (single(TREE, *overrides)[0], [])
        assert single(TREE, *overrides)[0].optimizer.schedule.warmup_steps == 9
    assert single(apply_overrides(TREE, ["training.max_steps=4"]))[1] == []


@pytest.mark.parametrize("steps", [1, 2, 7, 50, 130])
def test_all_phases_of_a_schedule_fit_a_shorter_run(steps):
    phases = "{kind: wsd, warmup_steps: 20, stable_steps: 50, decay_steps: 70}"
    config, notes = single(apply_overrides(TREE, [f"optimizer.schedule={phases}"]), training__max_steps=steps)
    schedule = config.optimizer.schedule
    assert schedule.decay_steps and schedule.decay_steps >= 1
    assert (schedule.warmup_steps or 0) + (schedule.stable_steps or 0) + schedule.decay_steps <= steps
    assert len(notes) == 1


def test_a_resumed_run_keeps_the_warm_up_that_it_began_with():
    saved = {"training": {"max_steps": 15}, "optimizer": {"schedule": {"kind": "cosine", "warmup_steps": 1}}}
    for steps in ({}, {"training__max_steps": 18}, {"training__max_steps": 400}):
        config, notes = single(TREE, saved=saved, **steps)
        assert config.optimizer.schedule.warmup_steps == 1
        assert notes == ["optimizer.schedule.warmup_steps 20 -> 1, as the run began."]
    as_saved = apply_overrides(saved, ["optimizer.schedule.warmup_steps=20"])
    assert single(TREE, saved=as_saved, training__max_steps=15)[0].optimizer.schedule.warmup_steps == 20


def test_the_stages_of_a_pipeline_are_settled_one_by_one():
    stages = "[{name: a, training: {batch_size: 64}}, {name: b, model: {model_id: 'stage:a', random_init: false}}]"
    tree = apply_overrides({**TREE, "training": {"max_steps": 1000}}, [f"stages={stages}"])
    config, notes = resolve(tree, "stages.a.training.token_budget={}", training__max_steps=5)
    assert isinstance(config, StagesConfig)
    first, second = config.stages
    assert first.training.token_budget is not None and second.training.token_budget is None
    assert first.optimizer.schedule.warmup_steps == second.optimizer.schedule.warmup_steps == 1
    assert [note.partition(" ")[2].partition(" ")[0] for note in notes] == ["a:", "a:", "b:"]
