from __future__ import annotations

import csv
import io
import json
import math
import shutil

import pytest
from rich.console import Console
from tests.training.curves import loss_curve_hash
from tests.training.rhythms import Rhythm, digits, oracle, ranked_steps, scores_of, two

from foretrain.errors import ConfigError
from foretrain.training.evaluators import Evaluation
from foretrain.training.manifest import read_manifest
from foretrain.training.scoring import ValidationResult

RUN = {"max_steps": 20, "checkpoint_every": None, "keep_last": 1}


def rows(out):
    with (out / "validation_history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def said(toy, out, evaluators, **settings):
    """What a run with these evaluators writes to its console."""
    text = io.StringIO()
    console = Console(file=text, width=400)
    result = toy.trainer(out, evaluators=evaluators, console=console, **{**RUN, **settings}).fit()
    assert result.step == RUN["max_steps"]
    return text.getvalue()


def test_two_rhythms_score_their_own_steps_and_the_last_and_retain_their_own_best(toy, tmp_path):
    evaluators = two()
    result = toy.trainer(tmp_path, evaluators=evaluators, **RUN).fit()
    assert [one.calls for one in evaluators] == [[*range(2, 21, 2)], [5, 10, 15, 20]]
    found = scores_of(tmp_path)
    assert {step for step in oracle(found, evaluators)} | {20} == set(toy.steps(tmp_path))
    assert len(toy.steps(tmp_path)) > 2
    for step in toy.steps(tmp_path):
        scores = read_manifest(tmp_path / "checkpoints" / f"step-{step:08d}")["metrics"]
        assert {name: entry["value"] for name, entry in scores.items()} == {
            name: values[step] for name, values in found.items() if step in values
        }
    records = json.loads((tmp_path / "best_records.json").read_text())
    assert [(one["metric"], one["step"], one["value"]) for one in records] == [
        (one.name, step, found[one.name][step])
        for one in evaluators
        for step in ranked_steps(found[one.name], one.keep, one.mode)
    ]
    assert result.scores == {name: values[20] for name, values in found.items()}


def test_scores_are_in_the_journal_a_file_each_and_one_table(toy, tmp_path):
    toy.trainer(tmp_path, evaluators=two(), evaluate=lambda m, s: ValidationResult({"loss": 1.0 / s}),
                validate_every=10, **RUN).fit()  # fmt: skip
    lines = toy.lines(tmp_path, "evaluation")
    files = sorted((tmp_path / "eval_results").iterdir())
    assert [path.name for path in files][:3] == [f"step-0000000{n}.json" for n in ("2-quick", "4-quick", "5-rare")]
    assert len(files) == len(lines) == 14
    for line in lines:
        tree = json.loads((tmp_path / "eval_results" / f"step-{line['step']:08d}-{line['evaluator']}.json").read_text())
        assert tree["metrics"] == {f"benchmark/{line['evaluator']}/avg_wql": line["score"]}
        assert (tree["state"], tree["score"], tree["seconds"]) == ("done", line["score"], line["seconds"])
    table = rows(tmp_path)
    assert [(row["step"], row["evaluator"]) for row in table][4:8] == [
        ("8", "quick"), ("10", ""), ("10", "quick"), ("10", "rare")
    ]  # fmt: skip
    assert [float(row["loss"]) for row in table if row["loss"]] == [0.1, 0.05]
    assert [float(row["benchmark/rare/avg_wql"]) for row in table if row["evaluator"] == "rare"] == [
        *scores_of(tmp_path)["rare"].values()
    ]
    metrics = json.loads((tmp_path / "final_metrics.json").read_text())
    assert set(metrics["evaluations"]["rare"]["metrics"]) == {"benchmark/rare/avg_wql"}
    assert {name: entry["score"] for name, entry in metrics["evaluations"].items()} == {
        name: values[20] for name, values in scores_of(tmp_path).items()
    }


def test_tensorboard_has_the_tags_of_the_metrics(toy, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    toy.trainer(tmp_path, evaluators=two(), tensorboard=True, **RUN).fit()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars("benchmark/rare/avg_wql")}
    assert found == pytest.approx(scores_of(tmp_path)["rare"], rel=1e-6)


@pytest.mark.parametrize("at", [5, 10, 15])
def test_a_run_cut_during_an_evaluation_resumes_to_the_same_best_ones(toy, tmp_path, at):
    """The folder is copied inside the evaluation at step `at`: what a kill leaves behind."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"

    def function(model, step):
        if step == at:
            shutil.copytree(whole, cut, ignore=shutil.ignore_patterns("run.lock"))
        return digits(model, 1e4)

    settings = {**RUN, "checkpoint_every": 4, "validate_every": 5, "ema_decay": 0.9}
    settings["evaluate"] = lambda model, step: ValidationResult({"loss": digits(model, 1e5)})
    toy.trainer(whole, evaluators=two(function), **settings).fit()
    toy.trainer(cut, evaluators=two(), resume="auto", **settings).fit()
    assert loss_curve_hash(cut / "metrics.jsonl") == loss_curve_hash(whole / "metrics.jsonl")
    assert scores_of(cut) == scores_of(whole)
    assert toy.steps(cut) == toy.steps(whole) and oracle(scores_of(cut), two()) <= set(toy.steps(cut))
    ours, theirs = ([(row["step"], row["evaluator"], row["score"]) for row in rows(out)] for out in (cut, whole))
    assert ours == theirs
    names = [sorted(path.name for path in (out / "eval_results").iterdir()) for out in (cut, whole)]
    assert names[0] == names[1]


def test_a_failing_evaluator_leaves_the_run_alive_and_says_so_once(toy, tmp_path):
    def fails(model, step):
        if step == 10:
            raise ValueError("no such\n  series")
        return digits(model)

    text = said(toy, tmp_path, [Rhythm("lite", 5, fails, keep=1), Rhythm("other", 10, keep=1)])
    assert text.count("WARNING") == 1
    assert "WARNING: evaluator lite at step 10: failed after 0s: ValueError: no such series. It ranks no" in text
    states = [(line["step"], line["evaluator"], line["state"]) for line in toy.lines(tmp_path, "evaluation")]
    assert states == [(5, "lite", "done"), (10, "lite", "failed"), (10, "other", "done"), (15, "lite", "done"),
                      (20, "lite", "done"), (20, "other", "done")]  # fmt: skip
    assert next(line for line in toy.lines(tmp_path, "evaluation") if line["state"] == "failed")["problem"]
    assert set(scores_of(tmp_path)["lite"]) == {5, 15, 20}


def test_scores_of_a_part_rank_nothing(toy, tmp_path):
    """The best number of all is over fewer tasks, at step 10."""

    def late(model, step):
        if step == 10:
            return Evaluation({"benchmark/lite/one/wql": 0.0}, None, "out of time", "1 of 2 tasks")
        return 1.0 / step

    one = Rhythm("lite", 5, late, keep=1, max_minutes=0.5)
    text = said(toy, tmp_path, [one])
    assert "WARNING: evaluator lite at step 10: out of time (max_minutes: 0.5) after 0s: 1 of 2 tasks. It ran" in text
    assert toy.steps(tmp_path) == [20] and 10 not in scores_of(tmp_path)["lite"]
    assert [row["benchmark/lite/one/wql"] for row in rows(tmp_path)] == ["", "0.0", "", ""]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_not_finite_ranks_nothing(toy, tmp_path, value):
    said(toy, tmp_path, [Rhythm("lite", 5, lambda model, step: value if step == 5 else 1.0 * step, keep=2)])
    assert toy.steps(tmp_path) == [10, 15, 20]


def test_scores_of_another_definition_are_not_compared(toy, tmp_path):
    """The first half scored something else, with lower numbers, under the same name."""
    first = Rhythm("lite", 5, lambda model, step: 0.1, keep=1, of="first")
    toy.trainer(tmp_path, evaluators=[first], **{**RUN, "max_steps": 10}).fit()
    assert toy.steps(tmp_path) == [5, 10]
    second = Rhythm("lite", 5, lambda model, step: float(step), keep=1, of="second")
    toy.trainer(tmp_path, evaluators=[second], resume="auto", **RUN).fit()
    assert toy.steps(tmp_path) == [10, 15, 20]  # 10 and 20 are final ones


def test_an_earlier_step_gone_back_to_loses_its_later_evaluations(toy, tmp_path):
    settings = {**RUN, "checkpoint_every": 4, "keep_last": 9}
    toy.trainer(tmp_path, evaluators=two(), **settings).fit()
    before = scores_of(tmp_path)
    again = tmp_path / "checkpoints" / "step-00000008"
    toy.trainer(tmp_path, evaluators=two(), resume=str(again), **{**settings, "max_steps": 9}).fit()
    after = {name: {step: score for step, score in rest.items() if step < 9} for name, rest in before.items()}
    assert {name: {s: v for s, v in rest.items() if s < 9} for name, rest in scores_of(tmp_path).items()} == after
    assert max(int(path.name[5:13]) for path in (tmp_path / "eval_results").iterdir()) == 9
    assert max(int(row["step"]) for row in rows(tmp_path)) == 9


def test_the_hook_sees_every_metric_of_a_step_and_ends_the_run(toy, tmp_path):
    seen = []

    def hook(step, metrics):
        seen.append((step, sorted(metrics)))
        return step == 10

    result = toy.trainer(tmp_path, evaluators=two(), validate_every=10, on_validation=hook,
                         evaluate=lambda m, s: ValidationResult({"loss": 1.0}), **RUN).fit()  # fmt: skip
    quick, rare = "benchmark/quick/avg_wql", "benchmark/rare/avg_wql"
    assert seen == [(2, [quick]), (4, [quick]), (5, [rare]), (6, [quick]), (8, [quick]), (10, [quick, rare, "loss"])]
    assert (result.step, result.stopped_by) == (10, "evaluation")
    again = toy.trainer(tmp_path, evaluators=two(), validate_every=10, resume="auto",
                        evaluate=lambda m, s: ValidationResult({"loss": 1.0}), **RUN).fit()  # fmt: skip
    assert (again.step, again.stopped_by) == (10, "evaluation")


def test_an_evaluator_after_every_epoch_needs_a_run_that_counts_them(toy, tmp_path):
    with pytest.raises(ConfigError, match=r"evaluators: lite: every: epoch, but this run counts steps alone"):
        toy.trainer(tmp_path, evaluators=[Rhythm("lite", "epoch")])
    one = Rhythm("lite", "epoch")
    toy.trainer(tmp_path, evaluators=[one], epochs=2, checkpoint_every=None).fit()
    assert one.calls == [7, 13]


def test_two_evaluators_have_two_names(toy, tmp_path):
    with pytest.raises(ConfigError, match="two of them are called 'lite'"):
        toy.trainer(tmp_path, evaluators=[Rhythm("lite", 1), Rhythm("lite", 2)])
