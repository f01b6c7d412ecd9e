from __future__ import annotations

import hashlib
import json
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import foretrain
from foretrain.config import FieldRule, Section, build, read_yaml, rules, sections_of
from foretrain.data.manifest import Column
from foretrain.data.source import TrainingSource
from foretrain.data.store import Corpus
from foretrain.data.synthetic.mixture import GENERATORS
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, DataError, ModelError, TrainingError
from foretrain.models import FAMILIES
from foretrain.models.hub import release_hash
from foretrain.run.build import open_source, settled
from foretrain.run.config import RunConfig, config_hash, config_hash_1, is_same_config, load_config, shipped_config
from foretrain.run.dry_run import describe_run
from foretrain.run.export import export_checkpoint
from foretrain.run.train import train_run
from foretrain.training import auto, processors
from foretrain.training.manifest import make_manifest
from foretrain.training.settings import check_resumable

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = [
    "data.corpora=[{synthetic: {kind: seasonal, num_series: 6, length: 160, freq: h}}]",
    "data.context_length=32",
    "data.prediction_length=8",
    "data.validation_steps=16",
    "data.test_steps=16",
    "model.d_model=16",
    "model.d_kv=8",
    "model.d_ff=32",
    "model.num_heads=2",
    "model.patch_size=8",
    "training.max_steps=6",
    "training.batch_size=4",
    "training.validate_every=3",
    "training.checkpoint_every=2",
    "training.log_every=1",
    "training.tensorboard=false",
    "optimizer.schedule.warmup_steps=2",
]


def tiny(folder: Path, *more: str):
    return load_config(shipped_config("debug.yaml"), [*TINY, f"output_dir={folder}", *more])


def test_a_run_leaves_the_documented_folder(tmp_path: Path):
    config = tiny(tmp_path / "run")
    _, result = train_run(config)
    run = tmp_path / "run"
    assert result.step == 6 and result.stopped_by == "max_steps"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 6 and all(np.isfinite(losses))
    release = json.loads((run / "release" / "release.json").read_text())
    assert release["data"]["prediction_length"] == 8 and release["data"]["validation_steps"] == 16
    assert release["corpora"][0]["provenance"] == "synthetic"
    assert {"config.json", "model.safetensors"} <= {p.name for p in (run / "release").iterdir()}
    assert read_yaml(run / "config.yaml")["data"]["context_length"] == 32


def test_a_run_in_bfloat16_on_a_cpu_resumes_bit_for_bit(tmp_path: Path):
    """With dropout, whose masks are drawn again in the backward pass."""
    asked = ("training.dtype=bfloat16", "model.dropout_rate=0.1", "optimizer.schedule={kind: constant}")
    train_run(tiny(tmp_path / "whole", *asked))
    train_run(tiny(tmp_path / "cut", *asked, "training.max_steps=4"))
    train_run(tiny(tmp_path / "cut", *asked), resume="auto")
    whole, cut = (load_file(tmp_path / name / "release" / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())
    assert {value.dtype for value in whole.values()} == {torch.float32}


def test_auto_is_saved_as_the_value_that_it_had_and_a_resume_on_another_device_keeps_it(tmp_path: Path, monkeypatch):
    """The GPU is a record of one; the run itself is on the CPU, which computes in bfloat16 too."""
    card = auto.DeviceFacts("a card", "cuda", bfloat16=True, no_compiler="no triton", memory=2**35)
    asked = ("training.dtype=auto", "training.compile=auto", "training.compile_mode=max-autotune")
    with monkeypatch.context() as there:
        there.setattr(auto, "examine", lambda device, compiler: card)
        train_run(tiny(tmp_path / "run", *asked, "training.max_steps=4"))
    saved = read_yaml(tmp_path / "run" / "config.yaml")["training"]
    assert (saved["dtype"], saved["compile"], saved["compile_mode"]) == ("bfloat16", False, "default")
    train_run(tiny(tmp_path / "run", *asked), resume="auto")
    assert read_yaml(tmp_path / "run" / "config.yaml")["training"]["dtype"] == "bfloat16"
    log = (tmp_path / "run" / "training.log").read_text()
    assert "auto on a card: training.dtype bfloat16; training.compile false (no triton)" in log
    assert "auto on cpu: training.dtype bfloat16 as the run began; training.compile false" in log
    hashed = json.loads((tmp_path / "run" / "release" / "release.json").read_text())["config_hash"]
    assert hashed == config_hash(open_source(tiny(tmp_path / "new", "training.dtype=bfloat16"))[0])
    with pytest.raises(TrainingError, match=r"training\.dtype: 'bfloat16' was saved, 'float32' is asked for"):
        train_run(tiny(tmp_path / "run", "training.max_steps=8"), resume="auto")


@pytest.mark.parametrize(("width", "dtype"), [(16, "bfloat16"), (8, "float32")])
def test_auto_on_a_cpu_of_a_recorded_kind_goes_by_the_width_of_the_model(tmp_path: Path, monkeypatch, width, dtype):
    monkeypatch.setattr(auto, "examine", lambda device, compiler: auto.DeviceFacts("cpu", "cpu", kind="a kind"))
    monkeypatch.setattr(processors, "RECORDS", (processors.Record("a kind", "chronos2", 16, 1.5),))
    config = tiny(tmp_path, "training.dtype=auto", f"model.d_model={width}")
    config, lines = settled(*open_source(config), World())
    assert config.training.dtype == dtype and f"training.dtype {dtype} (" in lines[0]


def test_the_saved_config_runs_again_with_equal_weights(tmp_path: Path):
    train_run(tiny(tmp_path / "a"))
    again = load_config(tmp_path / "a" / "config.yaml", [("output_dir", str(tmp_path / "b"))])
    train_run(again)
    a, b = (foretrain.load(tmp_path / name / "release").network.state_dict() for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_fine_tuning_from_a_release_extends_its_context_in_the_saved_config(tmp_path: Path):
    train_run(tiny(tmp_path / "a"))
    config = load_config(
        tmp_path / "a" / "config.yaml",
        [
            ("model", {"family": "chronos2", "model_id": str(tmp_path / "a" / "release")}),
            ("data.context_length", 64),
            ("output_dir", str(tmp_path / "b")),
            ("training.max_steps", 3),
        ],
    )
    train_run(config)
    saved = json.loads((tmp_path / "b" / "release" / "config.json").read_text())
    assert saved["chronos_config"]["context_length"] == 64
    assert json.loads((tmp_path / "b" / "release" / "release.json").read_text())["model_id"].endswith("release")
    assert "adapted to this run: context 32 -> 64\n" in (tmp_path / "b" / "training.log").read_text()
    assert "adapted" not in (tmp_path / "a" / "training.log").read_text()


def test_weights_other_than_those_that_the_config_names_are_refused(tmp_path: Path):
    train_run(tiny(tmp_path / "a"))
    path = str(tmp_path / "a" / "release")
    tree = read_yaml(tmp_path / "a" / "config.yaml") | {"output_dir": str(tmp_path / "b")}
    tree |= {"model": {"family": "chronos2", "model_id": path}, "parents": {"model": "0" * 64}}
    with pytest.raises(
        ModelError, match=rf"parents\.model: {path} .* expected 0{{64}}, found {release_hash(Path(path))}"
    ):
        train_run(build(RunConfig, tree))
    assert not (tmp_path / "b").exists()
    train_run(build(RunConfig, tree | {"parents": {"model": release_hash(Path(path))}}))
    assert read_yaml(tmp_path / "b" / "config.yaml")["parents"] == {"model": release_hash(Path(path))}


def candles(time: str = "regular", **data: Any) -> tuple[RunConfig, TrainingSource]:
    """A Kronos tokenizer's or predictor's config as its data resolve it."""
    names = ["open", "high", "low", "close", "volume", "kind"]
    columns = [*names[:-1], Column(name="kind", kind="categorical", categories=("a", "b"))]
    values = np.ones((6, 90), np.float32)
    axis = None if time == "steps" else np.arange(90) * 3_600_000_000
    corpus = Corpus.from_arrays("bars", [("x", values, axis)], columns, time=time, freq=None if axis is None else "h")
    section = {"corpora": [{"path": "bars"}], "context_length": 32, "prediction_length": 8, **data}
    model = {"family": "kronos", "random_init": True, "tokenizer": "somewhere"}
    tree = {"model": model, "data": section, "training": {"max_steps": 1}, "output_dir": "x"}
    return open_source(build(RunConfig, tree), [corpus])


def test_a_family_chooses_columns_and_time_stamps_where_the_config_does_not():
    config, source = candles()
    assert config.data.target == ("open", "high", "low", "close", "volume") and config.data.with_times is True
    assert source.windows(0, 1).context_times is not None


def test_what_the_config_says_of_columns_and_time_stamps_holds():
    config, source = candles(target=["close"], with_times=False)
    assert config.data.target == ("close",) and source.windows(0, 1).context_times is None


def test_covariates_are_left_out_of_the_columns_that_a_family_chooses():
    assert candles(past_covariates=["volume"])[0].data.target == ("open", "high", "low", "close")


def test_data_without_a_calendar_have_no_time_stamps_even_if_the_family_wants_them():
    config, source = candles("steps")
    assert config.data.with_times is False and source.windows(0, 1).context_times is None


def test_the_log_of_a_run_states_where_it_starts_from_and_its_batch(tmp_path: Path):
    train_run(tiny(tmp_path / "run", "training.micro_batch_size=2"))
    log = (tmp_path / "run" / "training.log").read_text()
    assert "starts from random weights (seed 42)" in log
    assert "batch: 4 windows a step = 2 per process and forward x 2 accumulation x 1 process" in log
    assert "not trained on" not in log


def test_the_log_of_a_run_tells_which_series_it_leaves_out_and_why(tmp_path: Path):
    train_run(tiny(tmp_path / "run", "data.max_train_series=3", "data.holdout_fraction=0.3"))
    log = (tmp_path / "run" / "training.log").read_text()
    assert "3 of 6 series are not trained on: 1 held out (data.holdout_fraction), 2 beyond data.max_train_series" in log


def test_a_second_start_in_the_same_folder_is_refused_and_resume_goes_on(tmp_path: Path):
    config = tiny(tmp_path / "run")
    train_run(config)
    with pytest.raises(TrainingError, match="already holds a run"):
        train_run(config)
    _, result = train_run(tiny(tmp_path / "run", "training.max_steps=8"), resume="auto")
    assert result.step == 8


def made_older(checkpoint: Path, *absent: str) -> None:
    """Take keys (a/b for b in a) away from a checkpoint's state, which an earlier version did not write."""
    state = json.loads((checkpoint / "state.json").read_text())
    for key in absent:
        *parents, last = key.split("/")
        del reduce(lambda tree, part: tree[part], parents, state)[last]
    (checkpoint / "state.json").write_text(json.dumps(state))
    data = (checkpoint / "state.json").read_bytes()
    old = json.loads((checkpoint / "manifest.json").read_text())
    files = old["files"] | {"state.json": {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}}
    manifest = make_manifest(old["step"], old["metric"], old["final"], files)
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def test_a_run_begun_before_a_setting_existed_goes_on_with_its_default(tmp_path: Path):
    train_run(tiny(tmp_path / "run"))
    checkpoint = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    made_older(checkpoint, "config/loss", "config/adapter", "config/training/token_budget", "facts")
    _, result = train_run(tiny(tmp_path / "run", "training.max_steps=8"), resume="auto")
    assert result.step == 8
    assert f"resuming from {checkpoint}" in (tmp_path / "run" / "training.log").read_text()
    with pytest.raises(TrainingError, match=r"loss\.name: 'own' was saved, 'mae' is asked for"):
        train_run(tiny(tmp_path / "run", "training.max_steps=9", "loss.name=mae"), resume="auto")


def test_resume_refuses_another_learning_rate_and_names_the_key(tmp_path: Path):
    train_run(tiny(tmp_path / "run"))
    with pytest.raises(TrainingError, match=r"optimizer\.learning_rate: 0\.002 was saved, 0\.5 is asked for"):
        train_run(tiny(tmp_path / "run", "optimizer.learning_rate=0.5"), resume="auto")


def test_export_writes_a_release_that_equals_the_final_one(tmp_path: Path):
    train_run(tiny(tmp_path / "run", "training.ema_decay=0.9"))
    step = json.loads((tmp_path / "run" / "release" / "release.json").read_text())["step"]
    checkpoint = tmp_path / "run" / "checkpoints" / f"step-{step:08d}"
    export_checkpoint(checkpoint, tmp_path / "ema", ema=True)
    export_checkpoint(checkpoint, tmp_path / "raw")
    released, averaged, raw = (
        foretrain.load(path).network.state_dict()
        for path in (tmp_path / "run" / "release", tmp_path / "ema", tmp_path / "raw")
    )
    assert all(torch.equal(released[name], averaged[name]) for name in released)
    assert any(not torch.equal(released[name], raw[name]) for name in released)
    with pytest.raises(TrainingError, match="exists already"):
        export_checkpoint(checkpoint, tmp_path / "raw")
    facts = {
        n: json.loads((p / "release.json").read_text())
        for n, p in (("raw", tmp_path / "raw"), ("run", tmp_path / "run" / "release"))
    }
    assert facts["raw"]["data"] == facts["run"]["data"] and facts["raw"]["corpora"] == facts["run"]["corpora"]


def test_export_of_averaged_weights_that_were_never_kept_is_refused(tmp_path: Path):
    train_run(tiny(tmp_path / "run"))
    with pytest.raises(TrainingError, match="no averaged weights"):
        export_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000006", tmp_path / "out", ema=True)


def test_a_metric_that_validation_does_not_compute_is_refused_before_training(tmp_path: Path):
    with pytest.raises(
        ConfigError, match=r"training\.best_metric: 'loss' is not computed here; choose one of val_loss"
    ):
        train_run(tiny(tmp_path / "run", "training.best_metric=loss"))
    with pytest.raises(ConfigError, match=r"val_coverage_80_share is best at 0\.8, neither lowest nor highest"):
        train_run(tiny(tmp_path / "run", "training.best_metric=val_coverage_80_share"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("metric", "mode"), [("val_wql", "min"), ("val_skill", "max"), ("val_pct_r2", "max")])
def test_skill_is_better_when_higher(tmp_path: Path, metric, mode):
    assert tiny(tmp_path, f"training.best_metric={metric}").training.mode == mode


@pytest.mark.parametrize("columns", [{"target": ["open", "high", "low"]}, {"past_covariates": ["volume"]}])
def test_columns_that_a_family_cannot_learn_are_reported_before_anything_is_written(tmp_path: Path, columns: dict):
    sizes = {"random_init": True, "d_model": 16, "n_heads": 2, "ff_dim": 16, "n_enc_layers": 2, "n_dec_layers": 2}
    tree = {
        "model": {"family": "kronos_tokenizer", **sizes},
        "data": {
            "corpora": [{"synthetic": {"kind": "ohlcv", "num_series": 4, "length": 120, "freq": "h"}}],
            "context_length": 32,
            "prediction_length": 8,
            **columns,
        },
        "training": {"max_steps": 2},
        "output_dir": str(tmp_path / "run"),
    }
    config = build(RunConfig, tree)
    for start in (lambda: train_run(config), lambda: describe_run(config, World())):
        with pytest.raises(DataError, match="Kronos"):
            start()
    assert not (tmp_path / "run").exists()


# Losses of predictions

BARS = [
    "data.corpora=[{synthetic: {kind: ohlcv, num_series: 6, length: 160, freq: h}}]",
    "data.target=[close]",
    "data.past_covariates=[open, high, low, volume]",
    "model.dropout_rate=0",
]


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [record for record in records if record["kind"] == kind]


def test_a_run_minimises_the_loss_that_it_is_given_and_reports_it_with_its_unit(tmp_path: Path):
    settings = ["loss.name=huber", "training.best_metric=val_mae_pct", "training.max_steps=30"]
    settings += ["training.checkpoint_every=null", "training.validate_every=15"]
    train_run(tiny(tmp_path / "run", *BARS, *settings))
    found = lines(tmp_path / "run", "validation")
    assert {"val_loss", "val_huber_pct_squared", "val_mae_pct", "val_left_out_share"} < found[0].keys()
    assert found[-1]["val_huber_pct_squared"] < found[0]["val_huber_pct_squared"]
    assert found[0]["val_loss"] == found[0]["val_huber_pct_squared"] and found[0]["val_left_out_share"] == 0
    release = json.loads((tmp_path / "run" / "release" / "release.json").read_text())
    unit = "squared percent return from the last close"
    assert release["loss"] == {"name": "huber", "space": "pct_return", "unit": unit}
    assert release["metric"]["name"] == "val_mae_pct"
    log = (tmp_path / "run" / "training.log").read_text()
    assert "loss: huber with delta 1 in squared percent return from the last close (val_huber_pct_squared)" in log
    assert read_yaml(tmp_path / "run" / "config.yaml")["loss"]["space"] == "pct_return"


def test_micro_batches_change_no_loss_of_predictions(tmp_path: Path):
    quick = ["training.validate_every=null", "training.checkpoint_every=null", "evaluation.forecasts=false"]
    for size in (1, 4):
        train_run(tiny(tmp_path / str(size), *BARS, *quick, "loss.name=pinball", f"training.micro_batch_size={size}"))
    one, four = ([r["loss"] for r in lines(tmp_path / str(size), "train")] for size in (1, 4))
    assert len(one) == 6 and one == pytest.approx(four, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["loss.name=gaussian_nll", "model.quantiles=[0.2, 0.5]"], "gaussian_nll needs a standard deviation or the"),
        (["loss={name: pinball, levels: [0.55]}"], "loss.levels: 0.55 is not among the model's quantile levels"),
        (["optimizer.name=lionn"], "'lionn' is not known. Did you mean 'lion'"),
        (["loss.name=mse", "training.best_metric=val_mse_pct"], "choose one of val_loss, val_mse_pct_squared, val_mae"),
        (["optimizer.schedule.warmup_steps=9"], "9 exceed the run's 6 steps"),
        (["evaluation.options.cross_learn=true"], "no forecast option 'cross_learn'. Did you mean 'cross_learning'"),
    ],
)
def test_what_cannot_be_is_refused_by_a_run_and_a_dry_run_before_anything_is_written(tmp_path, settings, message):
    config = tiny(tmp_path / "run", *BARS, *settings)
    for start in (train_run, lambda config: describe_run(config, World())):
        with pytest.raises(ConfigError, match=message):
            start(config)
    assert not (tmp_path / "run").exists()


def test_the_loss_is_part_of_what_decides_the_weights(tmp_path: Path):
    plain, percent, log = (
        config_hash(tiny(tmp_path, *BARS, *more))
        for more in ([], ["loss.name=mae"], ["loss={name: mae, space: log_return}"])
    )
    assert len({plain, percent, log}) == 3


def whole_tree(family: str) -> dict[str, Any]:
    """A config that has every section there is."""
    return {
        "model": {"family": family, "random_init": True},
        "data": {
            "corpora": [{"path": "corpora/a"}, {"synthetic": {}}],
            "context_length": 64,
            "prediction_length": 8,
            "sampling": "epoch",
        },
        "training": {"max_steps": 10, "token_budget": {}, "profile": {"start": 2, "steps": 3}},
        "adapter": {},
        "evaluators": [{"suite": "chronos-lite", "every": 5}],
        "output_dir": "runs/x",
        "parents": {"model": "11", "tokenizer": "22"},
    }


def generated_tree(family: str) -> dict[str, Any]:
    """The same with generated series in the place of corpora."""
    generated = {
        "generators": [{"kind": kind.model_fields["kind"].default} for kind in GENERATORS],
        "contexts": [{"shortest": 8, "longest": 64}],
        "horizons": [{"steps": 8}],
        "corpora": [{"path": "corpora/a"}],
    }
    data = {"context_length": 64, "prediction_length": 8, "generated": generated}
    return {**whole_tree(family), "data": data, "training": {"max_steps": 10}}


def fields_of(section: Section, prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted key, annotation) of every field of a config that holds no sections, with what is in it."""
    found: list[tuple[str, Any]] = []
    for name, field in type(section).model_fields.items():
        value, key = getattr(section, name), f"{prefix}{name}"
        if not sections_of(field.annotation):
            found.append((key, field.annotation))
        elif isinstance(value, Section):
            found += fields_of(value, f"{key}.")
        elif value is not None:
            found += [pair for k, item in enumerate(value) for pair in fields_of(item, f"{key}.{k}.")]
    return found


def another(annotation: Any, value: Any) -> Any:
    """A value of the annotation's kind that is not `value`."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return next(item for item in inner if item != value)
    if origin is tuple:
        return (another(inner[0], value[0] if value else None), *(value or ())[1:])
    if origin is dict:
        return {**(value or {}), "another": "value" if inner[1] is str else 0.25}
    if origin is Annotated or inner:  # X | None
        return another(inner[0], value)
    if annotation is bool:
        return not value
    return f"{value}x" if annotation is str else annotation(value or 0) + (1 if annotation is int else 0.25)


def with_value(section: Any, key: str, change: Any) -> Any:
    """A copy with the value of a dotted key replaced by change(value), unchecked."""
    name, _, rest = key.partition(".")
    if isinstance(section, tuple):
        return tuple(with_value(x, rest, change) if k == int(name) else x for k, x in enumerate(section))
    value = getattr(section, name)
    return section.model_copy(update={name: with_value(value, rest, change) if rest else change(value)})


def declared(key: str) -> FieldRule:
    return dict(rules(RunConfig))[".".join("*" if part.isdigit() else part for part in key.split("."))]


def test_every_field_has_one_rule_in_every_family():
    keys = [key for key, _ in rules(RunConfig)]
    assert len(keys) == len(set(keys))
    trees = [whole_tree(family) for family in FAMILIES] + [generated_tree("chronos2")]
    found = {key for tree in trees for key, _ in fields_of(build(RunConfig, tree))}
    assert {".".join("*" if part.isdigit() else part for part in key.split(".")) for key in found} == set(keys)


@pytest.mark.parametrize("tree", [*map(whole_tree, FAMILIES), generated_tree("chronos2")], ids=[*FAMILIES, "generated"])
def test_every_field_behaves_as_it_declares(tree: dict[str, Any]):
    config = build(RunConfig, tree)
    saved = config.model_dump(mode="json")
    wrong: list[str] = []
    for key, annotation in fields_of(config):
        # A tag takes its whole section along: the test below
        if key == "model.family" or (key.startswith("data.generated.generators.") and key.endswith(".kind")):
            continue
        changed, rule = with_value(config, key, lambda value, a=annotation: another(a, value)), declared(key)
        assert changed != config, key
        if (config_hash(changed) != config_hash(config)) != rule.identity:
            wrong.append(f"{key}: identity")
        try:
            notes = check_resumable(saved, changed.model_dump(mode="json"), RunConfig)
        except TrainingError as error:
            named = f"\n  {key}" in str(error)
            wrong += [f"{key}: {error}"] if rule.on_resume != "refused" or not named else []
            continue
        reported = key == "output_dir" or any(note.startswith(f"{key}: ") for note in notes)
        if rule.on_resume == "refused" or not reported or (rule.note and rule.note not in notes):
            wrong.append(f"{key}: {notes}")
        if rule.on_resume == "fingerprint" and rule.fingerprint != "data":
            with pytest.raises(TrainingError, match=rf"\n  {key}: "):
                check_resumable({**saved, "parents": {}}, {**changed.model_dump(mode="json"), "parents": {}}, RunConfig)
    assert not wrong


def test_families_sections_and_numbers_of_corpora_are_distinguished_by_the_hash():
    trees = [whole_tree(family) for family in FAMILIES]
    trees += [{k: v for k, v in trees[0].items() if k != "adapter"}, {**trees[0], "loss": {"name": "mae"}}]
    trees += [{**trees[0], "data": {**trees[0]["data"], "corpora": [{"path": "a"}] * count}} for count in (1, 2)]
    trees += [{**trees[0], "training": {"max_steps": 10}}]
    configs = [build(RunConfig, tree) for tree in trees]
    assert len({config_hash(config) for config in configs}) == len(trees)
    for one, other in pairwise(configs):
        with pytest.raises(TrainingError, match="cannot be resumed with another config"):
            check_resumable(one.model_dump(mode="json"), other.model_dump(mode="json"), RunConfig)


def test_a_hash_is_of_a_version_and_stays_what_it_was():
    config = build(RunConfig, RECORDED)
    assert config_hash(config) == "2:2bf018ac458fe36eda4b9e4ac0513f3f68f9bea798464233168f5d4287b2aa84"
    assert config_hash_1(config) == "91d8e94fe1f890267cbc285a3610866cdb64ff19256eda46f2c0731660f46c7e"
    other = build(RunConfig, {**RECORDED, "output": {"sort_quantiles": False}})  # the weights stay what they are
    assert (config_hash(other), config_hash_1(other)) == (config_hash(config), config_hash_1(config))
    check_resumable(config.model_dump(mode="json"), other.model_dump(mode="json"), RunConfig)
    corpus, other = RECORDED["data"]["corpora"]
    own = {**RECORDED["data"], "corpora": [{**corpus, "known_covariates": ["price"]}, other]}
    columns = build(RunConfig, {**RECORDED, "data": own})  # of a corpus: other windows, other weights
    assert config_hash(columns) != config_hash(config) and config_hash_1(columns) != config_hash_1(config)
    for family, known in OF_FAMILIES.items():
        tree = {**SHORT, "model": {"family": family, "model_id": "some/where"}}
        assert config_hash_1(build(RunConfig, tree)) == known


def test_a_release_is_compared_by_the_hash_of_its_version(tmp_path: Path):
    config, gone = build(RunConfig, RECORDED), tmp_path / "config.yaml"
    assert is_same_config(config, config_hash(config), gone) == (True, "compared by config_hash")
    assert is_same_config(config, config_hash_1(config), gone) == (True, "compared by config_hash of version 1")
    assert is_same_config(config, None, gone) == (False, "it records no config_hash")
    assert is_same_config(config, "3:ab", gone) == (
        False,
        "its config_hash is of version 3, which this foretrain does not know",
    )


def test_a_config_that_an_earlier_version_saved_can_be_resumed_and_says_nothing():
    saved = build(RunConfig, whole_tree("chronos2")).model_dump(mode="json")
    early = {key: value for key, value in saved.items() if key not in ("loss", "parents")}
    early["training"] = {key: value for key, value in early["training"].items() if key != "checkpoint_minutes"}
    assert check_resumable(early, saved, RunConfig) == []


RECORDED = {  # with the hash of version 1 that this config had before there were versions
    "model": {"family": "chronos2", "random_init": True, "preset": "test", "dropout_rate": 0.1},
    "data": {
        "corpora": [{"path": "corpora/a"}, {"synthetic": {"kind": "ohlcv", "num_series": 4}, "weight": 2.0}],
        "context_length": 64,
        "prediction_length": 8,
        "with_times": False,
    },
    "training": {"max_steps": 100, "batch_size": 16, "keep_last": 3},
    "optimizer": {"learning_rate": 0.001, "schedule": {"kind": "cosine", "warmup_steps": 5}},
    "loss": {"name": "huber", "space": "log_return"},
    "adapter": {"rank": 4},
    "output_dir": "runs/one",
    "seed": 7,
    "device": "cpu",
    "threads": 2,
}
SHORT = {
    "data": {"corpora": [{"path": "x"}], "context_length": 64, "prediction_length": 8},
    "training": {"max_steps": 5},
    "output_dir": "runs/x",
}
OF_FAMILIES = {
    "toto": "c4ff2b7375a7ec426c2834dc7b3f352fe5d98d0b080751ea1649192d52a118b7",
    "toto2": "d59b308cc549039d453f8fb28b766cf762d9acfc54031681137c5a99eac454d8",
}
