"""Libraries of symbols: the layout of stock pipelines as it stands, its parts, unseen symbols and updates."""

from __future__ import annotations

import csv
import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.data.market.folders import bars, days, overview, write, write_parts

import foretrain
from foretrain.data.config import DataConfig
from foretrain.data.importers import import_corpus
from foretrain.data.market.library import build, update
from foretrain.data.market.library_report import part_lines
from foretrain.data.market.prepare import prepare
from foretrain.data.market.record import Cuts
from foretrain.data.parts import DateCuts
from foretrain.data.source import TrainingSource
from foretrain.data.splits import select
from foretrain.data.store import Corpus
from foretrain.data.verification import verify_folder
from foretrain.data.windows import NO_TIME
from foretrain.errors import ConfigError, DataError
from foretrain.evaluation.overlap import Overlap
from foretrain.evaluation.tasks import evaluate
from foretrain.run.config import load_config
from foretrain.run.train import train_run


def summary(library: Path) -> dict[str, dict[str, str]]:
    with (library / "data_summary.csv").open() as file:
        return {line["symbol"]: line for line in csv.DictReader(file)}


def stamp(line: str) -> str:
    return line.split(",")[0]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, dict[str, list[str]]]:
    place = tmp_path_factory.mktemp("overview")
    held = overview(place / "trainingdata")
    (place / "trainingdata" / "asset_metadata.json").write_text(
        json.dumps({"AAPL": {"asset_class": "equity", "exchange": "XNAS", "currency": "USD", "sector": "hardware"}})
    )
    build(place / "trainingdata", place / "lib")
    return place / "lib", held


def test_the_layout_is_read_as_it_stands(built):
    library, held = built
    assert Corpus.open(library / "B").item_ids() == ["AAPL", "MSFT", "NVDA"]
    assert Corpus.open(library / "D").item_ids() == ["BTC-USD"]
    assert Corpus.open(library / "unseen" / "B").item_ids() == ["AVGO"]
    assert Corpus.open(library / "unseen" / "D").item_ids() == ["ALGO-USD"]
    closes = Corpus.open(library / "B").values(1)[3].tolist()
    assert closes == pytest.approx([float(line.split(",")[4]) for line in held["MSFT"]])
    assert json.loads((library / "library.json").read_text())["subsets"] == {"puffer_subset": ["AAPL"]}


def test_the_summary_counts_the_rows_of_the_files(built):
    """The columns of the layout that is read come first; train_rows are those before the test part."""
    library, held = built
    with (library / "data_summary.csv").open() as file:
        header = file.readline().strip().split(",")
    assert header[:7] == [
        "symbol", "latest_date", "total_rows", "train_rows", "test_rows", "train_file", "test_file"
    ]  # fmt: skip
    lines = summary(library)
    assert list(lines) == sorted(held)
    for symbol, rows in held.items():
        line, unseen = lines[symbol], symbol in ("AVGO", "ALGO-USD")
        assert line["latest_date"] == stamp(rows[-1])
        assert (line["total_rows"], line["train_rows"], line["test_rows"]) == (
            str(len(rows)),
            str(len(rows) - 30),
            "30",
        )
        assert line["test_from"] == stamp(rows[-30])
        assert line["set"] == ("unseen" if unseen else "trained")
        folder = "unseen15/" if unseen else ""
        assert (line["train_file"], line["test_file"]) == (f"{folder}train/{symbol}.csv", f"{folder}test/{symbol}.csv")
    assert lines["AVGO"]["validation_from"] == stamp(held["AVGO"][-50])
    assert lines["AVGO"]["validation_rows"] == "20"


def test_what_is_known_of_assets_is_kept_and_exchanges_are_not_guessed(built):
    library, _ = built
    assets = json.loads((library / "asset_metadata.json").read_text())
    assert (assets["AAPL"]["exchange"], assets["AAPL"]["sector"], assets["AAPL"]["from_name"]) == (
        "XNAS",
        "hardware",
        [],
    )
    assert (assets["MSFT"]["exchange"], assets["MSFT"]["calendar"], assets["MSFT"]["currency"]) == (None, None, None)
    assert (assets["BTC-USD"]["asset_class"], assets["BTC-USD"]["calendar"]) == ("crypto", "24/7")
    assert (assets["BTC-USD"]["default_trading_fee"], assets["MSFT"]["default_trading_fee"]) == (0.001, 0.0005)
    assert {asset["precision"] for asset in assets.values()} == {2}


def test_files_that_contradict_each_other_go_to_quarantine_and_the_rest_is_built(tmp_path):
    lines = bars(days(100), 1)
    write(tmp_path / "in" / "GOOD.csv", bars(days(100), 2))
    write(tmp_path / "in" / "BAD.csv", lines)
    write_parts(
        tmp_path / "in", "BAD", [*lines[:5], lines[5].replace(lines[5].split(",")[4], "1"), *lines[6:]], test=30
    )
    report = build(tmp_path / "in", tmp_path / "lib")
    assert list(report.entries) == ["GOOD"]
    assert "BAD" in report.quarantined
    reasons = (tmp_path / "lib" / "quarantine" / "reasons.csv").read_text()
    assert stamp(lines[5]) in reasons
    assert (tmp_path / "lib" / "quarantine" / "train" / "BAD.csv").is_file()


def test_a_copy_with_other_rows_in_a_subset_is_told_and_not_read(tmp_path):
    folder, lines = tmp_path / "in", bars(days(100), 1)
    for symbol in ("A", "B", "C"):
        write(folder / f"{symbol}.csv", lines)
    write(folder / "few" / "A.csv", lines[20:60])  # some of its rows
    write(folder / "few" / "C.csv", lines)
    assert not [note for note in build(folder, tmp_path / "one").notes if "few" in note]
    scaled = [f"{line.split(',')[0]},1,1,1,1,1" for line in lines]
    write(folder / "few" / "A.csv", scaled)
    write(folder / "scaled" / "deep" / "C.csv", scaled)
    report = build(folder, tmp_path / "lib")
    assert list(report.entries) == ["A", "B", "C"] and not report.quarantined
    assert [note for note in report.notes if "subset" in note] == [
        "few/A.csv and 1 more: in a subset, with rows that the symbol's own files do not have; not read, since a "
        "subset is a list of symbols"
    ]
    assert (
        Corpus.open(tmp_path / "lib" / "B").values(0)[3].tolist()
        == Corpus.open(tmp_path / "one" / "B").values(0)[3].tolist()
    )
    tree = json.loads((tmp_path / "lib" / "library.json").read_text())
    assert tree["subsets"] == {"few": ["A", "C"], "scaled": ["C"]}
    assert tree["symbols"]["A"]["files"].keys() == {"A.csv"}


def test_a_broken_disk_is_no_fault_of_a_symbol(tmp_path, monkeypatch):
    def prepare_or_break(files, *args, **more):
        if files.symbol == "B":
            try:
                raise OSError(errno.EIO, "Input/output error")
            except OSError as error:
                raise DataError(f"cannot be written: {error}") from None
        return prepare(files, *args, **more)

    for seed, symbol in enumerate("AB"):
        write(tmp_path / "bars" / f"{symbol}.csv", bars(days(60), seed))
    monkeypatch.setattr("foretrain.data.market.library.prepare", prepare_or_break)
    with pytest.raises(DataError, match="Input/output error"):
        build(tmp_path / "bars", tmp_path / "lib")
    assert [path.name for path in tmp_path.iterdir()] == ["bars"]


def test_what_a_killed_update_left_sets_no_symbol_aside(tmp_path):
    stamps = days(61)
    write(tmp_path / "bars" / "A.csv", bars(stamps[:60], 0))
    build(tmp_path / "bars", tmp_path / "lib")
    left = tmp_path / "lib" / ".cache-scratch" / "all"
    shutil.copytree(tmp_path / "lib" / "B", left)
    write(tmp_path / "bars" / "A.csv", bars(stamps, 0))
    report = update(tmp_path / "bars", tmp_path / "lib")
    assert not report.quarantined and Corpus.open(tmp_path / "lib" / "B").length(0) == 61
    shutil.copytree(tmp_path / "lib" / "B", left)
    update(tmp_path / "bars", tmp_path / "lib")  # without a change
    assert not left.parent.exists()


def test_parts_that_overlap_are_refused(tmp_path):
    lines = bars(days(100), 1)
    write(tmp_path / "in" / "train" / "A.csv", lines[:80])
    write(tmp_path / "in" / "test" / "A.csv", lines[70:])
    with pytest.raises(
        DataError, match=rf"A\.csv ends at {stamp(lines[79])}, and .*A\.csv begins at {stamp(lines[70])}"
    ):
        build(tmp_path / "in", tmp_path / "lib")
    assert not (tmp_path / "lib").exists()


def test_an_update_moves_no_part_and_shows_nothing_unseen(tmp_path):
    held = overview(tmp_path / "in")
    build(tmp_path / "in", tmp_path / "lib")
    before = summary(tmp_path / "lib")
    more = bars(days(230), 1)
    write(tmp_path / "in" / "AAPL.csv", [*held["AAPL"], *more[200:]])
    write(tmp_path / "in" / "NEW.csv", bars(days(120), 9))
    report = update(tmp_path / "in", tmp_path / "lib")
    after = summary(tmp_path / "lib")
    assert report.added == 1
    assert after["AAPL"]["total_rows"] == "230"
    assert after["AAPL"]["test_rows"] == "60"
    assert {name: (line["test_from"], line["set"]) for name, line in before.items()} == {
        name: (after[name]["test_from"], after[name]["set"]) for name in before
    }
    assert after["NEW"]["set"] == "trained"
    unchanged = (tmp_path / "lib" / "B" / "manifest.json").read_bytes()
    assert update(tmp_path / "in", tmp_path / "lib").added == 0
    assert (tmp_path / "lib" / "B" / "manifest.json").read_bytes() == unchanged


def test_a_symbol_that_was_trained_on_cannot_become_unseen(tmp_path):
    overview(tmp_path / "in")
    build(tmp_path / "in", tmp_path / "lib")
    write(tmp_path / "in" / "unseen15" / "AAPL.csv", bars(days(220), 1))
    with pytest.raises(DataError, match="AAPL is in a folder of unseen symbols now"):
        update(tmp_path / "in", tmp_path / "lib")


def test_symbols_without_parts_are_cut_by_rows_or_by_a_date(tmp_path):
    lines, few = bars(days(100), 1), bars(days(40), 2)
    write(tmp_path / "in" / "A.csv", lines)
    write(tmp_path / "in" / "B.csv", few)
    build(tmp_path / "in", tmp_path / "rows", cuts=Cuts(test_rows=30, validation_rows=20))
    found = summary(tmp_path / "rows")
    assert (found["A"]["test_rows"], found["A"]["validation_rows"]) == ("25", "20")  # at most a quarter
    assert (found["B"]["test_rows"], found["B"]["validation_rows"]) == ("10", "10")
    cut = 1645401600 * 10**6  # 2022-02-21
    build(tmp_path / "in", tmp_path / "date", cuts=Cuts(test_from=cut))
    found = summary(tmp_path / "date")
    assert {line["test_from"] for line in found.values()} == {"2022-02-21"}


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: folder.mkdir(), "holds no table of a symbol"),
        (lambda folder: write(folder / "train" / "a" / "X.csv", []), "holds no table of a symbol"),
        (lambda folder: (write(folder / "A.csv", []), write(folder / "a.csv", [])), "differ in case alone"),
        (lambda folder: (write(folder / "A.csv", []), write(folder / "A.txt", [])), "both give the symbol 'A'"),
        (lambda folder: (write(folder / "A.csv", []), write(folder / "more" / "B.csv", [])), "it is no subset"),
        (lambda folder: write(folder / "unseen2" / "old" / "B.csv", []), "not a part of unseen symbols"),
    ],
)
def test_folders_that_cannot_be_understood_are_refused(tmp_path, prepare, message):
    prepare(tmp_path / "in")
    with pytest.raises(DataError, match=message):
        build(tmp_path / "in", tmp_path / "lib")
    assert not (tmp_path / "lib").exists()


def test_small_test_parts_say_what_they_are_worth():
    assert part_lines({"A": 30, "B": 30})[1].startswith("a forecast of 30 steps has one origin in such a part")
    assert len(part_lines({"A": 500, "B": 300})) == 1
    assert part_lines({"A": 0}) == ["no symbol has a test part"]


def corpus_parts(library: Path, name: str) -> dict[str, tuple[int, ...]]:
    """Return of each symbol the rows of training, of validation, and of test."""
    corpus = Corpus.open(library / name)
    parts = DateCuts("library", "library").parts(corpus)
    rows = zip(parts.train_end, parts.validation.end - parts.validation.begin, parts.test.end - parts.test.begin,
               strict=True)  # fmt: skip
    return {item: tuple(map(int, counts)) for item, counts in zip(corpus.item_ids(), rows, strict=True)}


def test_each_symbol_is_cut_at_its_own_dates(built):
    library, held = built
    assert corpus_parts(library, "B") == {
        name: (len(held[name]) - 60, 30, 30) for name in ("AAPL", "MSFT", "NVDA")
    }  # fmt: skip
    assert corpus_parts(library, "unseen/B") == {"AVGO": (100, 20, 30)}


@pytest.mark.parametrize("embargo", [None, "10D"])
@pytest.mark.parametrize("sampling", ["random", "epoch"])
def test_training_sees_no_test_row_of_any_symbol(built, sampling, embargo):
    library, _ = built
    config = DataConfig(
        corpora=({"path": str(library / "B")}, {"path": str(library / "D")}),  # type: ignore[arg-type]
        target=("close",), context_length=20, prediction_length=5, sampling=sampling, with_times=True,
        validation_from="library", test_from="library", embargo=embargo,
    )  # fmt: skip
    source = TrainingSource(config, seed=1)
    windows = source.windows(0, 3000)
    assert windows.source is not None and windows.future_times is not None
    lines = summary(library)
    for (corpus, series, _), times in zip(windows.source.tolist(), windows.future_times, strict=True):
        symbol = source.corpora[corpus].item_id(series)
        first = np.datetime64(lines[symbol]["validation_from"], "us").astype(np.int64)
        limit = first - (0 if embargo is None else 10 * 86400 * 10**6)
        assert times[times != NO_TIME].max() < limit
    symbols = {source.corpora[corpus].item_id(series) for corpus, series, _ in windows.source.tolist()}
    assert symbols == {"AAPL", "MSFT", "NVDA", "BTC-USD"}


def test_cuts_are_content_of_the_corpus(built, tmp_path):
    library, _ = built
    shutil.copytree(library / "B", tmp_path / "B")
    corpus = Corpus.open(tmp_path / "B")
    assert corpus.fingerprint == Corpus.open(library / "B").fingerprint
    cuts = json.loads((tmp_path / "B" / "cuts.json").read_text())
    cuts["AAPL"][1] += 1
    (tmp_path / "B" / "cuts.json").write_text(json.dumps(cuts))
    with pytest.raises(DataError, match=r"cuts\.json: is not the file of this corpus"):
        DateCuts("library", "library").parts(corpus)
    with pytest.raises(DataError, match=r"cuts\.json: is not the file of this corpus"):
        verify_folder(tmp_path / "B")
    (tmp_path / "B" / "cuts.json").unlink()
    with pytest.raises(DataError, match=r"cuts\.json: missing"):
        DateCuts("library", "library").parts(corpus)


def test_other_corpora_have_no_dates_of_a_library(tmp_path):
    write(tmp_path / "A.csv", bars(days(100), 1))
    import_corpus([tmp_path / "A.csv"], tmp_path / "corpus")
    with pytest.raises(ConfigError, match="corpus is no corpus of a library"):
        DateCuts("library", "library").parts(Corpus.open(tmp_path / "corpus"))
    with pytest.raises(ValueError, match="library for both"):
        DateCuts("library", "2024-01-01").check()


def test_an_import_adds_rows_to_a_library_and_no_symbols(tmp_path):
    held = overview(tmp_path / "in")
    build(tmp_path / "in", tmp_path / "lib")
    write(tmp_path / "more" / "AAPL.csv", bars(days(230), 1)[200:])
    import_corpus([tmp_path / "more"], tmp_path / "lib" / "B", update=True)
    assert corpus_parts(tmp_path / "lib", "B")["AAPL"] == (len(held["AAPL"]) - 60, 30, 60)
    write(tmp_path / "more" / "ZZZ.csv", bars(days(100), 3))
    with pytest.raises(DataError, match="item 'ZZZ' is new, and the items of this corpus have parts of their own"):
        import_corpus([tmp_path / "more"], tmp_path / "lib" / "B", update=True)


def test_a_model_of_a_library_is_scored_on_its_test_part_and_on_unseen_symbols(built, tmp_path):
    library, _ = built
    config = load_config(
        Path(__file__).parents[3] / "configs" / "linear" / "quick.yaml",
        [
            f"data.corpora=[{{path: {library / 'B'}}}]", "data.target=[close]", "data.context_length=20",
            "data.prediction_length=10", "data.validation_steps=null", "data.test_steps=null",
            "data.validation_from=library", "data.test_from=library", "evaluation.promotion=false",
            "training.max_steps=2", "optimizer.schedule={kind: constant}", f"output_dir={tmp_path / 'run'}",
        ],
    )  # fmt: skip
    train_run(config)
    release = tmp_path / "run" / "release"
    facts, model = json.loads((release / "release.json").read_text()), foretrain.load(release).model
    for name, symbols in (("B", 3), ("unseen/B", 1)):
        for asked in ({}, {"test_from": "library"}):
            corpus = Corpus.open(library / name)
            chosen = select(corpus, ["close"])
            result = evaluate(
                model, corpus, selection=chosen, prediction_length=10, num_windows=3, release=facts, compare=(), **asked
            )
            assert sum(result.item_windows) == 3 * symbols
            assert not [note for note in result.warnings if isinstance(note, Overlap)]


def test_prices_on_another_base_are_not_glued_to_the_stored_ones(tmp_path):
    """As after a split: the source has divided all prices by two, and has ten bars more."""
    lines = bars(days(110), 1)
    write(tmp_path / "in" / "A.csv", lines[:100])
    write(tmp_path / "in" / "B.csv", bars(days(100), 2))
    build(tmp_path / "in", tmp_path / "lib")
    halved = []
    for line in lines:
        when, *prices, volume = line.split(",")
        halved.append(",".join([when, *(str(float(price) / 2) for price in prices), volume]))
    write(tmp_path / "in" / "A.csv", halved)
    report = update(tmp_path / "in", tmp_path / "lib")
    assert any("A is left as it was: its prices are 0.5 times the stored ones" in note for note in report.notes)
    assert summary(tmp_path / "lib")["A"]["total_rows"] == "100"
    write(tmp_path / "in" / "A.csv", lines)
    assert not any("left as it was" in note for note in update(tmp_path / "in", tmp_path / "lib").notes)
    assert summary(tmp_path / "lib")["A"]["total_rows"] == "110"


def test_what_a_download_recorded_of_symbols_is_known(tmp_path):
    write(tmp_path / "in" / "BTC-USDT.csv", bars(days(100, business=False), 1))
    record = {"file": "BTC-USDT.csv", "class": "crypto", "currency": "USDT", "exchange": "binance",
              "precision": {"price": 0.01, "amount": 1e-5}, "fees": {"maker": 0.0002, "taker": 0.0004}}  # fmt: skip
    (tmp_path / "in" / "provenance.json").write_text(json.dumps({"symbols": {"BTC/USDT": record}}))
    build(tmp_path / "in", tmp_path / "lib")
    asset = json.loads((tmp_path / "lib" / "asset_metadata.json").read_text())["BTC-USDT"]
    assert (asset["exchange"], asset["currency"], asset["default_trading_fee"], asset["precision"]) == (
        "binance",
        "USDT",
        0.0004,
        2,
    )


@pytest.mark.parametrize(
    "damage",
    [
        {"symbols": {"AAPL": {"set": "trained", "corpus": "../elsewhere", "files": {}}}},
        {"symbols": {"AAPL": {"set": "trained", "corpus": "unseen/B", "files": {}}}},
        {"symbols": {"AAPL": {"set": "trained", "corpus": ["B"], "files": {}}}},
        {"symbols": {"AAPL": 5}},
        {"cuts": {"test_rows": "x"}},
        {"cuts": {"test_rows": 10**30}},
        {"format_version": 2},
    ],
)
def test_a_damaged_library_is_refused_and_nothing_is_written_elsewhere(tmp_path, damage):
    write(tmp_path / "in" / "AAPL.csv", bars(days(100), 1))
    build(tmp_path / "in", tmp_path / "lib")
    record = tmp_path / "lib" / "library.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | damage))
    with pytest.raises(DataError, match=r"library\.json: "):
        update(tmp_path / "in", tmp_path / "lib")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "lib"]
    with pytest.raises(DataError, match="no library to update"):
        update(tmp_path / "in", tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
