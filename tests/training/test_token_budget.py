"""Runs by a token budget: the same windows and the same learning as without, in another order and other shapes."""

from __future__ import annotations

import functools
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.models.zoo import CANDLE, CONTEXT, HORIZON, ZOO
from tests.training.budget_run import BUDGET, DATA, config, corpus
from tests.training.curves import loss_curve_hash

from foretrain.config import build
from foretrain.data.buckets import Buckets
from foretrain.data.config import DataConfig
from foretrain.data.source import TrainingSource
from foretrain.data.store import Corpus
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, TrainingError
from foretrain.models import FAMILIES
from foretrain.models.base import Trainable
from foretrain.run.build import open_source
from foretrain.run.dry_run import describe_run
from foretrain.run.train import check_run, train_run
from foretrain.training.loader import stream_of
from foretrain.training.monitor import Monitor
from foretrain.training.settings import plan_run
from foretrain.training.step import Updater

WORLD = World()


def train(out: Path, *, resume: str | None = None, poison: tuple[int, int] | None = None, **settings):
    return train_run(config(out, **settings), corpora=[corpus(poison)], world=WORLD, resume=resume)


def records(out: Path) -> list[dict]:
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == "train"]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "release" / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    curves = {loss_curve_hash(out / "metrics.jsonl") for out in (one, other)}
    a, b = weights(one), weights(other)
    return len(curves) == 1 and all(torch.equal(a[name], b[name]) for name in a)


def buckets_of(out: Path, **settings) -> Buckets:
    made = config(out, **settings)
    stream = stream_of(open_source(made, [corpus()])[1], made.training)
    assert isinstance(stream, Buckets)
    return stream


# -- the same windows, the same losses -------------------------------------------------------------------------------


def source_for(name: str, known: bool = False) -> TrainingSource:
    """Ragged series of what a family reads."""
    rng = np.random.default_rng(1)
    columns = CANDLE[:5] if ZOO[name].candles else ("a", "b", "c")
    items = []
    for k in range(12):
        steps = int(rng.integers(9, 70))
        values = 50 + rng.standard_normal((len(columns), steps)).cumsum(1)
        if ZOO[name].candles:
            values[1], values[2] = values[:4].max(0) + 1, values[:4].min(0) - 1
        values[:, rng.random(steps) < 0.05] = np.nan
        items.append((f"{k}", values.astype(np.float32), (1000 * k + np.arange(steps)) * 3_600_000_000))
    tree = {**DATA, "corpora": [{"path": "ragged"}], "with_times": ZOO[name].candles}
    if not ZOO[name].candles:
        tree |= {"past_covariates": ["b"], "known_covariates": ["c"] if known else []}
    assert (tree["context_length"], tree["prediction_length"]) == (CONTEXT, HORIZON)
    made = Corpus.from_arrays("ragged", items, list(columns), time="regular", freq="h")
    return TrainingSource(build(DataConfig, tree), 0, [made])


@torch.no_grad()
def epoch_losses(model: Trainable, batches) -> dict[str, tuple[float, float]]:
    found: dict[str, list[float]] = {}
    for windows in batches:
        for key, loss in model.validation_losses(model.collate(windows)).items():
            sums = found.setdefault(key, [0.0, 0.0])
            sums[0] += loss.total.double().item()
            sums[1] += loss.weight.item()
    return {key: (total, weight) for key, (total, weight) in found.items()}


# Families that read covariates known ahead a patch early have a token before a window's first patch, if there is room.
@pytest.mark.parametrize(("name", "known"), [*((name, False) for name in FAMILIES), ("chronos2", True)])
def test_an_epoch_s_losses_in_buckets_are_those_of_the_plain_order(zoo, name, known):
    model, source = zoo.shared(name), source_for(name, known)
    buckets = source.in_buckets((8, 16), (2, 4), 300)
    firsts = range(0, source.epoch_length, 7)
    plain = epoch_losses(model, (source.windows(n, min(7, source.epoch_length - n)) for n in firsts))
    ours = epoch_losses(model, (buckets.windows(m) for m in range(buckets.epoch_length)))
    assert any(buckets.windows(m).num_padding_windows for m in range(buckets.epoch_length))
    for key in plain.keys() - ZOO[name].of_micro_batches:
        assert ours[key] == pytest.approx(plain[key], rel=2e-5), key
    assert all(ours[key][1] == plain[key][1] for key in plain)


# -- steps, ranks, resume --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_every_window_is_trained_on_once_an_epoch_by_any_number_of_processes(tmp_path, size):
    stream = buckets_of(tmp_path)
    plan = plan_run(config(tmp_path, epochs=1).training, epoch_length=stream.epoch_length, world_size=size)
    by_rank = [[m for step in range(plan.steps) for m in plan.for_rank(step, rank, size)] for rank in range(size)]
    assert len({len(batches) for batches in by_rank}) == 1  # else a rank would wait for gradients forever
    seen = Counter()
    for micro_batch in (m for batches in by_rank for m in batches if not m.idle):
        windows = stream.windows(micro_batch.first, micro_batch.count)
        seen.update(map(tuple, windows.source[: len(windows) - windows.num_padding_windows].tolist()))
    source = open_source(config(tmp_path), [corpus()])[1]
    assert seen == Counter(map(tuple, source.windows(0, source.epoch_length).source.tolist()))


def test_epochs_become_steps_of_so_many_micro_batches(tmp_path):
    count = buckets_of(tmp_path).epoch_length
    result = train(tmp_path / "run", epochs=1.5, checkpoint_every=None)[1]
    assert result.step == -(-round(1.5 * count) // BUDGET["micro_batches_per_step"])


def test_windows_are_counted_without_padding_windows(tmp_path, monkeypatch):
    counted, plain = [], Monitor.step

    def counting(self, result, *rest, **more):
        counted.append(result.windows)
        plain(self, result, *rest, **more)

    monkeypatch.setattr(Monitor, "step", counting)
    train(tmp_path / "run", epochs=1, checkpoint_every=None)
    assert sum(counted) == open_source(config(tmp_path), [corpus()])[1].epoch_length


def test_a_budget_learns_what_plain_batches_learn(tmp_path):
    train(tmp_path / "run", epochs=3, checkpoint_every=None)
    losses = [record["loss"] for record in records(tmp_path / "run")]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


@pytest.mark.parametrize("at", [3, 4])
def test_a_run_resumed_in_the_middle_of_an_epoch_equals_an_uninterrupted_one(tmp_path, at):
    train(tmp_path / "whole", dropout=0.2)
    train(tmp_path / "cut", dropout=0.2, max_steps=at)
    train(tmp_path / "cut", dropout=0.2, resume="auto")
    assert same(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize(
    "change", [{"max_tokens_per_batch": 241}, {"length_buckets": [8]}, {"micro_batches_per_step": 2}]
)
def test_a_run_is_not_resumed_with_another_budget(tmp_path, change):
    train(tmp_path / "run", max_steps=2)
    with pytest.raises(TrainingError, match=rf"training.token_budget.{next(iter(change))}: .* was saved"):
        train(tmp_path / "run", resume="auto", budget=change)


def test_a_bad_micro_batch_is_rolled_back_over_and_kept_for_replay(tmp_path):
    bad = (3, 57)
    train(tmp_path / "run", epochs=1, poison=bad, on_nonfinite="rollback", checkpoint_every=4)
    lines = records(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    facts = [json.loads(path.read_text()) for path in (tmp_path / "run" / "nonfinite").glob("*.json")]
    assert facts and all(fact["first_window"] is None for fact in facts)
    for fact in facts:
        real = [place for place in fact["source"] if place != [-1, -1, -1]]
        assert len(real) == fact["windows"]
        assert any(series == bad[0] and cutoff - 24 <= bad[1] < cutoff + 6 for _, series, cutoff in real)


def test_a_run_that_rolled_back_resumes_exactly(tmp_path):
    settings = {"poison": (3, 57), "on_nonfinite": "rollback", "checkpoint_every": 4}
    train(tmp_path / "whole", **settings, max_steps=12)
    assert (tmp_path / "whole" / "nonfinite").exists()
    train(tmp_path / "cut", **settings, max_steps=11)
    train(tmp_path / "cut", **settings, max_steps=12, resume="auto")
    assert same(tmp_path / "cut", tmp_path / "whole")


def test_preparing_ahead_changes_nothing(tmp_path):
    for depth in (0, 2):
        train(tmp_path / str(depth), dropout=0.2, prefetch=depth)
    assert same(tmp_path / "0", tmp_path / "2")


# -- warm-up ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [{}, {"activation_checkpointing": True}])
def test_warming_up_changes_not_a_bit_of_a_run_nor_of_its_resume(tmp_path, extra):
    settings = {"dropout": 0.2, "ema_decay": 0.9, **extra}
    for on in (False, True):
        train(tmp_path / str(on), budget={"warmup": on}, max_steps=2, **settings)
        train(tmp_path / str(on), budget={"warmup": on}, max_steps=4, resume="auto", **settings)
    assert same(tmp_path / "True", tmp_path / "False")
    warmups = [
        (tmp_path / str(on) / "training.log").read_text().count("warmed up for 6 shapes") for on in (False, True)
    ]
    assert warmups == [0, 2]


def test_time_spent_warming_up_is_not_in_the_rates(tmp_path, monkeypatch):
    monkeypatch.setattr(Updater, "warm_up", lambda self, batches: time.sleep(3))
    train(tmp_path / "run", budget={"warmup": True}, max_steps=1)
    assert records(tmp_path / "run")[0]["steps_per_s"] > 1 / 3


def test_after_the_warm_up_nothing_is_compiled_any_more(tmp_path, monkeypatch):
    """Neither by training nor by validation. Graphs are captured and not turned into code, which would take long."""
    from torch._dynamo.utils import counters

    plain = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", functools.partialmethod(plain, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    graphs, warm_up = [], Updater.warm_up

    def counting(self, batches):
        warm_up(self, batches)
        graphs.append(counters["stats"]["unique_graphs"])

    monkeypatch.setattr(Updater, "warm_up", counting)
    settings = {"compile": True, "validate_every": 4, "best_metric": "val_loss"}
    data = {"validation_steps": 6, "test_steps": 0}
    train(tmp_path / "compiled", data=data, **settings)
    assert graphs == [12]  # of each of 6 shapes two: the last block computes the forecast's tokens alone
    assert counters["stats"]["unique_graphs"] == 12
    train(tmp_path / "eager", data=data, **{**settings, "compile": False})
    losses = [[record["loss"] for record in records(tmp_path / name)] for name in ("compiled", "eager")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


# -- what is logged and refused ----------------------------------------------------------------------------------------


def test_a_dry_run_shows_the_buckets(tmp_path):
    tree = {"corpora": [{"synthetic": {"kind": "seasonal", "num_series": 4, "length": 90, "freq": "h"}}]}
    lines = describe_run(config(tmp_path / "run", data=tree, epochs=2), WORLD)
    table = [line for line in lines if line.startswith("  context ")]
    assert "bucket 24 added, data.context_length" in lines
    assert any(line.startswith("buckets: ") and line.endswith(" micro-batches") for line in lines)
    assert table and all(" windows = " in line for line in table)
    steps = next(line for line in lines if line.startswith("steps: "))
    assert "of 3 micro-batches over 1 process" in steps and steps.endswith("2.00 epochs")


def test_the_log_names_the_buckets_and_the_batch_of_a_step(tmp_path):
    train(tmp_path / "run", max_steps=1)
    log = (tmp_path / "run" / "training.log").read_text()
    assert "batch: 3 micro-batches a step = 3 accumulation x 1 process\n" in log
    assert "  context 24 + horizon 6, variates 1: " in log


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 8}, "batch_size and micro_batch_size have no effect beside token_budget"),
        ({"micro_batch_size": 8}, "batch_size and micro_batch_size have no effect beside token_budget"),
        ({"budget": {"length_buckets": [0]}}, "length_buckets"),
        ({"budget": {"micro_batches_per_step": 0}}, "micro_batches_per_step"),
        ({"budget": {"bucket_lengths": [4]}}, "length_buckets"),
    ],
)
def test_settings_that_cannot_take_effect_are_errors(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": {"sampling": "random"}}, "Set data.sampling: epoch"),
        ({"budget": {"max_tokens_per_batch": 29}}, r"context 24 \+ horizon 6 .* smallest budget that works here is 30"),
    ],
)
def test_what_the_data_cannot_give_is_refused_before_anything_is_written(tmp_path, zoo, settings, message):
    made = config(tmp_path / "run", **settings)
    made, source = open_source(made, [corpus()])
    with pytest.raises(ConfigError, match=message):
        check_run(made, source, zoo.shared("chronos2"))
    with pytest.raises(ConfigError, match=message):
        train_run(made, source=source, world=WORLD)
    assert not (tmp_path / "run").exists()
