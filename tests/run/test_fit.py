"""`foretrain.fit`: training from Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.run.test_pipeline import facts

import foretrain
from foretrain.data.store import Corpus
from foretrain.errors import ConfigError, DataError, TrainingError
from foretrain.evaluation.columns import evaluation_columns
from foretrain.models import family
from foretrain.models.hub import facts_of, local_folder, release_hash
from foretrain.notes import Code, codes


def frame() -> pd.DataFrame:
    stamps = pd.date_range("2024-01-01", periods=120, freq="h")
    return pd.concat(
        pd.DataFrame({"item_id": f"00{i}", "timestamp": stamps, "target": np.sin(np.arange(120) / 4 + i)})
        for i in range(3)
    )


SMALL = {"random_init": True, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": 1, "patch_size": 8}
BRIEF: dict[str, Any] = {
    "data__context_length": 32,
    "data__prediction_length": 8,
    "training__max_steps": 2,
    "training__batch_size": 4,
}


class Kinds:
    """A sink that keeps the kinds of lines."""

    def __init__(self) -> None:
        self.kinds: list[str] = []

    def open(self, folder: Path, step: int) -> None:
        self.kinds.append(f"{folder.name} {step}")

    def record(self, record: Mapping[str, Any]) -> None:
        self.kinds.append(record["kind"])

    def text(self, step: int, name: str, text: str) -> None: ...

    def close(self) -> None: ...


def test_fit_trains_from_a_frame_tells_sinks_and_forecasts(tmp_path: Path):
    told = Kinds()
    predictor = foretrain.fit(frame(), SMALL, output_dir=str(tmp_path / "fit"), sinks=[told], **BRIEF)
    assert told.kinds == ["fit 0", "train", "end"]
    forecast = predictor.forecast_df(frame(), 8, [0.1, 0.5, 0.9])
    assert list(forecast["item_id"].unique()) == ["000", "001", "002"] and len(forecast) == 24
    assert (tmp_path / "fit" / "corpus" / "manifest.json").exists()


def test_fit_runs_stages_on_data_in_memory_and_returns_the_last(tmp_path: Path):
    values = np.sin(np.arange(120, dtype=np.float32) / 4)[None]
    corpus = Corpus.from_arrays("waves", [("a", values, None), ("b", values + 1, None)], ["target"])
    stages = [
        {"name": "one", "model": {"family": "chronos2", **SMALL}},
        {"name": "two", "model": {"model_id": "stage:one"}, "data": {"context_length": 64}},
    ]
    predictor = foretrain.fit(corpus, stages=stages, output_dir=str(tmp_path / "fit"), **BRIEF)
    assert predictor.model.max_context_length == 64
    assert facts(tmp_path / "fit" / "release")["stage"] == "two"


def test_sinks_of_stages_are_refused(tmp_path: Path):
    stages = [{"name": "one", "model": {"family": "chronos2", **SMALL}}]
    with pytest.raises(ConfigError, match="sinks: stages count their steps apart"):
        foretrain.fit(frame(), stages=stages, output_dir=str(tmp_path / "fit"), sinks=[Kinds()], **BRIEF)


def test_a_fit_that_cannot_begin_leaves_its_folder_to_the_next_call(tmp_path: Path):
    where = {"output_dir": str(tmp_path / "fit"), **BRIEF}
    with pytest.raises(DataError, match="can be trained on"):
        foretrain.fit(frame().head(9), SMALL, **where)
    with pytest.raises(ConfigError, match="unknown key"):
        foretrain.fit(frame(), {**SMALL, "depth": 3}, **where)
    foretrain.fit(frame(), SMALL, **where)
    with pytest.raises(TrainingError, match="already holds a run"):
        foretrain.fit(frame(), SMALL, **where)
    assert (tmp_path / "fit" / "corpus" / "manifest.json").exists()


@pytest.mark.parametrize(
    "start",
    [{}, {"model": "tiny"}, {"model": {"model_id": "tiny"}}, {"model__model_id": "tiny"}],
    ids=["unnamed", "named", "section", "override"],
)
def test_fit_without_a_length_has_the_context_of_the_model_in_the_box(tmp_path: Path, start: dict[str, Any]):
    brief = {key: value for key, value in BRIEF.items() if key != "data__context_length"}
    foretrain.fit(frame(), output_dir=str(tmp_path / "fit"), **brief, **start)
    shipped = local_folder("tiny")
    assert shipped is not None
    trained = facts_of(shipped)["data"]["context_length"]
    assert facts(tmp_path / "fit" / "release")["data"]["context_length"] == trained < 512


def test_fit_without_a_model_starts_from_the_one_in_the_box_and_says_so(tmp_path: Path, logged_notes):
    foretrain.fit(frame(), output_dir=str(tmp_path / "fit"), **BRIEF)
    (note,) = (note for note in logged_notes() if note.code == Code.DEFAULT_MODEL)
    assert "tiny" in note.text and "trained on synthetic series alone" in note.text
    release, shipped = facts(tmp_path / "fit" / "release"), local_folder("tiny")
    assert shipped is not None
    assert release["parents"]["model"] == {"hash": release_hash(shipped), "asked": "tiny"}
    assert {entry["provenance"] for entry in release["ancestry"]["corpora"]} == {"synthetic"}
    longest, trained = release["data"]["longest_trained"], facts_of(shipped)["data"]
    assert longest == {key: trained[key] for key in ("context_length", "prediction_length")}
    assert "any_columns" not in release["data"]


@pytest.mark.parametrize(
    ("overrides", "start"),
    [
        ({"model__dropout_rate": 0.1}, "tiny"),
        ({"model__model_id": "tiny"}, "tiny"),
        ({f"model__{key}": value for key, value in SMALL.items() if key != "random_init"}, None),
        ({f"model__{key}": value for key, value in SMALL.items()}, None),
        ({"model__family": "linear"}, None),
    ],
    ids=["dropout", "a model", "an architecture", "random", "a family"],
)
def test_what_worked_without_a_model_still_works(tmp_path: Path, overrides: dict[str, Any], start: str | None):
    foretrain.fit(frame(), output_dir=str(tmp_path / "fit"), **BRIEF, **overrides)
    assert facts(tmp_path / "fit" / "release")["model_id"] == start


def test_fit_without_output_dir_says_what_to_give():
    with pytest.raises(ConfigError, match="output_dir: required"):
        foretrain.fit("corpus", "chronos2")


def corpus_of(folder: Path) -> Corpus:
    return Corpus.open(folder / "corpus")


def test_fit_imports_a_file_and_a_folder_of_files(tmp_path: Path):
    (tmp_path / "shops").mkdir()
    for name, part in frame().groupby("item_id"):
        shop = part.rename(columns={"target": "sales", "timestamp": "Date"}).drop(columns="item_id")
        shop.to_csv(tmp_path / "shops" / f"{name}.csv", index=False)
    foretrain.fit(tmp_path / "shops", SMALL, output_dir=str(tmp_path / "a"), **BRIEF)
    assert corpus_of(tmp_path / "a").num_series == 3
    long = frame().rename(columns={"item_id": "store"})
    long.to_csv(tmp_path / "long.csv", index=False)
    how = {"import_options": {"id_column": "store"}, **BRIEF}
    foretrain.fit(str(tmp_path / "long.csv"), SMALL, output_dir=str(tmp_path / "b"), **how)
    assert corpus_of(tmp_path / "b").num_series == 3
    with pytest.raises(ConfigError, match="import_options: data is a corpus"):
        foretrain.fit(tmp_path / "a" / "corpus", SMALL, output_dir=str(tmp_path / "c"), **how)
    with pytest.raises(ConfigError, match="no option 'colour'"):
        foretrain.fit(long, SMALL, output_dir=str(tmp_path / "d"), import_options={"colour": 1}, **BRIEF)


def test_fit_logs_what_the_import_found(tmp_path: Path, logged_notes):
    twice = pd.concat([frame(), frame().head(1).assign(target=9.0)])
    foretrain.fit(twice, SMALL, output_dir=str(tmp_path / "fit"), **BRIEF)
    found = [note for note in logged_notes() if note.code == Code.IMPORT_QUALITY]
    assert any("duplicate_timestamp" in note.text and note.counts == {"items": 1, "rows": 1} for note in found)


def test_fit_takes_periods_and_a_frame_without_ids(tmp_path: Path, logged_notes):
    days = pd.period_range("2024-01-01", periods=80, freq="D")
    single = pd.DataFrame({"timestamp": days, "target": np.sin(np.arange(80.0))})
    foretrain.fit(single, SMALL, output_dir=str(tmp_path / "fit"), **BRIEF)
    corpus = corpus_of(tmp_path / "fit")
    assert (corpus.item_id(0), corpus.manifest.freq, corpus.length(0)) == ("item", "D", 80)
    assert Code.IMPORT_QUALITY not in codes(logged_notes())


FLAWS: dict[str, tuple[Any, str]] = {
    "ids of several types": (
        lambda df: pd.concat([df, df.assign(item_id=1), df.assign(item_id="1")]),
        "ids 1 and '1', which only differ in type",
    ),
    "an index of stamps": (lambda df: df.set_index("timestamp"), r"rename_axis\('timestamp'\).reset_index"),
    "an index of ids": (lambda df: df.set_index(["item_id", "timestamp"]), r"reset_index\(\) makes columns"),
    "an index of text": (lambda df: df.set_index(df["item_id"].to_numpy()), "without a name, such as '000'"),
    "numbers as names": (lambda df: df.rename(columns={"target": 0}), "a column named 0"),
    "lists": (lambda df: df.assign(x=[[1, 2]] * len(df)), "column 'x' holds list"),
    "mixed cells": (lambda df: df.assign(x=[1, "a"] * (len(df) // 2)), r"column 'x' holds 1 \(int\) and 'a' \(str\)"),
    "text in the target": (lambda df: df.assign(target=["x", *map(str, range(len(df) - 1))]), "^df: row 0.*'x'"),
    "no rows": (lambda df: df[:0], "no rows"),
}


@pytest.mark.parametrize("flaw", list(FLAWS))
def test_a_flawed_frame_is_refused_without_a_word_of_files(tmp_path: Path, flaw: str):
    change, message = FLAWS[flaw]
    with pytest.raises(DataError, match=message) as caught:
        foretrain.fit(change(frame().reset_index(drop=True)), SMALL, output_dir=str(tmp_path / "fit"), **BRIEF)
    assert "parquet" not in str(caught.value) and "line" not in str(caught.value)
    assert not (tmp_path / "fit" / "corpus").exists()


def test_an_error_that_names_an_option_says_how_fit_takes_it(tmp_path: Path):
    days = [f"{day:%d/%m/%Y}" for day in pd.date_range("2024-01-01", periods=12)]
    undecided = pd.DataFrame({"item_id": "a", "timestamp": days, "target": 1.0})
    with pytest.raises(DataError, match=r"--dayfirst.* In fit, --dayfirst is import_options=\{'dayfirst': ...\}"):
        foretrain.fit(undecided, SMALL, output_dir=str(tmp_path / "fit"), **BRIEF)


def test_columns_that_the_data_calls_covariates_are_trained_on_as_such(tmp_path: Path, logged_notes):
    waves = np.sin(np.arange(120, dtype=np.float32) / 4)
    columns = ["target", "past_feat_dynamic_real", "feat_dynamic_real"]
    table = frame().assign(past_feat_dynamic_real=np.tile(waves, 3), feat_dynamic_real=np.tile(waves[::-1], 3))
    predictor = foretrain.fit(table, SMALL, output_dir=str(tmp_path / "fit"), **BRIEF)
    recorded = facts(tmp_path / "fit" / "release")["data"]
    assert recorded["past_covariates"] == columns[1:2] and recorded["known_covariates"] == columns[2:]
    assert [note.code for note in logged_notes()].count(Code.COVARIATES_BY_NAME) == 2  # the import's, and the run's
    corpus = Corpus.open(tmp_path / "fit" / "corpus")
    chosen, _ = evaluation_columns(corpus, family("chronos2"), recorded)
    assert (chosen.targets, chosen.past, chosen.known) == ((0,), (1,), (2,))
    assert predictor.forecast_df(table, 8)["target_name"].unique() == ["target"]


def test_fit_on_a_file_that_is_not_there_says_so(tmp_path: Path):
    with pytest.raises(DataError, match=r"nothing.csv: no such file or folder\."):
        foretrain.fit(str(tmp_path / "nothing.csv"), SMALL, output_dir=str(tmp_path / "fit"))
    assert not (tmp_path / "fit").exists()
