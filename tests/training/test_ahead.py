"""Runs on generated series: processes that make micro-batches, resuming, validation, what a release records."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file
from tests.cli.test_app import foretrain as foretrain_command
from tests.training.budget_run import CHRONOS2
from tests.waiting import wait_until

import foretrain
from foretrain.config import build, dump_yaml
from foretrain.data.buckets import MicroBatches
from foretrain.data.splits import Origin
from foretrain.data.store import Corpus
from foretrain.data.synthetic.augment import Augment
from foretrain.data.synthetic.generated import GeneratedSource
from foretrain.data.synthetic.mixture import GENERATORS
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, TrainingError
from foretrain.evaluation.overlap import check_overlap
from foretrain.notes import Code, codes
from foretrain.run.build import open_source
from foretrain.run.config import RunConfig, config_hash
from foretrain.run.dry_run import describe_run
from foretrain.run.train import train_run
from foretrain.training.ahead import AheadOfTraining

GENERATED = {
    "generators": [{"kind": "arma"}, {"kind": "shapes"}], "max_windows": 8, "max_tokens": 800, "patch": 4,
    "horizons": [{"steps": 3}, {"steps": 6}], "micro_batches_per_step": 2, "validation_windows": 12, "workers": 0,
}  # fmt: skip


def config(out: Path, generated: dict[str, Any] | None = None, **training: Any) -> RunConfig:
    settings = {"max_steps": 6, "log_every": 1, "tensorboard": False, "checkpoint_every": 3, **training}
    tree = {
        "model": CHRONOS2,
        "data": {"context_length": 24, "prediction_length": 6, "generated": {**GENERATED, **(generated or {})}},
        "training": settings,
        "optimizer": {"learning_rate": 1e-2},
        "output_dir": str(out),
        "device": "cpu",
    }
    return build(RunConfig, tree)


def stream(out: Path, **generated: Any) -> MicroBatches:
    source = open_source(config(out, generated))[1]
    assert isinstance(source, GeneratedSource)
    return source.stream


def same(one: Path, other: Path) -> bool:
    first, second = (load_file(run / "release" / "model.safetensors") for run in (one, other))
    return first.keys() == second.keys() and all(bool((first[name] == second[name]).all()) for name in first)


def records(run: Path, kind: str = "train") -> list[dict[str, Any]]:
    found = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [record for record in found if record["kind"] == kind]


# -- runs ------------------------------------------------------------------------------------------------------------


def test_a_resumed_run_equals_an_uninterrupted_one_for_every_generator_and_augmentation(tmp_path):
    everything = {
        "generators": [{"kind": kind.model_fields["kind"].default} for kind in GENERATORS],
        "augment": {name: {"share": 0.5} for name in Augment.model_fields},
        "layouts": [{}, {"targets": 1, "past": 1, "known": 1}],
        "micro_batches_per_step": 1,
    }
    train_run(config(tmp_path / "whole", everything))
    train_run(config(tmp_path / "cut", everything, max_steps=3))
    train_run(config(tmp_path / "cut", everything), resume="auto")
    assert same(tmp_path / "whole", tmp_path / "cut")
    losses = [[record["loss"] for record in records(tmp_path / run)] for run in ("whole", "cut")]
    assert losses[0] == losses[1] and np.isfinite(losses[0]).all()


def test_another_number_of_workers_may_continue_a_run_and_other_series_may_not(tmp_path):
    train_run(config(tmp_path, max_steps=3))
    with pytest.raises(TrainingError, match=r"data\.generated\.missing"):
        train_run(config(tmp_path, {"missing": 0.5}), resume="auto")
    weights = {"generators": [{"kind": "arma"}, {"kind": "shapes", "weight": 2.0}]}
    with pytest.raises(TrainingError, match=r"data\.generated\.generators\.1\.weight"):
        train_run(config(tmp_path, weights), resume="auto")
    assert config_hash(config(tmp_path, {"workers": 3})) == config_hash(config(tmp_path))
    assert config_hash(config(tmp_path, {"missing": 0.5})) != config_hash(config(tmp_path))


def test_validation_scores_windows_that_training_does_not_see(tmp_path):
    train_run(config(tmp_path, validate_every=3))
    found = records(tmp_path, "validation")
    assert [record["step"] for record in found] == [3, 6]
    assert all(np.isfinite(record["val_loss"]) for record in found)


def test_a_dry_run_describes_the_stream(tmp_path):
    layouts = [{"share": 3.0}, {"targets": 1, "known": 1}]
    text = "\n".join([*describe_run(config(tmp_path, {"workers": 2, "layouts": layouts}), World()), ""])
    for part in (
        "data: series are generated while the model is trained, without end, by 2 processes per rank",
        "generated: arma 50.0%, shapes 50.0%",
        "horizons 3 50%, 6 50%\n",
        "contexts 8 to 24 100%, in 4 widths\n",
        "1 + 0 + 0 rows (targets, past, known) in 75% of the micro-batches, 8 to 8 windows each\n",
        "1 + 0 + 1 rows (targets, past, known) in 25% of the micro-batches, 8 to 8 windows each\n",
        "steps: 6 of 2 micro-batches over 1 process = 12 micro-batches\n",
    ):
        assert part in text, text


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"batch_size": 8}, "training.batch_size: no effect beside data.generated"),
        ({"token_budget": {}}, "training.token_budget: no effect"),
        ({"max_steps": None, "epochs": 1}, "training.epochs: generated series have no end"),
        ({"validate_every": "epoch"}, "training.validate_every: .* no epochs. Give a number of steps"),
    ],
)
def test_settings_of_batches_that_contradict_the_stream_are_errors(tmp_path, training, message):
    with pytest.raises(ConfigError, match=message):
        describe_run(config(tmp_path, **training), World())


def test_promotion_and_what_needs_names_of_columns_are_refused(tmp_path):
    tree = config(tmp_path).model_dump(mode="json")
    with pytest.raises(ConfigError, match=r"evaluation\.promotion"):
        open_source(build(RunConfig, {**tree, "evaluation": {"promotion": True}}))
    with pytest.raises(ConfigError, match=r"evaluation\.target: no effect beside data\.generated"):
        open_source(build(RunConfig, {**tree, "evaluation": {"target": ["sales"]}}))
    kronos = {"family": "kronos", "random_init": True, "tokenizer": "x"}
    with pytest.raises(ConfigError, match=r"kronos reads .*, and generated series have no named columns"):
        open_source(build(RunConfig, {**tree, "model": kronos}))


# -- what a release says of its data ---------------------------------------------------------------------------------


def test_a_release_records_generated_series_and_has_not_seen_real_ones(tmp_path):
    train_run(config(tmp_path, max_steps=1))
    facts = json.loads((tmp_path / "release" / "release.json").read_text())
    (entry,) = facts["corpora"]
    assert (entry["provenance"], entry["generated"]) == ("synthetic", True)
    assert entry["fingerprint"] == open_source(config(tmp_path))[1].fingerprint
    values = np.arange(60, dtype=np.float32)[None]
    kinds = {
        "real": {"kind": "real"},
        "synthetic": {"kind": "synthetic"},
    }
    found = {
        kind: codes(check_overlap(facts, [Corpus.from_arrays("x", [("a", values, None)], ["x"], provenance=of)],
                                  [[Origin(0, 40)]]))
        for kind, of in kinds.items()
    }  # fmt: skip
    assert found == {"real": set(), "synthetic": {Code.TRAINING_CANNOT_BE_COMPARED}}


def test_a_release_trained_with_covariates_without_names_takes_those_of_a_user(tmp_path):
    layouts = {"layouts": [{}, {"targets": 1, "past": 1, "known": 1}]}
    train_run(config(tmp_path, layouts, max_steps=1))
    rng, model = np.random.default_rng(0), foretrain.load(str(tmp_path))
    frame = pd.DataFrame(
        {"timestamp": pd.date_range("2024-01-01", periods=40, freq="D"), "target": rng.standard_normal(40)}
    )
    ahead = pd.DataFrame({"timestamp": pd.date_range("2024-02-10", periods=6, freq="D"), "promotion": np.arange(6.0)})
    alone = model.forecast_df(frame, prediction_length=6)
    frame["promotion"] = np.arange(40.0)
    found = model.forecast_df(frame, future_df=ahead, prediction_length=6)
    assert len(found) == len(alone) == 6  # the covariate is not forecast
    assert not np.allclose(alone["0.5"], found["0.5"])


# -- processes -------------------------------------------------------------------------------------------------------


@pytest.mark.processes
@pytest.mark.parametrize("workers", [1, 3])
def test_processes_make_the_same_micro_batches_in_their_order(tmp_path, workers):
    plain = stream(tmp_path)
    ahead = AheadOfTraining(plain, iter(range(5, 16)), workers)
    try:
        found = list(ahead)
    finally:
        ahead.close()
    assert len(found) == 11
    for number, windows in zip(range(5, 16), found, strict=True):
        expected = plain.windows(number)
        assert np.array_equal(windows.context, expected.context, equal_nan=True)
        assert np.array_equal(windows.key, expected.key) and windows.static_shapes


@pytest.mark.processes
def test_a_run_with_a_process_and_a_thread_equals_one_without(tmp_path):
    train_run(config(tmp_path / "plain", max_steps=4))
    train_run(config(tmp_path / "process", {"workers": 1}, max_steps=4))
    train_run(config(tmp_path / "both", {"workers": 2}, max_steps=4, prefetch=2))
    assert same(tmp_path / "plain", tmp_path / "process") and same(tmp_path / "plain", tmp_path / "both")


@pytest.mark.processes
def test_closing_ends_the_processes_and_a_killed_one_is_an_error(tmp_path):
    ahead = AheadOfTraining(stream(tmp_path), iter(range(100)), 1)
    (worker,) = ahead._workers
    assert os.getpgid(worker.process.pid) != os.getpgid(0)  # a terminal's Ctrl-C does not reach it, even at its start
    next(ahead)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):  # are left to the rank
        worker.process.send_signal(number)
    next(ahead)
    worker.process.kill()
    with pytest.raises(TrainingError, match=r"a process that generates series ended.*workers=0"):
        for _ in range(100):
            next(ahead)
    ahead.close()
    other = AheadOfTraining(stream(tmp_path), iter(range(100)), 1)
    process = other._workers[0].process
    next(other)
    other.close()
    assert process.returncode == 0


@pytest.mark.processes
def test_a_process_ends_when_its_rank_is_killed(tmp_path):
    data = config(tmp_path).data.model_dump(mode="json")
    code = (  # without torch, whose import costs more than the test
        "import time; from foretrain.config import build; from foretrain.data.config import DataConfig\n"
        "from foretrain.data.synthetic.generated import GeneratedStream\n"
        "from foretrain.training.ahead import AheadOfTraining\n"
        f"ahead = AheadOfTraining(GeneratedStream(build(DataConfig, {data!r}), 0), iter(range(10**6)), 1)\n"
        "next(ahead); print(ahead._workers[0].process.pid, flush=True); time.sleep(3600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as rank:
        assert rank.stdout is not None
        worker = int(rank.stdout.readline())
        rank.kill()
    wait_until(lambda: not _runs(worker))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"  # one that nobody has waited for
    except OSError:
        return False


@pytest.mark.processes
def test_the_command_trains_on_generated_series(tmp_path, capsys):
    tree = config(tmp_path / "run", {"workers": 1}).model_dump(mode="json", exclude_none=True)
    (tmp_path / "config.yaml").write_text(dump_yaml(tree))
    foretrain_command("train", tmp_path / "config.yaml")
    assert "finished at step 6" in capsys.readouterr().out
    assert all(0 <= record["data_share"] < 1 for record in records(tmp_path / "run"))
