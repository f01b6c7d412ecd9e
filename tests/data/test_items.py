"""Items that a run uses and items that it never sees: how they are named, and that no window is of another one."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.market.folders import bars, days, overview, write
from tests.data.test_parts import FIRST, batches, config, corpus_of, refusal

from foretrain.data.config import DataConfig
from foretrain.data.items import ChosenItems, ItemRule, entries, match
from foretrain.data.market.library import build as build_library
from foretrain.data.market.subsets import refuse_unseen
from foretrain.data.parts import micros_text
from foretrain.data.source import TrainingSource
from foretrain.data.splits import rolling_origins
from foretrain.data.store import Corpus
from foretrain.errors import ConfigError, DataError
from foretrain.timeaxis.frequency import DAY


def named(*names: str, name: str = "m", rows: int = 60) -> Corpus:
    """Series of steps with these names."""
    items = [(item, np.arange(rows, dtype=np.float32)[None], None) for item in names]
    return Corpus.from_arrays(name, items, ["x"])


def used(*corpora: Corpus, **options) -> list[list[str]]:
    """The items of each corpus that a run uses."""
    section = config(len(corpora), **options)
    return [
        [corpus.item_id(int(k)) for k in np.flatnonzero(chosen.among(corpus.num_series))]
        for corpus, chosen in zip(corpora, section.choose_items(corpora), strict=True)
    ]


def error(*corpora: Corpus, **options) -> str:
    with pytest.raises(ConfigError) as caught:
        TrainingSource(config(len(corpora), **options), 0, list(corpora))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- names and patterns ------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(st.text("AB*?[]-", min_size=1, max_size=4), min_size=1, max_size=12, unique=True),
    asked=st.lists(st.text("AB*?[]-", min_size=1, max_size=3), min_size=1, max_size=5, unique=True),
)
def test_entries_mean_what_fnmatch_says_and_each_must_mean_something(names, asked):
    corpus = named(*names)
    expected = [any(fnmatchcase(name, one) for one in asked) for name in names]
    if all(any(fnmatchcase(name, one) for name in names) for one in asked):
        ((mask, found),) = match([corpus], asked, "data.items")
        assert mask.tolist() == expected and set(found) == set(asked)
        assert ItemRule(tuple(asked)).used(corpus).tolist() == expected
    else:
        with pytest.raises(ConfigError, match=r"data\.items: no item of m "):
            match([corpus], asked, "data.items")


def test_names_of_no_item_are_an_error_with_the_nearest_ones(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    corpus = named("AAPL", "MSFT", "BTC-USD", "X[1]")
    text = error(corpus, items=["APPL"])
    assert text == "data.items: no item of m is called 'APPL'. Nearest: AAPL."
    assert "no item of m matches 'MSTF*'. Nearest: MSFT." in error(corpus, holdout_items=["MSTF*"])
    assert "'aapl'" in error(corpus, items=["aapl"]), "upper and lower case differ"
    assert "(nor are 1 more). Its items are such as AAPL, MSFT, BTC-USD." in error(corpus, items=["12", "34", "AAPL"])
    assert "the item of this name is written 'X[[]1]'" in error(corpus, items=["X[1]"])
    assert used(corpus, items=["X[[]1]"]) == [["X[1]"]]
    (tmp_path / "names.txt").write_text("\ufeff# of June\nAAPL\r\n\n  BTC*  \n", encoding="utf-8")
    assert "A file of names is written file:names.txt." in error(corpus, items="names.txt")
    assert used(corpus, items="file:names.txt") == [["AAPL", "BTC-USD"]]
    (tmp_path / "names.txt").write_text("AAPL\nTSLA\n")
    assert "data.items (file:names.txt): no item of m is called 'TSLA'" in error(corpus, items=["file:names.txt"])
    (tmp_path / "names.txt").write_text("# none\n")
    assert "names.txt: holds no name" in error(corpus, items=["file:names.txt"])
    assert "gone.txt: no such file of names" in error(corpus, holdout_items=["file:gone.txt"])
    assert "cannot be read" in error(corpus, items=[f"file:{tmp_path}"])
    many = [f"{k}*" for k in range(1001)]
    assert "1,001 patterns, more than 1,000" in error(corpus, items=many)


def test_an_item_in_both_lists_and_a_corpus_of_which_none_is_left_are_refused():
    corpus = named("A", "AB", "B")
    assert "data.items and data.holdout_items: both have 'AB' of m. Leave it out of one" in error(
        corpus, items=["A*"], holdout_items=["AB", "B"]
    )
    assert "they hold out all 3 items of m, and none is left" in error(corpus, holdout_items=["*"])
    other = named("C", name="n")
    text = error(corpus, other, items=["A"])
    assert "data.items: none of the 1 item of n is among them. Leave the corpus out" in text
    assert "'A' of m and 1 more" in error(corpus, items=["A*"], holdout_items=["A*"])


def test_lists_hold_of_every_corpus_and_a_corpus_may_have_items_of_its_own():
    first, second = named("A", "B", "C"), named("B", "C", "D", name="n")
    assert used(first, second, items=["A", "D"]) == [["A"], ["D"]], "an entry must mean an item of one of them"
    assert used(first, second, holdout_items=["B"]) == [["A", "C"], ["C", "D"]]
    corpora = [{"path": "unused"}, {"path": "unused", "items": "[BD]"}]
    assert used(first, second, corpora=corpora) == [["A", "B", "C"], ["B", "D"]]
    text = error(first, second, corpora=[{"path": "unused"}, {"path": "unused", "items": ["A"]}])
    assert text.startswith("data.corpora.1.items: no item of n is called 'A'")
    both = [{"path": "unused", "items": ["A"]}, {"path": "unused", "items": ["D"]}]
    assert "every corpus has items of its own, so data.items cannot take effect" in refusal(corpora=both, items=["A"])


@pytest.mark.parametrize("value", ["[ON]", "[600519]", "[000001]", "7", "[null]", "['  ']", "[]", "{A: 1}", "'file:'"])
def test_what_yaml_makes_no_name_of_is_refused(value: str):
    assert "items: " in refusal(f"items={value}")
    assert "holdout_items: " in refusal(f"holdout_items={value}")


def test_a_ticker_that_yaml_takes_for_a_truth_value_is_to_be_quoted():
    assert "True is no text: write the name in quotes, or list the names in a file" in refusal("items=[ON]")
    assert entries("A") == ("A",) and entries(["B", "A", "B"]) == ("A", "B") and entries(None) is None


def test_a_source_says_and_counts_what_it_leaves_out():
    corpora = [named("A", "B", "C", "D", "E")]
    source = TrainingSource(config(items=["[A-D]"], holdout_items=["E"]), 0, corpora)
    assert "1 held out by name, 0 not among data.items" in source.lines()[1]
    assert source.left_out() == ["m: 1 of 5 series are not trained on: 1 held out (data.holdout_items)"]
    source = TrainingSource(config(items=["[A-D]"], max_train_series=3), 0, corpora)
    assert "1 not among data.items, 1 beyond data.max_train_series" in source.left_out()[0]
    assert source.part_records() == [{"items": ["[A-D]"]}]
    with pytest.raises(DataError, match=r"none of its 5 series can be trained on \(3 held out or not among data.items"):
        TrainingSource(config(items=["A", "B"], min_rows=100), 0, corpora)


def test_the_fingerprint_tells_which_items_are_used_and_is_that_of_before_for_all():
    corpora = [named("A", "B", "C")]
    plain = TrainingSource(config(), 0, corpora)
    prints = {TrainingSource(config(**o), 0, corpora).fingerprint for o in ({"items": ["A"]}, {"items": ["B"]})}
    assert len(prints | {plain.fingerprint}) == 3
    same = [TrainingSource(config(**o), 0, corpora) for o in ({"items": ["A", "C"]}, {"holdout_items": ["B"]})]
    assert same[0].fingerprint == same[1].fingerprint and ChosenItems().fingerprint == ""
    assert np.array_equal(same[0].windows(0, 50).source, same[1].windows(0, 50).source)


# -- libraries ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("library")
    overview(place / "in")
    build_library(place / "in", place / "lib")
    return place / "lib"


def test_a_subset_of_a_library_is_chosen_by_its_name(library: Path):
    stocks, coins = Corpus.open(library / "B"), Corpus.open(library / "D")
    assert used(stocks, items="subset:puffer_subset") == [["AAPL"]]
    assert used(stocks, coins, items=["subset:puffer_subset", "BTC*"]) == [["AAPL"], ["BTC-USD"]]
    assert used(stocks, holdout_items=["subset:puffer_subset"]) == [["MSFT", "NVDA"]]
    source = TrainingSource(config(items=["subset:puffer_subset"]), 0, [stocks])
    assert source.part_records() == [{"items": ["AAPL"]}], "names, since the library may change"
    text = error(stocks, items=["subset:pufer_subset"])
    assert "the library has no subset 'pufer_subset' (has puffer_subset). Did you mean 'puffer_subset'?" in text
    assert "subset 'puffer_subset' has no symbol in D" in error(coins, items=["subset:puffer_subset"])
    assert "no corpus here is of a library with subsets" in error(named("AAPL"), items=["subset:puffer_subset"])


def test_no_run_trains_on_a_corpus_of_unseen_symbols(library: Path, tmp_path: Path):
    (tmp_path / "link").symlink_to(library / "unseen" / "B")
    for path in (library / "unseen" / "B", tmp_path / "link"):
        with pytest.raises(ConfigError, match=r"holds the unseen symbols of \S+lib, which no training may see"):
            TrainingSource(config(), 0, [Corpus.open(path)])
    refuse_unseen(Corpus.open(library / "B"))


def test_a_damaged_list_of_subsets_is_an_error(library: Path, tmp_path: Path):
    (tmp_path / "B").symlink_to(library / "B")  # opened through a link: its library is that of the target
    assert used(Corpus.open(tmp_path / "B"), items="subset:puffer_subset") == [["AAPL"]]
    record = library / "library.json"
    kept = record.read_text()
    for text in ("{", '{"subsets": 3}', json.dumps({"subsets": {"a": [1]}}), "{}"):
        record.write_text(text)
        with pytest.raises(DataError, match=r"library\.json: .* Build the library anew"):
            used(Corpus.open(library / "B"), items="subset:a")
    record.write_text(kept)


# -- no window is of another item --------------------------------------------------------------------------------------

CORPORA = st.lists(
    st.tuples(
        st.sampled_from(["B", "h", "stamps", "D"]),
        st.lists(st.tuples(st.integers(0, 40), st.integers(3, 90)), min_size=2, max_size=6),
    ),
    min_size=1,
    max_size=3,
)
SUBSETS = st.lists(st.sampled_from([f"item {k}" for k in range(6)]), max_size=4, unique=True)


def windows_of(made, first: int | None, chosen, held, pattern: bool, sampling: str):
    """(corpora, section, items that may be seen) of drawn settings; None where the selection is refused."""
    corpora = [corpus_of(kind, *map(list, zip(*series, strict=True)), f"c{k}") for k, (kind, series) in enumerate(made)]
    names = {item for corpus in corpora for item in corpus.item_ids()}
    held, chosen = [n for n in held if n in names], [n for n in chosen if n in names and n not in held]
    spelled = [f"item [{''.join(sorted(n[-1] for n in held))}]"] if held and pattern else held
    options = {
        "validation_from": None if first is None else micros_text(FIRST + first * DAY),
        "test_from": None if first is None else micros_text(FIRST + (first + 9) * DAY),
        "items": chosen or None,
        "holdout_items": spelled or None,
        "sampling": "random" if sampling == "random" else "epoch",
        "min_context": 2,
        "stride": 2,
    }
    may = {item for item in names if item not in held and (not chosen or item in chosen)}
    return corpora, config(len(corpora), **options), may


def leaks(source: TrainingSource, sampling: str, may: set[str], limit: int | None) -> tuple[set[str], set[str]]:
    """The items of all windows, and what is wrong with them: items that may not be seen, steps behind the cut."""
    seen, wrong = set[str](), set[str]()
    for windows in batches(source, sampling):
        for row, (number, series, _) in enumerate(windows.source.tolist()):
            if number < 0:
                continue  # of padding
            corpus = source.corpora[number]
            item = corpus.item_id(series)
            seen.add(item)
            both = np.concatenate([windows.context[row], windows.future[row]])
            steps = both[~np.isnan(both)].astype(int)  # a value is the number of its step
            late = limit is not None and bool((corpus.times(series)[steps] >= limit).any())
            wrong |= {item} if item not in may or late else set()
    return seen, wrong


@settings(max_examples=60, deadline=None)
@given(
    made=CORPORA,
    first=st.sampled_from([None, 20, 45]),
    chosen=SUBSETS,
    held=SUBSETS,
    pattern=st.booleans(),
    sampling=st.sampled_from(["random", "epoch", "budget"]),
)
def test_no_window_of_training_or_validation_is_of_an_item_that_is_held_out_or_not_chosen(
    made, first, chosen, held, pattern, sampling
):
    corpora, section, may = windows_of(made, first, chosen, held, pattern, sampling)
    try:
        source = TrainingSource(section, 0, corpora)
    except ConfigError as refused:
        assert any(not may.intersection(corpus.item_ids()) for corpus in corpora), refused
        return
    except DataError:  # no item of a corpus that may be seen is long enough
        return
    limit = None if first is None else FIRST + first * DAY
    seen, wrong = leaks(source, sampling, may, limit)
    assert seen and not wrong
    for corpus, items in zip(corpora, section.choose_items(corpora), strict=True):
        parts = section.cuts.parts(corpus)
        try:
            origins = rolling_origins(
                corpus, split="validation", prediction_length=3, num_windows=9, min_context=2,
                region=parts.validation, among=items.used,
            )  # fmt: skip
        except DataError:
            assert parts.validation.only(items.used).most_room(2) < 3
            continue
        assert {corpus.item_id(series) for series, _ in origins} <= may


def test_a_held_out_item_that_is_let_in_is_found(monkeypatch):
    """The fault that the test above looks for, planted: lists of items that choose everything."""
    made = [("D", [(0, 60), (0, 60), (3, 60)]), ("B", [(0, 60), (1, 60)])]
    drawn = (made, 45, [], ["item 1"], False)

    def found(sampling: str) -> set[str]:
        corpora, section, may = windows_of(*drawn, sampling)
        return leaks(TrainingSource(section, 0, corpora), sampling, may, FIRST + 45 * DAY)[1]

    assert not any(found(sampling) for sampling in ("random", "epoch", "budget"))
    monkeypatch.setattr(DataConfig, "choose_items", lambda self, corpora: [ChosenItems() for _ in corpora])
    assert all(found(sampling) == {"item 1"} for sampling in ("random", "epoch", "budget"))


@pytest.mark.parametrize("seed", range(3))
def test_no_window_touches_the_dates_of_a_library_less_the_embargo_nor_its_unseen_symbols(seed: int, tmp_path: Path):
    """Symbols of several calendars, each with cuts of its own."""
    rng = np.random.default_rng(seed)
    for k in range(9):
        kind = ("stock", "coin", "hour")[k % 3]
        count = int(rng.integers(60, 160))
        stamps = days(count, business=kind == "stock", hours=4 if kind == "hour" else 24)
        write(tmp_path / "in" / f"{kind}{k}.csv", bars(stamps, k))
    build_library(tmp_path / "in", tmp_path / "lib", held_out=str(2 + seed), seed=seed)
    folders = [path for path in (tmp_path / "lib").iterdir() if (path / "manifest.json").is_file()]
    corpora = [Corpus.open(path) for path in sorted(folders)]
    unseen = {i for path in (tmp_path / "lib" / "unseen").iterdir() for i in Corpus.open(path).item_ids()}
    held = corpora[0].item_id(0) if corpora[0].num_series > 1 else None
    options = {"validation_from": "library", "test_from": "library", "embargo": "2D", "sampling": "epoch", "stride": 1}
    section = config(len(corpora), **options, holdout_items=None if held is None else [held], min_context=2)
    source = TrainingSource(section, seed, corpora)
    seen = set[str]()
    limits = [section.cuts.train_until_of(corpus) for corpus in corpora]
    own = [{part: section.cuts.time(part, corpus) for part in ("validation", "test")} for corpus in corpora]
    for windows in batches(source, "epoch"):
        for row, (number, series, cutoff) in enumerate(windows.source.tolist()):
            corpus = corpora[number]
            seen.add(corpus.item_id(series))
            touched = cutoff + int(np.flatnonzero(~np.isnan(windows.future[row]))[-1])
            newest = int(corpus.times(series)[touched])
            assert newest < limits[number][series] <= own[number]["test"][series] - 2 * DAY
    everything = {item for corpus in corpora for item in corpus.item_ids()}
    assert seen == everything - {held} and len(unseen) == 2 + seed and not seen & unseen
