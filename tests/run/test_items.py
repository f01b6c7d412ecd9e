"""Runs that choose and hold out items by name: what they record, refuse, validate and compare on, and how evaluations
judge their releases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.cli.test_app import foretrain as command
from tests.run.test_ancestry import HORIZON, config, facts, sections, train

from foretrain.config import build
from foretrain.data.importers import import_corpus
from foretrain.data.splits import Origin
from foretrain.data.store import Corpus
from foretrain.errors import ConfigError, TrainingError
from foretrain.evaluation.items import scored_items
from foretrain.evaluation.overlap import check_overlap
from foretrain.forecasting.ancestry import Ancestry, Seen, most_seen, own_training
from foretrain.models import FAMILIES
from foretrain.notes import Code, codes
from foretrain.run.build import open_source
from foretrain.run.config import RunConfig, config_hash, config_hash_1
from foretrain.run.train import build_validation, train_run
from foretrain.suites.contamination import OwnData, flags_of
from foretrain.suites.local import local_data, local_task
from foretrain.suites.seen_values import training_parts

ITEMS = ("AAPL", "BTC-USD", "ETH-USD", "MSFT")
CHOSEN = {"items": ["*USD", "MSFT"], "holdout_items": ["AAPL"]}


def write_bars(folder: Path, *items: str, rows: int = 200) -> None:
    """CSV files of hourly candles, an item each."""
    folder.mkdir(exist_ok=True)
    stamps = pd.date_range("2024-01-01", periods=rows, freq="h")
    for item in items:
        walk = np.random.default_rng([*item.encode()]).standard_normal(400)[:rows].cumsum()
        close = 100 * np.exp(walk / 100)
        bars = {"timestamp": stamps, "open": close, "high": close * 1.01, "low": close * 0.99, "close": close}
        pd.DataFrame(bars).to_csv(folder / f"{item}.csv", index=False)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bars")
    write_bars(folder / "in", *ITEMS)
    import_corpus([folder / "in"], folder / "bars")
    return folder / "bars"


@pytest.fixture(scope="module")
def release(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release of a run with a gate that holds out AAPL. Not to be written to."""
    gate = {"promotion": True, "require_significance": False}
    settings = {"max_steps": 2, "validate_every": 2}
    folder = tmp_path_factory.mktemp("runs") / "base"
    data = {"holdout_items": ["AAPL"]}
    return train(folder, corpus, data=data, evaluation=gate, training=settings)


def notes(release: Path, corpus: Path, item: int, cutoff: int) -> set[str]:
    return codes(check_overlap(facts(release), [Corpus.open(corpus)], [[Origin(item, cutoff)]]))


@pytest.mark.parametrize("family", FAMILIES)
def test_windows_and_validation_of_every_family_are_of_the_chosen_items(family: str, corpus: Path, tmp_path: Path):
    settings, source = open_source(config(tmp_path, corpus, None, family, data=CHOSEN))
    names = source.corpora[0].item_ids()
    assert {names[k] for k in source.windows(0, 200).source[:, 1]} == {"BTC-USD", "ETH-USD", "MSFT"}
    assert source.part_records() == [{"items": ["*USD", "MSFT"], "holdout_items": ["AAPL"]}]
    assert settings.data.items == ("*USD", "MSFT")


def test_a_validation_scores_no_item_that_the_run_does_not_use(corpus: Path, tmp_path: Path):
    for data in (CHOSEN, {**CHOSEN, "validation_from": "2024-01-07", "test_from": "2024-01-08"}):
        settings = config(tmp_path, corpus, data=data, training={"validate_every": 1})
        settings, source = open_source(settings)
        from foretrain.distributed.world import World
        from foretrain.run.build import build_model

        validation = build_validation(settings, source, build_model(settings), World())
        assert validation is not None and validation._backtest is not None
        panel, names = validation._backtest.panel, source.corpora[0].item_ids()
        assert {names[ref.series] for ref in panel.refs} == {"BTC-USD", "ETH-USD", "MSFT"}


def test_a_held_out_item_is_unseen_to_evaluations_benchmarks_and_comparisons_of_values(release: Path, corpus: Path):
    opened, found = Corpus.open(corpus), facts(release)
    assert found["corpora"][0]["holdout_items"] == ["AAPL"] and "items" not in found["corpora"][0]
    (rule,) = own_training(found)
    assert rule.holdout_items == ("AAPL",) and rule.items is None
    for cutoff in (50, 190):
        assert not {Code.TRAINING_SAW_WINDOWS, Code.VALIDATION_SAW_WINDOWS} & notes(release, corpus, 0, cutoff)
    assert Code.TRAINING_SAW_DAYS in notes(release, corpus, 0, 50), "training saw the days in other items"
    assert Code.TRAINING_SAW_WINDOWS in notes(release, corpus, 1, 50)
    assert Code.VALIDATION_SAW_WINDOWS in notes(release, corpus, 1, 200 - 2 * HORIZON)
    (part,) = training_parts(found, [opened])
    assert part.rows is not None and part.rows.tolist() == [0, 194, 194, 194]
    task, data = local_task(opened, HORIZON, 10, 24), local_data(opened, "bars")
    assert data.own is not None
    series = {
        name: [s for s, k in zip(data.series, data.own.items, strict=True) if k == n] for n, name in enumerate(ITEMS)
    }
    flags = {
        name: codes(flags_of(task, found, of, own=OwnData(opened, (n,) * len(of))))
        for n, (name, of) in enumerate(series.items())
    }
    assert Code.BENCHMARK_TEST_SEEN in flags["MSFT"] and Code.BENCHMARK_TEST_SEEN not in flags["AAPL"]


def test_the_gate_compares_on_the_items_of_the_run_and_its_command_says_so(release: Path):
    result = json.loads((release.parent / "evaluation" / "evaluation.json").read_text())
    assert result["counts"]["windows"] == 3 and result["settings"]["items"] == ["trained"]
    assert "--items trained" in result["command"]
    left = {entry["reason"]: entry["examples"] for entry in result["left_out"]}
    assert left == {"of bars not chosen by --items": ["AAPL"]}


def test_an_evaluation_scores_the_items_that_it_is_asked_for(release: Path, corpus: Path, tmp_path: Path, capsys):
    opened, found = Corpus.open(corpus), facts(release)

    def asked(*items: str) -> list[int]:
        return np.flatnonzero(scored_items(items, [opened], found).masks[0]).tolist()

    assert asked("unseen") == [0] and asked("trained") == [1, 2, 3] and asked("*USD", "MSFT") == [1, 2, 3]
    command("evaluate", release, "--data", corpus, "--items", "unseen", "--split", "all", "--out", tmp_path / "out")
    shown = capsys.readouterr().out
    assert "NO FAIR TEST" not in shown and "start on days that training saw in other items" in shown
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert {entry["symbol"] for entry in result["per_symbol"]} == {"AAPL"} and result["settings"]["items"] == ["unseen"]
    command("evaluate", release, "--data", corpus, "--items", "MSFT,BTC*", "--out", tmp_path / "some")
    result = json.loads((tmp_path / "some" / "evaluation.json").read_text())
    assert {entry["symbol"] for entry in result["per_symbol"]} == {"MSFT", "BTC-USD"}
    before = (release / "release.json").read_text()
    command("evaluate", release, "--data", corpus, "--items", "MSFT", "--against", "zero-shot")
    assert "is unchanged; it was scored on some items alone (--items)" in capsys.readouterr().out
    assert (release / "release.json").read_text() == before
    command("evaluate", release, "--data", corpus, "--items", "APPL", code=2)
    assert "--items: no item of bars is called 'APPL'. Nearest: AAPL." in capsys.readouterr().err


def test_what_the_record_does_not_tell_is_not_guessed(release: Path, corpus: Path, tmp_path: Path):
    write_bars(tmp_path / "in", "TSLA")
    import_corpus([tmp_path / "in"], tmp_path / "other")
    for which in ("unseen", "trained"):
        with pytest.raises(ConfigError, match=f"--items {which}: the release records no training on other as it is"):
            scored_items([which], [Corpus.open(tmp_path / "other")], facts(release))
    every = train(tmp_path / "all", corpus)
    with pytest.raises(ConfigError, match="--items unseen: training used every item of bars"):
        scored_items(["unseen"], [Corpus.open(corpus)], facts(every))
    child = train(tmp_path / "child", corpus, every, data={"holdout_items": ["AAPL"]})
    with pytest.raises(ConfigError, match="training used every item"):
        scored_items(["unseen"], [Corpus.open(corpus)], facts(child))
    child = train(tmp_path / "second", corpus, release, data={"items": ["*"]})
    with pytest.raises(ConfigError, match="training used every item"):
        scored_items(["unseen"], [Corpus.open(corpus)], facts(child))


def test_a_child_inherits_which_items_its_parent_used(release: Path, corpus: Path, tmp_path: Path):
    child = train(tmp_path / "child", corpus, release, data={"items": ["AAPL", "MSFT"]})
    (rule,) = Ancestry.read(facts(child)).seen
    assert (rule.by, rule.items, rule.holdout_items) == ("model", None, ("AAPL",))
    assert Code.TRAINING_SAW_WINDOWS in notes(child, corpus, 1, 50), "by its parent"
    assert Code.TRAINING_SAW_WINDOWS in notes(child, corpus, 0, 50)
    assert rule == Ancestry.read({"ancestry": Ancestry((rule,)).to_json()}).seen[0]


def test_one_rule_that_covers_several_leaves_out_no_item_that_one_of_them_used():
    some = Seen("f", items=("A", "B"), holdout_items=("C", "D"))
    other = most_seen([some, Seen("f", items=("B", "E"), holdout_items=("D",))])
    assert (other.items, other.holdout_items) == (("A", "B", "E"), ("D",))
    assert most_seen([some, some]).rule == some.rule
    assert most_seen([some, Seen("f", holdout_items=("C",))]).rule == Seen("f", holdout_items=("C",)).rule
    long = Ancestry(
        tuple(Seen(f"{k:016}", by="model", items=tuple(f"{n:08}" for n in range(k % 2 * 900 + 1))) for k in range(30))
    )
    short = long.to_json()
    assert short["shortened"] and {rule.items for rule in Ancestry.read({"ancestry": short}).seen} == {
        None,
        ("00000000",),
    }


@pytest.mark.parametrize(
    "entry", [{"items": "AAPL"}, {"holdout_items": [3]}, {"items": [f"{k}*" for k in range(1001)]}]
)
def test_a_record_with_malformed_items_is_that_of_another_program(corpus: Path, entry: dict[str, Any]):
    opened = Corpus.open(corpus)
    record = {"corpora": [{"fingerprint": opened.fingerprint, **entry}], "data": {}}
    assert codes(check_overlap(record, [opened], [[Origin(0, 50)]])) == {Code.TRAINING_UNKNOWN}


def test_items_are_identity_and_leave_hashes_of_configs_without_them_alone(corpus: Path, tmp_path: Path):
    def hashes(**data: Any) -> tuple[str, str]:
        made = config(tmp_path, corpus, data=data)
        return config_hash(made), config_hash_1(made)

    own = {"corpora": [{"path": str(corpus), "items": ["MSFT"]}]}
    different = [hashes(), hashes(items=["MSFT"]), hashes(holdout_items=["MSFT"]), hashes(**own)]
    assert len({one for one, _ in different}) == len({one for _, one in different}) == 4
    assert hashes(items=None, holdout_items=None) == hashes()
    assert hashes(items=["MSFT", "AAPL"]) == hashes(items=["AAPL", "MSFT", "AAPL"])


def test_a_resume_with_other_items_is_refused_and_with_the_same_ones_goes_on(corpus: Path, tmp_path: Path):
    settings, names = {"max_steps": 4, "checkpoint_every": 2}, tmp_path / "names.txt"
    names.write_text("MSFT\nAAPL\n")
    data = {"items": [f"file:{names}"], "holdout_items": ["ETH-USD"]}
    train(tmp_path / "run", corpus, data=data, training={**settings, "max_steps": 2})
    for change in ({"items": ["AAPL"]}, {"items": None}, {"holdout_items": None}, {"holdout_items": ["BTC-USD"]}):
        other = config(tmp_path / "run", corpus, data={**data, **change}, training=settings)
        with pytest.raises(TrainingError, match=f"data.{next(iter(change))}: "):
            train_run(other, resume="auto")
    same = config(tmp_path / "run", corpus, data=data, training=settings)
    names.write_text("MSFT\nAAPL\nBTC-USD\n")
    with pytest.raises(
        TrainingError, match=r"was trained on other data .* Restore the corpus, and what data\.items names"
    ):
        train_run(same, resume="auto")
    names.write_text("# the same\nAAPL\nMSFT\n")
    train_run(same, resume="auto")
    assert facts(tmp_path / "run" / "release")["corpora"][0]["items"] == ["AAPL", "MSFT"]


def test_an_update_that_gives_a_pattern_more_items_changes_no_run_in_silence(tmp_path: Path):
    """A resume is refused, and the release is judged by the items that it used then."""
    write_bars(tmp_path / "in", *ITEMS)
    import_corpus([tmp_path / "in"], tmp_path / "bars")
    settings, data = {"max_steps": 4, "checkpoint_every": 2}, {"items": ["*USD"]}
    release = train(tmp_path / "run", tmp_path / "bars", data=data, training={**settings, "max_steps": 2})
    write_bars(tmp_path / "in", "SOL-USD")
    import_corpus([tmp_path / "in"], tmp_path / "bars", update=True)
    again = config(tmp_path / "run", tmp_path / "bars", data=data, training=settings)
    with pytest.raises(TrainingError, match="was trained on other data"):
        train_run(again, resume="auto")
    opened = Corpus.open(tmp_path / "bars")
    assert opened.item_ids() == [*ITEMS, "SOL-USD"]
    assert Code.TRAINING_SAW_WINDOWS in notes(release, tmp_path / "bars", 1, 50)
    for unseen in (0, 3, 4):
        assert Code.TRAINING_SAW_WINDOWS not in notes(release, tmp_path / "bars", unseen, 50)
    mask = scored_items(["unseen"], [opened], facts(release)).masks[0]
    assert [opened.item_id(int(k)) for k in np.flatnonzero(mask)] == ["AAPL", "MSFT", "SOL-USD"]


def test_stored_series_of_a_generated_run_are_the_chosen_ones(corpus: Path, tmp_path: Path):
    def pool(**data: Any) -> Any:
        tree = sections(corpus, data={"corpora": [], **data})
        tree["data"]["generated"] = {"corpora": [{"path": str(corpus)}], "micro_batches_per_step": 1, "workers": 0}
        made = build(RunConfig, {**tree, "output_dir": str(tmp_path), "device": "cpu"})
        return open_source(made)[1]

    plain, some = pool(), pool(**CHOSEN)
    assert some.part_records() == [{"items": ["*USD", "MSFT"], "holdout_items": ["AAPL"]}]
    assert some.stream.pools[0]._items.tolist() == [1, 2, 3] and plain.stream.pools[0]._items.tolist() == [0, 1, 2, 3]
    assert some.fingerprint != plain.fingerprint
    section, corpora, _ = some.validation_data()
    assert section.items is None and section.choose_items(corpora)[0].used is None
    with pytest.raises(ConfigError, match=r"items: no effect beside data\.generated"):
        tree = sections(corpus, data={"corpora": [], "items": ["A"], "generated": {"micro_batches_per_step": 1}})
        build(RunConfig, {**tree, "output_dir": str(tmp_path)})
