from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from foretrain.config import dump_yaml, parse_scalar, sections_of
from foretrain.errors import ConfigError
from foretrain.run.build import build_model
from foretrain.run.config import RunConfig, RunSettings, config_hash, load_config, shipped_config
from foretrain.run.stages import SECTIONS, Draft, StageConfig, StagesConfig, json_schema, load_any

CONFIGS = Path(__file__).parents[2] / "configs"


def tree(**changes: Any) -> dict[str, Any]:
    """Two stages as a user writes them."""
    return {
        "model": {"family": "chronos2", "dropout_rate": 0.0},
        "data": {"corpora": [{"path": "corpora/a"}], "context_length": 32, "prediction_length": 8},
        "training": {"max_steps": 10, "batch_size": 4},
        "optimizer": {"schedule": {"kind": "cosine", "warmup_steps": 2}},
        "stages": [
            {"name": "short", "model": {"random_init": True}, "training": {"max_steps": 7}},
            {"name": "long", "model": {"model_id": "stage:short"}, "data": {"context_length": 64}},
        ],
        "output_dir": "runs/x",
        **changes,
    }


def pipeline(*overrides: Any, flags: dict[str, Any] | None = None, **changes: Any) -> StagesConfig:
    config = Draft.of(tree(**changes), overrides, flags).build()
    assert isinstance(config, StagesConfig)
    return config


def steps(config: StagesConfig) -> list[int | None]:
    return [stage.training.max_steps for stage in config.stages]


def test_sections_at_the_root_hold_for_every_stage_and_a_stage_s_own_keys_win():
    short, long = pipeline().stages
    assert (short.training.max_steps, long.training.max_steps) == (7, 10)
    assert (short.training.batch_size, long.training.batch_size) == (4, 4)
    assert (short.data.context_length, long.data.context_length) == (32, 64)
    assert long.optimizer.schedule.warmup_steps == 2


SETTINGS = {  # of every section one, with a value that the tree above does not have
    "model": ("dropout_rate", 0.3),
    "data": ("stride", 3),
    "training": ("clip_norm", 0.5),
    "optimizer": ("learning_rate", 0.5),
    "loss": ("name", "mae"),
    "evaluation": ("num_windows", 3),
    "adapter": ("rank", 2),
    "output": ("sort_quantiles", False),
}


def test_the_sections_of_stages_are_those_of_a_run():
    own = {name: field for name, field in RunConfig.model_fields.items() if name not in RunSettings.model_fields}
    of_sections = [name for name, field in own.items() if sections_of(field.annotation)]
    assert list(SECTIONS) == of_sections == list(SETTINGS)
    assert {*of_sections} <= StageConfig.model_fields.keys() & StagesConfig.model_fields.keys()


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_works_at_the_root_and_in_a_stage(section: str):
    key, value = SETTINGS[section]

    def runs(*overrides: str) -> list[RunConfig]:
        config = pipeline(*overrides)
        assert Draft.of(parse_scalar(dump_yaml(config))).build() == config
        return [config.run(number) for number in (0, 1)]

    plain = runs()
    everywhere, in_one = runs(f"{section}.{key}={value}"), runs(f"stages.long.{section}.{key}={value}")
    assert [getattr(getattr(run, section), key) for run in everywhere] == [value, value]
    assert in_one[0] == plain[0] and in_one[1] == everywhere[1] != plain[1]
    assert config_hash(in_one[1]) == config_hash(everywhere[1])
    same_weights = section == "output"  # what is done to forecasts
    assert (config_hash(in_one[1]) == config_hash(plain[1])) is same_weights
    with pytest.raises(ConfigError, match=rf"^config: .*\n  {section}\.nothing: unknown key"):
        runs(f"{section}.nothing=1")
    assert section in json_schema()["$defs"]["StagesConfig"]["properties"]


def test_a_stage_that_keeps_its_own_setting_is_named():
    draft = Draft.of(tree(), ["training.max_steps=7"])
    assert draft.settle(1) == [] and steps(draft.build()) == [7, 7]
    changed = tree()
    changed["stages"][1]["training"] = {"max_steps": 3}
    draft = Draft.of(changed, ["training.max_steps=7"])
    assert draft.settle(0) == []
    assert [note.text for note in draft.settle(1)] == [
        "stage long: its own training.max_steps stays; stages.long.training.max_steps changes it."
    ]
    assert steps(draft.build()) == [7, 3]
    assert Draft.of(changed, ["training.max_steps=3"]).settle(1) == []  # it says the same


def test_a_setting_that_no_stage_takes_is_refused():
    changed = tree()
    for stage in changed["stages"]:
        stage["training"] = {"max_steps": 3}
    with pytest.raises(ConfigError, match=r"^training.max_steps=7: has no effect.*stages\.short\.training.max_steps=7"):
        Draft.of(changed, ["training.max_steps=7"])
    assert steps(Draft.of(changed, flags={"training.max_steps": 7}).build()) == [7, 7]
    assert steps(Draft.of(changed, ["stages.short.training.max_steps=7"]).build()) == [7, 3]


def test_lists_are_replaced_not_joined():
    corpora = [{"path": "corpora/b"}]
    found = pipeline("stages.1.data.corpora=[{path: corpora/b}]")
    assert [spec.path for spec in found.stages[1].data.corpora] == [spec["path"] for spec in corpora]


def test_a_null_in_a_stage_takes_a_value_of_the_root_away():
    found = pipeline("stages.long.training={max_steps: null, epochs: 2}")
    assert (found.stages[1].training.max_steps, found.stages[1].training.epochs) == (None, 2)


@pytest.mark.parametrize("section", [s for s in SECTIONS if not StageConfig.model_fields[s].is_required()])
def test_a_section_set_to_null_in_a_stage_is_its_default_and_not_the_root_s(section: str):
    key, value = SETTINGS[section]
    root = {**tree().get(section, {}), key: value}
    short, long = pipeline(f"stages.long.{section}=null", **{section: root}).stages
    default = StageConfig.model_fields[section].get_default(call_default_factory=True)
    assert getattr(getattr(short, section), key) == value
    assert getattr(long, section) == default
    schema = json_schema()["$defs"]["part_of_StageConfig"]["properties"][section]
    assert {"type": "null"} in schema["anyOf"]


@pytest.mark.parametrize("section", ["model", "data", "training"])
def test_a_required_section_set_to_null_in_a_stage_is_the_root_s(section: str):
    changes = {"model": {"family": "chronos2", "random_init": True}, "stages": [{"name": "only", section: None}]}
    assert getattr(pipeline(**changes).stages[0], section) == getattr(
        pipeline(**{**changes, "stages": [{"name": "only"}]}).stages[0], section
    )


@pytest.mark.parametrize("value", [5, "five", [1]])
def test_a_section_at_the_root_that_is_no_mapping_is_refused(value):
    with pytest.raises(ConfigError, match=r"^training: takes settings \(KEY: VALUE\), which hold for every stage"):
        Draft.of(tree() | {"training": value})


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_set_to_null_at_the_root_is_not_given_there(section: str):
    stages = pipeline().stages
    shared = {name: stages[0].model_dump(mode="json")[name] for name in SECTIONS}
    full = tree(stages=[{"name": "a", **shared}, {"name": "b", **shared}])
    without = {key: value for key, value in full.items() if key != section}
    assert Draft.of(full | {section: None}).build() == Draft.of(without).build()


@pytest.mark.parametrize("value", [None, "foo", 5])
def test_a_stage_that_is_no_mapping_is_refused_by_its_key(value):
    with pytest.raises(ConfigError, match=r"stages\.1"):
        Draft.of(tree(), [("stages.1", value)]).build()


def test_a_tokenizer_stage_can_refuse_the_loss_of_the_root():
    config = pipeline(
        loss={"name": "mae"},
        model={},
        stages=[
            {"name": "tokens", "model": {"family": "kronos_tokenizer", "random_init": True}, "loss": None},
            {"name": "forecasts", "model": {"family": "chronos2", "random_init": True}},
        ],
    )
    assert [config.run(number).loss.name for number in range(2)] == ["own", "mae"]
    build_model(config.run(0), device="meta")  # with the loss of the root this is an error


def test_a_reference_means_the_release_of_that_stage():
    config = pipeline()
    assert config.references(1) == {"model_id": 0}
    run = config.run(1)
    assert run.model.model_id == "runs/x/stages/01-short/release"
    assert run.output_dir == "runs/x/stages/02-long" and run.stage == "long"


def test_a_stage_that_starts_from_another_is_of_its_family():
    config = pipeline(model={}, stages=[
        {"name": "a", "model": {"family": "kronos_tokenizer", "random_init": True}},
        {"name": "b", "model": {"model_id": "stage:a"}},
    ])  # fmt: skip
    assert config.stages[1].model.family == "kronos_tokenizer"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("stage:shrot", r"stages\.1\.model\.model_id: no earlier stage is named 'shrot'\. Did you mean 'short'\?"),
        ("stage:long", r"stages\.1\.model\.model_id: no earlier stage is named 'long'\. Known here: short\."),
    ],
)
def test_a_reference_to_a_stage_that_does_not_come_before_is_an_error(reference, message):
    with pytest.raises(ConfigError, match=message):
        pipeline(f"stages.1.model.model_id={reference}")


def test_a_start_from_weights_of_another_family_is_an_error():
    stages = [
        {"name": "a", "model": {"family": "kronos_tokenizer", "random_init": True}},
        {"name": "b", "model": {"family": "kronos", "model_id": "stage:a"}},
    ]
    with pytest.raises(ConfigError, match=r"stages\.1\.model\.model_id: stage a trains a kronos_tokenizer, this one a"):
        pipeline(model={}, stages=stages)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.1.optimizer.learning_ratee=1", r"stages\.1\.optimizer\.learning_ratee: .* mean 'learning_rate'"),
        ("stages.1.optimizer.learning_rate=fast", r"stages\.1\.optimizer\.learning_rate: .*\(got 'fast'\)"),
        ("stages.1.model.dmodel=1", r"stages\.1\.model\.dmodel: unknown key\. Did you mean 'd_model'\?"),
        ("stages.0.model.family=chronos3", r"stages\.0\.model\.family: 'chronos3' is not known\. .* 'chronos2'\?"),
        ("stages.1.skipp=true", r"stages\.1\.skipp: unknown key\. Did you mean 'skip'\?"),
        ("traning.max_steps=1", r"traning: unknown key\. Did you mean 'training'\?"),
        ("stages.0.training.epochs=1", r"stages\.0\.training: give exactly one of max_steps and epochs"),
        ("stages.1.name=short", r"stages\.1\.name: 'short' is the name of another stage"),
        ("stages.1.name=Long", r"stages\.1\.name: .*\(got 'Long'\)"),
        ("stages.1.name=2", r"stages\.1\.name:"),
        ("stages.1.name='12'", r"stages\.1\.name: .*\(got '12'\)"),
        ("stages=[]", r"stages: "),
        ("stages=short", r"stages: "),
        ("stages.shrot.skip=true", r"stages\.shrot\.skip: no stage is named 'shrot'\. Did you mean 'short'\?"),
        ("stages.2.skip=true", r"stages\.2\.skip: '2' is not one of the 2 list entries"),
    ],
)  # fmt: skip
def test_a_problem_is_named_by_the_key_that_the_user_wrote(override, message):
    with pytest.raises(ConfigError, match=message):
        pipeline(override)


def test_a_problem_at_the_root_is_reported_once_by_its_key_there():
    with pytest.raises(ConfigError) as caught:
        pipeline("optimizer.learning_ratee=1", "stages.1.training.max_steps=0")
    text = str(caught.value)
    assert text.startswith("config: 2 problems") and "stages.1.training.max_steps" in text
    assert "\n  optimizer.learning_ratee: unknown key. Did you mean 'learning_rate'?" in text


def test_skipping_every_stage_is_an_error():
    with pytest.raises(ConfigError, match="stages: the list is empty or all stages are skipped"):
        pipeline("stages.0.skip=true", "stages.1.skip=true")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.max_steps=5", [7, 5]),  # for the stages that do not say it themselves
        ("stages.0.training.max_steps=5", [5, 10]),
        ("stages.long.training.max_steps=5", [7, 5]),
        (("stages.short.training.max_steps", 5), [5, 10]),
    ],
)
def test_overrides_reach_all_stages_or_one_by_position_or_name(override, expected):
    assert steps(pipeline(override)) == expected


def test_a_flag_holds_for_every_stage_even_where_the_key_is_set():
    flags = {"training.max_steps": 3, "training.epochs": None, "output_dir": "runs/y", "seed": 5}
    config = pipeline("stages.1.training={max_steps: null, epochs: 2}", flags=flags)
    assert steps(config) == [3, 3] and (config.output_dir, config.seed) == ("runs/y", 5)
    assert config.run(1).model.model_id == "runs/y/stages/01-short/release"


def test_a_flag_for_the_model_is_refused_where_there_are_several():
    with pytest.raises(ConfigError, match=r"--model-id: this config has stages.*stages\.NAME\.model\.model_id=x"):
        pipeline(flags={"model.model_id": "x", "model.random_init": False})


def test_what_is_printed_is_every_stage_in_full_and_reads_back():
    config = pipeline()
    text = dump_yaml(config)
    assert [set(stage) for stage in yaml.safe_load(text)["stages"]] == [
        {"name", "skip", "skip_existing", *SECTIONS}
    ] * 2
    assert not {"model", "training"} & set(yaml.safe_load(text))
    assert Draft.of(parse_scalar(text)).build() == config


def test_a_config_without_stages_is_a_single_run_as_ever():
    path = shipped_config("debug.yaml")
    config = load_any(path, ["training.max_steps=50"])
    assert isinstance(config, RunConfig) and config == load_config(path, ["training.max_steps=50"])


def test_a_reference_in_a_config_without_stages_is_an_error():
    with pytest.raises(ConfigError, match=r"model\.model_id: there is no stage 'a'; this config has no stages"):
        Draft.of({"model": {"model_id": "stage:a"}, "output_dir": "x"}).build()


def test_the_schema_covers_one_run_and_stages_whose_sections_may_be_partial():
    schema = json_schema()
    assert [part["$ref"] for part in schema["anyOf"]] == ["#/$defs/RunConfig", "#/$defs/StagesConfig"]
    defs = schema["$defs"]
    assert "model" in defs["RunConfig"]["required"] and defs["StagesConfig"]["required"] == ["stages", "output_dir"]
    assert defs["part_of_StageConfig"]["required"] == ["name"]
    assert "required" in defs["DataConfig"] and "required" not in defs["part_of_DataConfig"]
    assert defs["StagesConfig"]["properties"]["data"] == {"$ref": "#/$defs/part_of_DataConfig"}
    names = {name for name in yaml.safe_load(yaml.safe_dump(schema))["$defs"]}
    assert {ref.removeprefix("#/$defs/") for ref in references(schema)} <= names


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [ref for item in value.values() for ref in references(item)]
    return [ref for item in value for ref in references(item)] if isinstance(value, list) else []


# synthetic/ holds mixtures of generators, tune/ searches
RUNS = sorted({*CONFIGS.rglob("*.yaml")} - {*CONFIGS.glob("synthetic/*"), *CONFIGS.glob("tune/*")})


@pytest.mark.parametrize("path", RUNS, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_every_shipped_config_loads_and_builds_on_the_meta_device(path: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_any(path, [("output_dir", str(tmp_path / "run"))])
    if path.name == "base-stage2.yaml":  # starts from the release of the other file
        first = load_config(path.with_name("base.yaml"))
        release = Path(first.output_dir) / "release"
        assert config.model.model_id == str(release)
        release.mkdir(parents=True)
        build_model(first, device="meta").save_release(release, {"x": torch.zeros(1)})
    for run in [config.run(k) for k in range(len(config.stages))] if isinstance(config, StagesConfig) else [config]:
        model = build_model(run, device="meta")
        count = sum(p.numel() for p in model.parameters())
        assert count > 1000 and all(p.is_meta for p in model.parameters())
        if run.stage is None or run.stage == config.stages[-1].name:
            continue
        release = Path(run.output_dir) / "release"  # for the stages that start from it
        release.mkdir(parents=True)
        if count > 10_000_000:  # its architecture will do
            model.save_release(release, {"x": torch.zeros(1)})
            continue
        start = {} if run.model.random_init else {"model_id": None, "random_init": True}  # no hub here
        build_model(run.model_copy(update={"model": run.model.model_copy(update=start)})).save_release(release)
