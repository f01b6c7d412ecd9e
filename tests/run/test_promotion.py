"""Gates of tiny runs: what they started from, and what is recorded."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tests.cli.test_app import foretrain as command
from tests.run.test_pipeline import pipeline
from tests.run.test_train import tiny
from tests.test_world import in_pair, leave

import foretrain
from foretrain.config import dump_yaml
from foretrain.data.importers import import_corpus
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, ModelError, TrainingError
from foretrain.evaluation.metrics import METRICS
from foretrain.evaluation.reference import OTHER, ZERO_SHOT, Promotion
from foretrain.models.hub import release_hash
from foretrain.notes import Code
from foretrain.run.build import build_model
from foretrain.run.config import config_hash, load_config
from foretrain.run.dry_run import describe_run
from foretrain.run.pipeline import run_stages
from foretrain.run.promotion import ZERO_SHOT_ARGUMENT, check_test_split, open_reference, record
from foretrain.run.run_tables import show_facts, show_lines
from foretrain.run.stages import Draft, StagesConfig
from foretrain.run.train import train_run
from foretrain.training.run_record import read_run

GATE = "evaluation.promotion=true"
NAMES = ("release", "best_model", "hf_export")


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def reference_of(place: Path, asked: str = ZERO_SHOT_ARGUMENT):
    return open_reference(asked, str(place), foretrain.load(place).model)


def same(model: Any, other: Any) -> bool:
    a, b = model.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def kept(folder: Path, network: torch.nn.Module) -> bool:
    """Whether the network has the weights that lie in a release."""
    state = load_file(folder / "model.safetensors")
    return all(torch.equal(tensor, state[name]) for name, tensor in network.named_parameters() if name in state)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hourly waves of four items, 260 steps each."""
    folder = tmp_path_factory.mktemp("corpus")
    stamps, rng = pd.date_range("2024-01-01", periods=260, freq="h"), np.random.default_rng(0)
    for item in "abcd":
        wave = 10 + np.sin(np.arange(260) * 2 * np.pi / 24) + rng.normal(0, 0.1, 260)
        pd.DataFrame({"timestamp": stamps, "target": wave}).to_csv(folder / f"{item}.csv", index=False)
    import_corpus([folder], folder / "corpus")
    return folder / "corpus"


@pytest.fixture(scope="module")
def runs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base, trained from random weights, and fine, trained from base with a gate. Not to be written to."""
    folder = tmp_path_factory.mktemp("runs")
    data = f"data.corpora=[{{path: {corpus}}}]"
    train_run(tiny(folder / "base", data, "data.test_steps=80"))
    start = f"model={{family: chronos2, model_id: {folder / 'base' / 'release'}}}"
    train_run(tiny(folder / "fine", data, start, "data.test_steps=80", "training.max_steps=9", GATE))
    return folder


@pytest.fixture
def copy(runs: Path, tmp_path: Path) -> Path:
    """A copy of the fine-tuned run, elsewhere."""
    return shutil.copytree(runs / "fine", tmp_path / "copy")


def test_a_run_s_gate_is_recorded_under_every_name_and_in_the_log(runs: Path):
    found = read(runs / "fine" / "release" / "release.json")["promotion"]
    assert found["against"] == {
        "key": "zero_shot",
        "name": str(runs / "base" / "release"),
        "hash": release_hash(runs / "base" / "release"),
    }
    assert (found["origins"], found["windows"], found["metric"]) == (10, 40, "mase")
    assert set(found["figures"]) == {"model", "zero_shot", "naive", "seasonal_naive"} and all(found["figures"].values())
    inodes = {os.stat(runs / "fine" / name / "release.json").st_ino for name in NAMES}
    assert len(inodes) == 1 and read(runs / "fine" / "final_metrics.json")["promotion"] == found
    outcome = "Promoted" if found["promoted"] else "NOT PROMOTED"
    log = (runs / "fine" / "training.log").read_text()
    assert f"{outcome}: {found['reason']}." in log
    pooled = read(runs / "fine" / "evaluation" / "evaluation.json")["pooled"]["model"]
    assert {name: one["value"] for name, one in found["metrics"].items()} == {
        name: pooled[name] for name in METRICS if name in pooled
    }
    assert found["metrics"]["mase"] == {"value": found["figures"]["model"], "unit": "ratio"}
    assert f"test metrics of 40 windows: wql {pooled['wql']:.4f} | mase {pooled['mase']:.4f} | sql " in log
    record = read_run(runs / "fine")
    assert record.test == found["metrics"]
    assert any(f"test wql {pooled['wql']:.4g} (ratio)" in line for line in show_lines(record, show_facts(record, [])))


def test_a_run_s_gate_leaves_its_evaluation_in_the_run_folder(runs: Path, corpus: Path):
    found = read(runs / "fine" / "evaluation" / "evaluation.json")
    assert found["promotion"] == read(runs / "fine" / "release" / "release.json")["promotion"]
    ranking = found["ranking"]
    skills = [entry["skill"] for entry in ranking["symbols"]]
    assert skills == sorted(skills) and {entry["symbol"] for entry in ranking["symbols"]} == set("abcd")
    assert [ranking[name] for name in ("worst", "median", "best")] == [ranking["symbols"][k] for k in (0, 1, 3)]
    names = {path.name for path in (runs / "fine" / "evaluation").iterdir()}
    assert {"report.html", "per_item.csv", "metrics.csv"} <= names
    log = (runs / "fine" / "training.log").read_text()
    assert f"skill against naive by item: worst {ranking['worst']['symbol']} {skills[0]:+.3f}, median " in log
    assert f"report: {runs / 'fine' / 'evaluation' / 'report.html'}\n" in log
    assert log.splitlines()[-1].endswith(f" next: foretrain forecast {runs / 'fine'} {corpus}")


def test_a_run_that_goes_on_without_its_gate_has_no_evaluation_of_other_weights(copy: Path):
    off = ["evaluation.promotion=false", ("output_dir", str(copy))]
    train_run(load_config(copy / "config.yaml", off), resume="auto")
    assert (copy / "evaluation").is_dir()  # of the same weights
    train_run(load_config(copy / "config.yaml", [*off, "training.max_steps=10"]), resume="auto")
    assert "promotion" not in read(copy / "release" / "release.json") and not (copy / "evaluation").exists()


def test_the_recorded_command_finds_the_same_figures(copy: Path, runs: Path, capsys):
    found = read(copy / "release" / "release.json")["promotion"]
    command(*found["command"].replace(str(runs / "fine"), str(copy)).split()[1:])
    again = read(copy / "release" / "release.json")["promotion"]
    assert again["figures"] == pytest.approx(found["figures"], rel=1e-5)
    assert (again["promoted"], again["verdicts"]) == (found["promoted"], found["verdicts"])
    assert f"recorded in {copy / 'release' / 'release.json'}" in capsys.readouterr().out


def test_a_result_by_settings_that_forecasts_do_not_have_is_not_recorded(copy: Path, corpus: Path, capsys):
    before = read(copy / "release" / "release.json")
    length = before["data"]["context_length"]
    arguments = ("evaluate", copy, "--data", corpus, "--against", "zero-shot", "--num-windows", 2)
    command(*arguments, "--context-length", length // 2, "--no-sort-quantiles", "--option", "symmetric=true")
    assert "scored with sort_quantiles, context_length, options, which its forecasts have" in capsys.readouterr().out
    assert read(copy / "release" / "release.json") == before
    command(*arguments, "--context-length", length, "--sort-quantiles", "--option", "symmetric=false", "--seed", 7)
    assert "recorded in " in capsys.readouterr().out


def test_a_run_without_a_gate_records_nothing(runs: Path):
    assert "promotion" not in read(runs / "base" / "release" / "release.json")
    assert "promotion" not in read(runs / "base" / "final_metrics.json")


@pytest.mark.parametrize("name", ["", *NAMES])
def test_a_fine_tuned_release_started_from_the_release_it_names(copy: Path, runs: Path, name: str):
    found = reference_of(copy / name)
    assert (found.key, found.name) == (ZERO_SHOT, str(runs / "base" / "release"))
    assert kept(runs / "base" / "release", found.model.network)


def test_random_weights_are_made_again_from_the_seed(runs: Path):
    found = reference_of(runs / "base")
    assert (found.name, found.hash) == ("random weights (seed 42)", None)
    assert same(found.model, build_model(load_config(runs / "base" / "config.yaml")))
    assert not kept(runs / "base" / "release", found.model.network)


def test_a_reference_gets_the_model_s_precision_and_options(runs: Path):
    model = foretrain.load(runs / "fine", dtype="bfloat16").model
    options = object()
    found = open_reference(ZERO_SHOT_ARGUMENT, str(runs / "fine"), model, options)
    assert next(found.model.parameters()).dtype == torch.bfloat16 and not found.model.training
    assert found.options is options


def test_any_other_model_can_be_compared_with(runs: Path, zoo, tmp_path: Path):
    found = reference_of(runs / "fine", str(runs / "base"))
    assert (found.key, found.name, found.hash) == (OTHER, str(runs / "base"), release_hash(runs / "base" / "release"))
    zoo.built("kronos").save_release(tmp_path)
    stranger = open_reference(str(tmp_path), str(runs / "fine"), foretrain.load(runs / "fine").model, object())
    assert stranger.model.family == "kronos" and stranger.options is None, "options are of a family"


def test_starting_weights_that_have_changed_are_refused(runs: Path, copy: Path, tmp_path: Path):
    base = shutil.copytree(runs / "base" / "release", tmp_path / "base")
    facts = read(copy / "release" / "release.json")
    facts["parents"]["model"]["asked"] = str(base)
    (copy / "release" / "release.json").write_text(json.dumps(facts))
    assert kept(base, reference_of(copy).model.network)
    before = release_hash(base)
    shutil.copy(copy / "release" / "model.safetensors", base / "model.safetensors")
    hashes = f"its hash is {release_hash(base)}, that of the model was {before}"
    with pytest.raises(ModelError, match=f"{base}: is not the model that .*{hashes}.*--against {base}"):
        reference_of(copy)
    shutil.rmtree(base)
    with pytest.raises(ModelError, match=f"the weights that {copy / 'release'} was trained from: {base}: no such"):
        reference_of(copy)


@pytest.mark.parametrize("record", ["{}", '{"parents": {"tokenizer": {"asked": "reader", "hash": null}}}'])
def test_a_release_that_does_not_say_where_it_started_needs_a_name(copy: Path, record: str):
    (copy / "release" / "release.json").write_text(record)
    with pytest.raises(ConfigError, match=r"does not say what its training started from\. Name it: --against"):
        reference_of(copy)


def test_random_weights_need_the_config_that_they_came_from(runs: Path, tmp_path: Path):
    base = shutil.copytree(runs / "base", tmp_path / "base")
    text = (base / "config.yaml").read_text()
    (base / "config.yaml").write_text(text.replace("seed: 42", "seed: 43"))
    with pytest.raises(ModelError, match=r"config\.yaml: is not the config that"):
        reference_of(base)
    (base / "config.yaml").unlink()
    with pytest.raises(ModelError, match=r"started from random weights, and without the config\.yaml"):
        reference_of(base)


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of two stages with gates. Not to be written to."""
    folder = tmp_path_factory.mktemp("staged") / "run"
    run_stages(pipeline(folder, GATE, "data.test_steps=8"))
    return folder


@pytest.mark.parametrize("place", ["", "stages/01-short", "stages/02-long", "hf_export"])
@pytest.mark.parametrize("moved", [False, True])
def test_a_run_in_stages_started_from_the_weights_of_its_first_stage(staged: Path, tmp_path: Path, place, moved):
    folder = shutil.copytree(staged, tmp_path / "elsewhere") if moved else staged
    first = load_config(folder / "stages" / "01-short" / "config.yaml")
    assert same(reference_of(folder / place).model, build_model(first))


def test_the_gate_of_the_last_stage_is_that_of_the_pipeline(staged: Path):
    found = read(staged / "release" / "release.json")["promotion"]
    assert found["against"]["name"] == "random weights (seed 42)"
    assert read(staged / "final_metrics.json")["promotion"] == found
    assert read(staged / "evaluation" / "evaluation.json")["promotion"] == found
    assert read(staged / "stages" / "02-long" / "release" / "release.json")["promotion"] == found
    assert read(staged / "stages" / "01-short" / "release" / "release.json")["promotion"] != found


def test_a_pipeline_killed_in_its_last_gate_makes_it_when_it_is_resumed(staged: Path, tmp_path: Path):
    folder = shutil.copytree(staged, tmp_path / "run")
    stage = folder / "stages" / "02-long"
    for path in (stage / "release" / "release.json", folder / "release" / "release.json"):
        path.write_text(json.dumps({key: value for key, value in read(path).items() if key != "promotion"}))
    shutil.rmtree(stage / "evaluation")
    config = Draft.read(folder / "config.yaml", [("output_dir", str(folder))]).build()
    assert isinstance(config, StagesConfig)
    assert list(run_stages(config, resume="auto")) == ["long"]
    assert (
        read(folder / "release" / "release.json")["promotion"]
        == read(stage / "evaluation" / "evaluation.json")["promotion"]
    )
    assert run_stages(config, resume="auto") == {}


def candles_in_stages(folder: Path, reader: dict[str, Any], writer: dict[str, Any]) -> StagesConfig:
    """A tokenizer and the predictor that is trained upon it, with gates."""
    tree = {
        "data": {
            "corpora": [{"synthetic": {"kind": "ohlcv", "num_series": 4, "length": 120, "freq": "h"}}],
            "context_length": 24,
            "prediction_length": 6,
        },
        "training": {"max_steps": 2, "batch_size": 2, "tensorboard": False},
        "evaluation": {"promotion": True, "num_samples": 2},
        "stages": [
            {"name": "reader", "model": {"family": "kronos_tokenizer", **reader}},
            {"name": "writer", "model": {"family": "kronos", "tokenizer": "stage:reader", **writer}},
        ],
        "output_dir": str(folder),
        "device": "cpu",
        "threads": 1,
    }
    config = Draft.of(tree).build()
    assert isinstance(config, StagesConfig)
    return config


def test_a_predictor_started_with_the_tokenizer_that_its_pipeline_began_with(zoo, tmp_path: Path):
    zero = tmp_path / "zero"
    zero.mkdir()
    zoo.built("kronos").save_release(zero)
    config = candles_in_stages(tmp_path / "run", {"model_id": str(zero / "tokenizer")}, {"model_id": str(zero)})
    run_stages(config)
    found = reference_of(tmp_path / "run")
    assert kept(zero, found.model.network) and kept(zero / "tokenizer", found.model.tokenizer)
    assert not kept(zero / "tokenizer", foretrain.load(tmp_path / "run").model.tokenizer)
    log = (tmp_path / "run" / "stages" / "01-reader" / "training.log").read_text()
    assert "evaluation.promotion has no effect: kronos_tokenizer makes no forecasts" in log
    assert read(tmp_path / "run" / "release" / "release.json")["promotion"]["against"]["name"] == str(zero)


def test_a_tokenizer_trained_from_scratch_has_no_other_origin_than_its_stage(zoo, tmp_path: Path):
    (tmp_path / "zero").mkdir()
    zoo.built("kronos").save_release(tmp_path / "zero")
    sizes = {"random_init": True, "d_model": 16, "n_heads": 2, "ff_dim": 16, "n_enc_layers": 2, "n_dec_layers": 2}
    bits = read(tmp_path / "zero" / "tokenizer" / "config.json")
    sizes |= {key: bits[key] for key in ("s1_bits", "s2_bits")}
    run_stages(candles_in_stages(tmp_path / "run", sizes, {"model_id": str(tmp_path / "zero")}))
    found = reference_of(tmp_path / "run")
    assert kept(tmp_path / "zero", found.model.network)
    assert kept(tmp_path / "run" / "stages" / "01-reader" / "release", found.model.tokenizer)


@pytest.mark.parametrize("start", ["random", "base"])
def test_an_adapter_started_from_its_base(corpus: Path, runs: Path, tmp_path: Path, start: str):
    pytest.importorskip("peft")
    model = [] if start == "random" else [f"model={{family: chronos2, model_id: {runs / 'base' / 'release'}}}"]
    train_run(tiny(tmp_path / "run", f"data.corpora=[{{path: {corpus}}}]", *model, "adapter.rank=2", GATE))
    found = reference_of(tmp_path / "run")
    if start == "base":
        assert kept(runs / "base" / "release", found.model.network)
    else:
        config = load_config(tmp_path / "run" / "config.yaml", [("adapter", None)])
        assert same(found.model, build_model(config))
    assert read(tmp_path / "run" / "release" / "release.json")["promotion"]["against"]["name"] == found.name


def test_an_adapter_s_folder_is_marked_with_its_run(corpus: Path, runs: Path, tmp_path: Path):
    pytest.importorskip("peft")
    start = f"model={{family: chronos2, model_id: {runs / 'base' / 'release'}}}"
    train_run(tiny(tmp_path / "run", f"data.corpora=[{{path: {corpus}}}]", start, "adapter.rank=2"))
    adapter = tmp_path / "run" / "adapters" / "run"
    assert kept(runs / "base" / "release", reference_of(adapter).model.network)
    command("evaluate", adapter, "--data", corpus, "--against", "zero-shot")
    marks = [read(tmp_path / "run" / name / "release.json")["promotion"] for name in (*NAMES, "adapters/run")]
    assert all(mark == marks[0] for mark in marks)
    assert read(tmp_path / "run" / "final_metrics.json")["promotion"] == marks[0]


def test_a_test_part_without_room_is_reported_before_anything_is_written(corpus: Path, tmp_path: Path):
    config = tiny(tmp_path / "run", f"data.corpora=[{{path: {corpus}}}]", "data.test_steps=4", GATE)
    with pytest.raises(
        ConfigError, match=r"evaluation\.promotion: data\.test_steps 4 has no room for a window of 8 steps"
    ):
        train_run(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "note"),
    [
        ((), {"origins": 2, "needed": 10, "test_steps_needed": 80}),
        (("evaluation.stride=2",), {"origins": 5, "needed": 16, "test_steps_needed": 38}),
        (("evaluation.require_significance=false",), None),
        (("evaluation.promote_over=items",), None),
        (("data.test_steps=80",), None),
    ],
)
def test_a_test_part_too_small_for_a_verdict_is_reported_at_the_start_of_the_log(overrides, note, tmp_path: Path):
    config = tiny(tmp_path / "run", GATE, *overrides)
    found = check_test_split(config, build_model(config))
    assert [(item.code, dict(item.counts)) for item in found] == ([(Code.TOO_FEW_ORIGINS, note)] if note else [])


def test_a_dry_run_tells_it_too(tmp_path: Path):
    assert "it takes 10 to tell a difference" in describe_run(tiny(tmp_path / "run", GATE), World())[-1]


def test_without_asking_for_significance_the_figures_decide(corpus: Path, tmp_path: Path):
    config = tiny(tmp_path / "run", f"data.corpora=[{{path: {corpus}}}]", GATE, "evaluation.require_significance=false")
    train_run(config)
    found = read(tmp_path / "run" / "release" / "release.json")["promotion"]
    figures = found["figures"]
    assert found["promoted"] == (figures["model"] < figures["zero_shot"] and figures["model"] < figures["naive"])
    assert found["require_significance"] is False


def test_significance_without_a_gate_is_an_error(tmp_path: Path):
    with pytest.raises(ConfigError, match="require_significance has no effect without promotion: true"):
        tiny(tmp_path / "run", "evaluation.require_significance=false")


@pytest.mark.parametrize("setting", ["promote_over=items", "clusters=sector"])
def test_a_test_over_items_without_a_gate_is_an_error(setting, tmp_path: Path):
    with pytest.raises(ConfigError, match=f"{setting.partition('=')[0]} has no effect without promotion: true"):
        tiny(tmp_path / "run", f"evaluation.{setting}")
    with pytest.raises(ConfigError, match="promote_over has no effect with require_significance: false"):
        tiny(tmp_path / "run", GATE, "evaluation.promote_over=items", "evaluation.require_significance=false")


def test_clusters_that_do_not_exist_are_reported_before_training(corpus: Path, tmp_path: Path):
    config = tiny(tmp_path / "run", f"data.corpora=[{{path: {corpus}}}]", GATE, "evaluation.clusters=sector")
    with pytest.raises(ConfigError, match=r"clusters: corpus has no column 'sector' \(has target\)"):
        train_run(config)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 36 short series of noise, and the region of each."""
    stamps, rng = pd.date_range("2024-01-01", periods=64, freq="h"), np.random.default_rng(0)
    rows = [
        pd.DataFrame({"item_id": f"shop {k}", "timestamp": stamps, "Region": f"r{k % 12}", "target": 10 + noise})
        for k, noise in enumerate(rng.standard_normal((36, 64)))
    ]
    path = tmp_path_factory.mktemp("shops") / "shops.csv"
    pd.concat(rows).to_csv(path, index=False)
    return path


def test_items_too_few_for_a_test_are_reported_at_the_start_too(corpus: Path, tmp_path: Path):
    data = f"data.corpora=[{{path: {corpus}}}]"
    about = describe_run(tiny(tmp_path / "run", data, GATE, "evaluation.promote_over=items"), World())[-1]
    assert "it takes 10 to tell a difference" in about and "promote_over" not in about


def test_a_run_tests_over_items_and_its_command_repeats_that(shops: Path, tmp_path: Path):
    import_corpus([shops], tmp_path / "corpus")
    items = ("evaluation.promote_over=items", "evaluation.clusters=Region", "data.target=[target]")
    items += ("evaluation.max_items=33", "evaluation.seasonality=3", "evaluation.quantile_levels=[0.1,0.5,0.9]")
    data = f"data.corpora=[{{path: {tmp_path / 'corpus'}}}]"
    train_run(tiny(tmp_path / "run", data, GATE, "data.test_steps=8", *items))
    found = read(tmp_path / "run" / "release" / "release.json")["promotion"]
    assert found["promote_over"] == "items" and found["tests"]["naive"]["over"] == "clusters"
    command(*shlex.split(found["command"])[1:])
    again = read(tmp_path / "run" / "release" / "release.json")["promotion"]
    assert (again["promoted"], again["tests"].keys()) == (found["promoted"], found["tests"].keys())
    assert again["windows"] == found["windows"] == 33 and again["figures"] == pytest.approx(found["figures"], rel=1e-5)
    assert {who: test["count"] for who, test in again["tests"].items()} == {"zero_shot": 12, "naive": 12}


def test_one_origin_of_a_file_is_tested_over_items_or_clusters_and_promotes_if_asked(
    runs: Path, shops: Path, tmp_path: Path, capsys
):
    run = shutil.copytree(runs / "base", tmp_path / "run")

    def promotion(*flags: object) -> tuple[str, dict]:
        shutil.copy(runs / "base" / "release" / "release.json", run / "release" / "release.json")
        command("evaluate", run, "--data", shops, "--num-windows", 1, "--against", "zero-shot", *flags)
        return capsys.readouterr().out, read(run / "release" / "release.json")["promotion"]

    text, found = promotion()
    assert " over items, at this one origin, p" in text
    assert not found["promoted"] and found["tests"]["naive"]["over"] == "items" and found["promote_over"] == "origins"
    text, found = promotion("--promote-over", "items", "--clusters", "region")
    assert " over 12 clusters of items, at this one origin, p" in text
    assert found["tests"]["naive"]["over"] == "clusters" and found["promote_over"] == "items"
    assert "promotes with promote_over items" not in found["reason"]


def test_a_gate_may_come_later_and_is_no_part_of_what_decides_the_weights(corpus: Path, tmp_path: Path):
    data = f"data.corpora=[{{path: {corpus}}}]"
    config = tiny(tmp_path / "run", data)
    train_run(config)
    later = tiny(tmp_path / "run", data, GATE)
    assert config_hash(config) == config_hash(later)
    train_run(later, resume="auto")
    assert read(tmp_path / "run" / "release" / "release.json")["promotion"]["promoted"] is False
    with pytest.raises(TrainingError, match=r"evaluation\.num_windows"):
        train_run(tiny(tmp_path / "run", data, "evaluation.num_windows=7"), resume="auto")


@pytest.mark.processes
def test_two_processes_find_what_one_finds(corpus: Path, runs: Path, tmp_path: Path):
    start = f"model={{family: chronos2, model_id: {runs / 'base' / 'release'}}}"
    config = tiny(
        tmp_path / "two", f"data.corpora=[{{path: {corpus}}}]", start, "data.test_steps=80", "training.max_steps=9",
        GATE, "threads=1", "training.micro_batch_size=4",
    )  # fmt: skip
    (tmp_path / "two.yaml").write_text(dump_yaml(config))
    process = in_pair("train", str(tmp_path / "two.yaml"), output=tmp_path / "log")
    assert leave(process) == 0, (tmp_path / "log").read_text()[-3000:]
    one, two = (read(folder / "release" / "release.json")["promotion"] for folder in (runs / "fine", tmp_path / "two"))
    assert two["figures"] == pytest.approx(one["figures"], rel=1e-3) and two["verdicts"] == one["verdicts"]
    assert (tmp_path / "two" / "training.log").read_text().count(f": {two['reason']}.") == 1


def test_a_release_that_cannot_be_written_is_reported_and_no_error(copy: Path, runs: Path, monkeypatch, logged_notes):
    found = read(copy / "release" / "release.json")["promotion"]

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("foretrain.run.promotion.mark_promotion", full)
    assert record(copy / "release", Promotion(**found)) is False
    (note,) = logged_notes()
    assert note.code == Code.RELEASE_NOT_MARKED and "No space left on device" in note.text
