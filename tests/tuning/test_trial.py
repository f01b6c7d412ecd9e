"""One trial: its record and losses, a kill, failures, pruning, and silence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.tuning.studies import never, study

from foretrain.data.writer import CorpusWriter
from foretrain.errors import ConfigError, DataError, Interrupted, MissingCorpusError
from foretrain.tuning.losses import loss_matrix, read_losses
from foretrain.tuning.trial import check_study, run_trial

RATE = "optimizer.learning_rate"


def steps_of(folder: Path) -> list[int]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if line.get("kind") == "train" or "loss" in line]


def test_a_trial_records_its_folds_and_the_losses_of_the_chosen_weights(tmp_path: Path, capfd) -> None:
    config = study(tmp_path, folds={"count": 2}, constraints={"seconds": 1e-9, "memory_gb": 1e3})
    told: list[tuple[int, float]] = []
    record = run_trial(
        config, 3, {RATE: 0.01}, tmp_path / "t3", source="sampler", report=lambda *at: bool(told.append(at))
    )
    assert record.state == "complete" and record.number == 3 and record.steps == 12 and record.attempts == 1
    assert [step for step, _ in told] == [2, 4, 6, 8, 10, 12]
    assert [(p.fold, p.step) for p in record.curve] == [(0, 2), (0, 4), (0, 6), (1, 8), (1, 10), (1, 12)]
    assert [p.value for p in record.curve] == [value for _, value in told]
    best = [min(p.value for p in record.curve if p.fold == fold) for fold in (0, 1)]
    assert record.values == (sum(best) / 2,) and record.metrics["val_wql"] == sum(best) / 2
    assert not record.feasible and record.constraints["seconds_per_forecast"] > 0
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "t3" / "fold-0" / "release").exists()
    # the losses are of these weights: with naive's they give the skill of the chosen step
    table = read_losses(tmp_path / "t3" / "losses.parquet")
    for fold in (0, 1):
        mine = np.array(table.column("fold")) == fold
        loss, naive, steps = (np.array(table.column(name))[mine] for name in ("loss", "naive", "steps"))
        assert len(loss) == 12 and (steps == 12).all()
        skill = 1 - (loss * steps).sum() / (naive * steps).sum()
        assert skill == pytest.approx(record.folds[fold]["val_skill"], rel=1e-6)
    matrix = loss_matrix({3: tmp_path / "t3"})
    assert matrix.values.shape == (6, 1) and (np.diff(matrix.cutoffs) == 12 * 3600 * 10**6).all()
    assert matrix.folds.tolist() == [1, 1, 1, 0, 0, 0]


def test_a_trial_that_is_stopped_goes_on_and_ends_as_one_that_was_not(tmp_path: Path) -> None:
    config = study(tmp_path, folds={"count": 2})

    def stop(step: int, value: float) -> bool:
        if step == 10:  # in the second fold
            raise Interrupted(143, "stopped")
        return False

    with pytest.raises(Interrupted):
        run_trial(config, 0, {RATE: 0.01}, tmp_path / "cut", source="sampler", report=stop)
    assert not (tmp_path / "cut" / "result.json").exists()
    cut = run_trial(config, 0, {RATE: 0.01}, tmp_path / "cut", source="sampler", report=never)
    whole = run_trial(config, 0, {RATE: 0.01}, tmp_path / "whole", source="sampler", report=never)
    assert (cut.attempts, whole.attempts) == (2, 1)
    for name in ("values", "metrics", "folds", "curve", "steps"):
        assert getattr(cut, name) == getattr(whole, name)
    assert read_losses(tmp_path / "cut" / "losses.parquet").equals(read_losses(tmp_path / "whole" / "losses.parquet"))
    assert [steps_of(tmp_path / "cut" / f"fold-{k}") for k in (0, 1)] == [[1, 2, 3, 4, 5, 6]] * 2
    again = run_trial(config, 0, {RATE: 0.01}, tmp_path / "cut", source="sampler", report=stop)
    assert again == cut  # a trial that has ended is read, not run


def test_a_pruned_trial_says_so(tmp_path: Path) -> None:
    config = study(tmp_path, folds={"count": 2})
    record = run_trial(  # pruners of Optuna answer by a numpy.bool
        config, 0, {RATE: 0.01}, tmp_path / "t", source="sampler", report=lambda step, _: np.bool_(step >= 4)
    )
    assert record.state == "pruned" and record.values is None and record.steps == 4 and "pruned" in record.message
    assert [p.step for p in record.curve] == [2, 4] and not (tmp_path / "t" / "losses.parquet").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({RATE: -1.0}, "learning_rate"),
        ({"data.context_length": 10**6, RATE: 0.01, "data.min_rows": 10**6}, "min_rows"),
        ({RATE: 1e30}, "finite"),
    ],
)
def test_a_candidate_that_fails_is_recorded_as_failed(tmp_path: Path, change: dict, said: str) -> None:
    record = run_trial(study(tmp_path), 0, change, tmp_path / "t", source="adviser", report=never)
    assert record.state == "failed" and record.values is None and said in record.message
    assert "\n" not in record.message and record.source == "adviser"


def test_absent_data_concern_the_study(tmp_path: Path) -> None:
    config = study(tmp_path, change={"data.corpora": [{"path": str(tmp_path / "nowhere")}]})
    with pytest.raises(MissingCorpusError):
        run_trial(config, 0, {RATE: 0.01}, tmp_path / "t", source="sampler", report=never)
    assert not (tmp_path / "t" / "result.json").exists()


def held_out(folder: Path, **more: object) -> dict:
    """An evaluator on a corpus of two series that the run does not train on."""
    with CorpusWriter(folder / "other", ["target"], time="steps") as writer:
        for seed in (1, 2):
            writer.append(f"s{seed}", np.random.default_rng(seed).normal(size=(1, 200)).cumsum(axis=1))
    return {"name": "held", "corpus": str(folder / "other"), "prediction_length": 12, "every": 2, **more}


def test_an_objective_of_an_evaluator_is_its_figure_at_the_step_that_the_validation_chose(tmp_path: Path) -> None:
    evaluators = {"evaluators": [held_out(tmp_path, num_windows=2)]}
    objectives = [{"metric": "held/avg_wql"}, {"metric": "val_wql"}]
    config = study(tmp_path, change=evaluators, objectives=objectives)
    assert "lets the choice see those days" in check_study(config)[-1]
    record = run_trial(config, 0, {RATE: 0.01}, tmp_path / "t", source="sampler", report=never)
    assert record.state == "complete", record.message
    lines = [json.loads(line) for line in (tmp_path / "t" / "fold-0" / "metrics.jsonl").read_text().splitlines()]
    of_evaluator = {line["step"]: line["benchmark/held/avg_wql"] for line in lines if line["kind"] == "evaluation"}
    of_validation = {line["step"]: line["val_wql"] for line in lines if line["kind"] == "validation"}
    step = min(of_validation, key=lambda step: (of_validation[step], step))
    assert list(of_evaluator) == [2, 4, 6] and record.values == (of_evaluator[step], of_validation[step])
    assert [(point.step, point.value) for point in record.curve] == list(of_evaluator.items())


@pytest.mark.parametrize(
    ("metric", "more", "said"),
    [
        ("held/avg_wql", {"every": 3}, "the evaluator is due every 3, and the validation, .* every 2"),
        ("held/avg_wqll", {}, "evaluator held has no 'avg_wqll'. It has avg_wql, "),
        ("held/other/wql", {}, "evaluator held has no 'other/wql'"),
        ("hold/avg_wql", {}, "no evaluator of the run is called hold. The run has held"),
    ],
)
def test_an_objective_that_no_evaluator_measures_is_refused(tmp_path: Path, metric: str, more: dict, said: str) -> None:
    evaluators = {"evaluators": [held_out(tmp_path, **more)]}
    with pytest.raises(ConfigError, match=said):
        check_study(study(tmp_path, change=evaluators, objectives=[{"metric": metric}]))


def test_what_auto_stands_for_is_settled_before_a_trial_is_scored(tmp_path: Path) -> None:
    config = study(tmp_path, change={"training.dtype": "auto", "training.compile": "auto", "training.max_steps": 2})
    assert check_study(config)
    record = run_trial(config, 0, {RATE: 0.01}, tmp_path / "t", source="sampler", report=never)
    assert record.state == "complete", record.message


def test_a_study_is_checked_before_its_first_trial(tmp_path: Path) -> None:
    lines = check_study(study(tmp_path, folds={"count": 3}))
    assert [line.partition(":")[0] for line in lines] == ["fold 0", "fold 1", "fold 2"]
    assert "4 series" in lines[2] and "3 forecast origins" in lines[2]
    assert "no test part" in check_study(study(tmp_path, change={"data.test_steps": 0}))[-1]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"space": {"optimizer.learning_rat": {"kind": "float", "low": 1, "high": 2}}}, "learning_rat"),
        ({"space": {"data.prediction_length": {"kind": "int", "low": 1, "high": 2}}}, "which windows are scored"),
        ({"space": {"training": {"kind": "categorical", "choices": ["a"]}}}, "the study sets it itself"),
        ({"objectives": [{"metric": "val_wqll"}]}, "is not computed"),
        ({"objectives": [{"metric": "lite/avg_wql"}]}, "no evaluator"),
        ({"folds": {"count": 20}}, "fold 9 .* too little history"),
        ({"folds": {"count": 2, "every": 12}}, "would overlap"),
        ({"folds": {"count": 2, "every": "5D"}}, "cut by steps"),
        ({"change": {"evaluation.forecasts": False}, "objectives": [{"metric": "val_loss"}]}, "forecasts"),
        ({"change": {"training.validate_every": None}}, "validate_every"),
        ({"run": "kronos/two-stage"}, "has stages"),
    ],
)
def test_a_study_that_cannot_run_is_refused(tmp_path: Path, more: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_study(study(tmp_path, **more))


def test_damaged_files_of_a_trial_concern_the_study_and_are_named(tmp_path: Path) -> None:
    config = study(tmp_path)
    run_trial(config, 0, {RATE: 0.01}, tmp_path / "t", source="sampler", report=never)
    (tmp_path / "t" / "result.json").unlink()  # as if its worker had been killed before it
    for name in ("trial.json", "fold-0/fold.json", "fold-0/losses.parquet"):
        path = tmp_path / "t" / name
        whole = path.read_bytes()
        table = pa.table({"fold": [0]}) if path.suffix == ".parquet" else None
        path.write_text('{"steps": 6}') if table is None else pq.write_table(table, path)
        with pytest.raises(DataError, match=rf"{name}.*(\n.*)*Restore it, or delete its folder"):
            run_trial(config, 0, {RATE: 0.01}, tmp_path / "t", source="sampler", report=never)
        path.write_bytes(whole)
    again = run_trial(config, 0, {RATE: 0.01}, tmp_path / "t", source="sampler", report=never)
    assert again.state == "complete" and again.steps == 6
