from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.run.test_train import tiny
from tests.suites.shipped import WALKS, suites  # noqa: F401

from foretrain import fit
from foretrain.config import build
from foretrain.data.store import Corpus
from foretrain.data.writer import CorpusWriter
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, TrainingError
from foretrain.forecasting.predictor import load
from foretrain.run.config import RunConfig, config_hash
from foretrain.run.dry_run import REFUSED, describe_run
from foretrain.run.pipeline import run_stages
from foretrain.run.stages import Draft
from foretrain.run.train import train_run
from foretrain.suites.contestants import LoadedModel
from foretrain.suites.definition import tasks_of
from foretrain.suites.evaluator import EvaluatorConfig
from foretrain.suites.score import load_data
from foretrain.suites.scoring import score_task

THERE = ["walks", "deep/*"]  # tasks of `pooled` that have data


def evaluated(folder: Path, *entries: dict[str, Any], more: Any = ()) -> RunConfig:
    return tiny(folder, ("evaluators", list(entries)), *more)  # type: ignore[arg-type]


def pooled(root: Path, **changes: Any) -> dict[str, Any]:
    return {"name": "lite", "suite": "pooled", "tasks": THERE, "data_root": str(root), "every": 4, **changes}


def write(path: Path, items: list[tuple[str, np.ndarray]]) -> Path:
    with CorpusWriter(path, ["target"], time="steps") as writer:
        for item, values in items:
            writer.append(item, values[None])
    return path


def journal(folder: Path, kind: str = "evaluation") -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def test_two_suites_score_the_weights_as_a_benchmark_of_the_release_does(tmp_path, suites):  # noqa: F811
    single = {"suite": "single", "data_root": str(suites), "every": 3, "metric": "composite", "keep_best": 1}
    train_run(evaluated(tmp_path / "run", pooled(suites, keep_best=2), single))
    lines = journal(tmp_path / "run")
    assert [(line["step"], line["evaluator"]) for line in lines] == [
        (3, "single"), (4, "lite"), (6, "lite"), (6, "single")
    ]  # fmt: skip
    assert all(line["state"] == "done" for line in lines)
    release = tmp_path / "run" / "release"
    step = json.loads((release / "release.json").read_text())["step"]
    last = {key: value for line in lines if line["step"] == step for key, value in line.items()}
    wql, mase = [], []
    for task in [task for task in tasks_of("pooled") if task.name != "other"]:
        contestant = LoadedModel("m", load(release).model, context_length=32)
        metrics = score_task(contestant, task, load_data(task, suites).series, batch_size=3).metrics
        assert last[f"benchmark/pooled/{task.name}/wql"] == pytest.approx(metrics["WQL"], rel=1e-6)
        assert last[f"benchmark/pooled/{task.name}/mase"] == pytest.approx(metrics["MASE"], rel=1e-6)
        wql.append(metrics["WQL"])
        mase.append(metrics["MASE"])
    assert last["benchmark/lite/avg_wql"] == pytest.approx(np.mean(wql), rel=1e-6)
    assert last["benchmark/lite/composite_score"] == pytest.approx(0.7 * np.mean(wql) + 0.3 * np.mean(mase), rel=1e-6)
    assert {"benchmark/single/walks/wql", "benchmark/single/avg_mase"} <= last.keys()
    assert "benchmark/avg_wql" not in last  # there are two of them
    tree = json.loads((tmp_path / "run" / "eval_results" / f"step-{step:08d}-lite.json").read_text())
    assert tree["score"] == last["benchmark/lite/avg_wql"] and tree["metric"] == "avg_wql"
    assert tree["tasks"]["deep/er"]["metrics"].keys() == {"MASE", "WQL", "MSE"} and tree["suite"] == "pooled"
    log = (tmp_path / "run" / "training.log").read_text()
    assert "evaluator lite: 2 tasks of pooled, 10 items, 15 windows, every 4 steps, keeps the best 2 by avg_wql" in log


def test_one_evaluator_has_its_averages_without_its_name_too(tmp_path, suites):  # noqa: F811
    train_run(evaluated(tmp_path / "run", pooled(suites, every=6), more=("training.log_every=6",)))
    (line,) = journal(tmp_path / "run")
    assert line["benchmark/avg_wql"] == line["benchmark/lite/avg_wql"] == line["score"]


def test_absent_data_are_named_before_anything_is_written(tmp_path, suites):  # noqa: F811
    gone = {"name": "own", "corpus": str(tmp_path / "gone"), "prediction_length": 3, "every": 2}
    config = evaluated(tmp_path / "run", pooled(suites, tasks=[]), gone)
    with pytest.raises(ConfigError) as error:
        train_run(config)
    first, second = str(error.value).splitlines()
    assert first.startswith("evaluators: lite: pooled/other has no data. Put data sets of someone/sets into")
    assert second.startswith(f"  evaluators: own: corpus {tmp_path / 'gone'}: no such folder")
    lines = describe_run(config, World())
    assert [line for line in lines if line.startswith(REFUSED)] == [REFUSED + first, REFUSED + second.strip()]
    assert "evaluator lite: 3 tasks of pooled, 1 without data, every 4 steps and at the end" in lines
    assert not (tmp_path / "run").exists()


def test_time_that_is_over_ends_the_evaluation_and_not_the_run(tmp_path, suites):  # noqa: F811
    _, result = train_run(evaluated(tmp_path / "run", pooled(suites, max_minutes=1e-9, keep_best=1)))
    assert result.step == 6 and result.scores == {}
    assert [line["state"] for line in journal(tmp_path / "run")] == ["out of time", "out of time"]
    log = (tmp_path / "run" / "training.log").read_text()
    assert log.count("WARNING: evaluator lite at step 4: out of time (max_minutes: 1e-09)") == 1
    assert "walks, after 0 of 2 tasks: the time was over" in log


def test_items_are_drawn_alike_whatever_their_order_and_a_share_is_of_each_task(tmp_path):
    values = [(f"s{k}", np.cumsum(np.random.default_rng(k).standard_normal(60))) for k in range(10)]
    paths = [write(tmp_path / "a", values), write(tmp_path / "b", values[::-1])]
    own = {"name": "own", "prediction_length": 3, "every": 6, "share": 0.25, "num_windows": 2}
    found = []
    for number, path in enumerate(paths):
        train_run(evaluated(tmp_path / f"run{number}", {**own, "corpus": str(path)}))
        (line,) = journal(tmp_path / f"run{number}")
        tree = json.loads((tmp_path / f"run{number}" / "eval_results" / "step-00000006-own.json").read_text())
        (task,) = tree["tasks"].values()
        assert (task["items"], task["windows"], task["sample"]) == (3, 6, {"items": 3, "of": 10, "seed": 0})
        found.append(line["score"])
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_a_corpus_that_is_trained_on_is_no_evaluator(tmp_path):
    write(tmp_path / "own", [("a", np.cumsum(np.ones(400)))])
    data = [("data.corpora", [{"path": str(tmp_path / "own")}])]
    config = evaluated(
        tmp_path / "run", {"corpus": str(tmp_path / "own"), "prediction_length": 3, "every": 2}, more=data
    )  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"evaluators: own: .* is trained on, and its newest steps"):
        train_run(config)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"every": 2}, "give exactly one of suite and corpus"),
        ({"suite": "x", "every": 2, "prediction_length": 3}, "prediction_length has no effect beside suite"),
        ({"corpus": "x", "every": 2}, "a corpus needs a prediction_length"),
        ({"corpus": "x", "prediction_length": 2, "every": 2, "tasks": ["a"]}, "tasks has no effect beside corpus"),
        ({"suite": "x", "every": 2, "weights": {"wql": 1}}, "weights has no effect without metric: composite"),
        ({"suite": "x", "every": 0}, "give a number of steps, 1 or more, or epoch"),
        ({"suite": "x", "every": 2, "share": 0}, "greater than 0"),
        ({"suite": "x", "every": 2, "name": "a/b"}, "pattern"),
    ],
)
def test_settings_that_cannot_be_are_refused(entry, message):
    with pytest.raises(ConfigError, match=message):
        build(EvaluatorConfig, entry)


def test_names_are_unique_and_evaluators_no_part_of_a_config_s_identity(tmp_path):
    entry = {"suite": "chronos-lite", "every": 5}
    with pytest.raises(ConfigError, match="two of them are called chronos-lite"):
        evaluated(tmp_path, entry, entry)
    assert config_hash(evaluated(tmp_path, entry, {**entry, "name": "b"})) == config_hash(tiny(tmp_path))


def test_suites_and_tasks_are_looked_up_at_the_start(tmp_path, suites):  # noqa: F811
    with pytest.raises(ConfigError, match=r"evaluators: lite: pooled has no task 'walk'. Did you mean 'walks'"):
        train_run(evaluated(tmp_path / "run", pooled(suites, tasks=["walk"])))
    with pytest.raises(ConfigError, match="pool: no such suite"):
        train_run(evaluated(tmp_path / "run", pooled(suites, suite="pool")))


def test_a_run_for_a_tuner_writes_no_release_and_one_with_resume_does(tmp_path):
    _, result = train_run(tiny(tmp_path / "run", "training.release=false"))
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert not names & {"release", "best_model", "hf_export"}
    assert {"final_metrics.json", "best_records.json", "checkpoints"} <= names
    assert json.loads((tmp_path / "run" / "final_metrics.json").read_text())["step"] == result.release_step
    log = (tmp_path / "run" / "training.log").read_text()
    assert "no release (training.release: false)" in log and "next:" not in log
    train_run(tiny(tmp_path / "run"), resume="auto")
    assert (tmp_path / "run" / "release" / "release.json").is_file()


def test_what_needs_a_release_is_refused_without_one(tmp_path):
    with pytest.raises(ConfigError, match=r"leaves evaluation.promotion nothing to promote"):
        train_run(tiny(tmp_path / "run", "training.release=false", "evaluation.promotion=true"))
    tree = tiny(tmp_path / "run", "training.release=false").model_dump(mode="json", exclude={"stage", "parents"})
    sections = {key: tree.pop(key) for key in ("model", "data", "training")}
    config = Draft.of({**tree, "stages": [{"name": "one", **sections}]}, []).build()
    with pytest.raises((ConfigError, TrainingError), match="by the release of stage one"):
        run_stages(config)  # type: ignore[arg-type]


def test_fit_calls_the_hook_and_predicts_without_a_release(tmp_path):
    corpus = Corpus.from_arrays("walks", [("a", np.tile(WALKS.T[:1], (1, 9)), None)], ["target"])
    seen = []
    predictor = fit(
        corpus,
        {"family": "linear", "random_init": True},
        output_dir=str(tmp_path / "run"),
        data__prediction_length=4,
        data__context_length=16,
        training__max_steps=9,
        training__validate_every=3,
        training__best_metric="val_wql",
        training__release=False,
        on_validation=lambda step, metrics: seen.append((step, metrics["val_wql"])) or step == 6,
    )
    assert [step for step, _ in seen] == [3, 6]
    assert predictor.facts["stopped"] == {"step": 6, "by": "evaluation"}
    assert predictor.facts["data"]["context_length"] == 16 and not (tmp_path / "run" / "release").exists()
