"""Rows appended to raw files change no row before them, and no forecast made at the last of those.

Files are imported without and with a tail that has flaws of one kind; what was there before must be the same bits. The
last test shows that the checks catch a leak.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.forecasting.quantiles import forecast_windows
from tests.models.zoo import CONTEXT, HORIZON, ZOO
from tests.test_causality import few, quick, same

from foretrain.data.importers import import_corpus
from foretrain.data.quality import clean
from foretrain.data.splits import cut, select
from foretrain.data.store import Corpus
from foretrain.errors import DataError
from foretrain.models import family
from foretrain.models.base import Columns

FLAWS = ("none", "nan", "huge", "zero", "negative", "ohlc", "jump", "duplicate", "shuffled", "long gap", "text")
HEADER = "Date,Open,High,Low,Close,Adj Close,Volume,Sector\n"


def write_bars(folder: Path, seed: int, week: int, holes: float, rows: int, tail: int, flaw: str) -> None:
    """Two files of daily bars of so many rows and, with flaws of one kind, a tail after them."""
    folder.mkdir()
    days = np.datetime64("2020-02-03") + np.arange(2 * (rows + 60) * 7 // week)
    days = days[(days.astype(np.int64) + 3) % 7 < week]
    for k in range(2):
        rng, first = np.random.default_rng([seed, k]), rows - 9 * k
        own = days[(rng.random(len(days)) >= holes) | (np.arange(len(days)) < 2)]
        lines = [bar(rng, day, "AB"[k]) for day in own[:first]]
        coming = [bar(rng, day, "ABC"[k + 1], flaw) for day in own[first : first + tail] + 200 * (flaw == "long gap")]
        if flaw == "duplicate":
            coming += coming[:2]
        if flaw == "shuffled":
            coming = coming[::-1]
        (folder / f"S{k}.csv").write_text(HEADER + "".join(lines + coming))


def bar(rng: np.random.Generator, day: np.datetime64, sector: str, flaw: str = "none") -> str:
    close = 100 + rng.normal()
    o, h, low, c = (f"{v:.4f}" for v in (close + 0.1, close + 1, close - 1, close))
    volume, adjusted = str(rng.integers(1000, 9000)), f"{close / 2:.4f}"
    if flaw == "nan":
        c = volume = ""
    if flaw == "huge":
        h, volume = "3e37", "1e39"
    if flaw == "zero":
        o = c = "0"
    if flaw == "negative":
        low, volume = "-5", "-7"
    if flaw == "ohlc":
        h = "1"
    if flaw == "jump":
        o, h, low, c = (f"{float(v) / 4:.4f}" for v in (o, h, low, c))
    if flaw == "text":
        sector = '"newly listed, x"'
    return f"{day},{o},{h},{low},{c},{adjusted},{volume},{sector}\n"


def bars_of(corpus: Corpus) -> dict[str, tuple[np.ndarray, np.ndarray, list[str]]]:
    """Stamps (T,), numbers (V, T) and words (T,) of each item; words are compared, as their numbers may change."""
    words = corpus.manifest.columns[-1].categories
    assert words is not None
    found = {}
    for k in range(corpus.num_series):
        times, values = corpus.times(k), corpus.values(k).copy()
        assert times is not None
        found[corpus.item_id(k)] = (times, values[:-1], ["" if np.isnan(v) else words[int(v)] for v in values[-1]])
    return found


@settings(quick, max_examples=30)
@given(
    seed=st.integers(0, 1000),
    week=st.sampled_from([5, 7]),
    holes=st.sampled_from([0.0, 0.1, 0.4]),
    flaw=st.sampled_from(FLAWS),
    on_bad=st.sampled_from(["fix", "drop", "error"]),
    adjust=st.booleans(),
    update=st.booleans(),
)
def test_bars_appended_to_the_files_change_no_earlier_bar(seed, week, holes, flaw, on_bad, adjust, update):
    """Documented exceptions: rows of NaN that make an axis regular, codes of categories, items that a rule drops."""
    same_bars(seed, week, holes, flaw, on_bad, adjust and not update, update)


def same_bars(seed: int, week: int, holes: float, flaw: str, on_bad: str, adjust: bool, update: bool) -> bool:
    """Import files without and with a tail and compare the bars before it; False when the rules refuse the files."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_bars(folder / "before", seed, week, holes, 60, 0, flaw)
        write_bars(folder / "after", seed, week, holes, 60, 12, flaw)
        out = [folder / "one", folder / ("one" if update else "two")]
        reports, bars = [], []
        for raw, corpus, more in (("before", out[0], {"adjust": adjust}), ("after", out[1], {"update": update})):
            try:
                reports.append(import_corpus([folder / raw], corpus, on_bad=on_bad, **{"adjust": adjust, **more}))
            except DataError as error:
                assert "refused because of --on-bad error" in str(error) or "split_like_jump" in str(error)
                return False
            bars.append(bars_of(Corpus.open(corpus)))
        filled = any("NaN were added" in report.text() for report in reports)
        for item, (times, values, words) in bars[1].items():
            old_times, old_values, old_words = bars[0][item]
            kept = times <= old_times[-1]
            old_kept = np.ones(len(old_times), bool)
            if filled:
                kept &= ~np.isnan(values).all(0)
                old_kept = ~np.isnan(old_values).all(0)
            same(old_times[old_kept], times[kept], "times")
            same(old_values[:, old_kept], values[:, kept], "values")
            assert [old_words[k] for k in np.flatnonzero(old_kept)] == [words[k] for k in np.flatnonzero(kept)]
    return True


@pytest.mark.parametrize("update", [False, True])
@pytest.mark.parametrize("holes", [0.0, 0.1])
@pytest.mark.parametrize("on_bad", ["fix", "drop"])
def test_a_plain_tail_is_compared_and_not_refused(holes, on_bad, update):
    """The property above may end early when files are refused; here it does not."""
    assert same_bars(3, 5, holes, "ohlc", on_bad, adjust=False, update=update)


def test_bars_appended_to_clean_files_pass_the_strictest_import():
    assert same_bars(3, 7, 0.0, "none", "error", adjust=False, update=False)


@pytest.mark.parametrize("flaw", [flaw for flaw in FLAWS if flaw != "long gap"])  # whose calendar goes on elsewhere
@pytest.mark.parametrize("name", [name for name, entry in ZOO.items() if entry.forecasts])
def test_bars_appended_to_the_files_change_no_forecast_made_before_them(zoo, name, flaw):
    """From CSV files to forecasts at the last bar without the tail, by the columns that the family chooses itself."""
    model, found = zoo.shared(name), []
    with tempfile.TemporaryDirectory() as scratch:
        for tail in (0, 12):
            raw, out = Path(scratch) / f"raw{tail}", Path(scratch) / f"corpus{tail}"
            write_bars(raw, 3, 7, 0.0, 60, tail, flaw)
            import_corpus([raw], out, on_bad="fix")
            corpus = Corpus.open(out)
            chosen = family(name).columns(corpus.columns) or Columns(("close",), ("close",))
            selection = select(corpus, chosen.targets)
            sizes = {"context_length": CONTEXT, "prediction_length": HORIZON, "with_future": False}
            windows = [cut(corpus, selection, k, length, **sizes) for k, length in enumerate((60, 51))]
            found.append((windows, forecast_windows(model, windows, HORIZON, (0.1, 0.5, 0.9), **few(model))))
    for k in range(2):
        for what in ("context", "context_times", "future", "future_times"):
            same(*(getattr(windows[k], what) for windows, _ in found), what)
        same(*(forecasts[k] for _, forecasts in found), "forecast")
        assert np.isfinite(found[0][1][k]).all()


def test_an_importer_that_scales_by_the_whole_file_is_caught(monkeypatch):
    def leaky(rows, layout, findings, **options):
        rows = clean(rows, layout, findings, **options)
        rows.values[:-1] /= 1 + np.nanmax(rows.values[:-1])
        return rows

    monkeypatch.setattr("foretrain.data.importers.cleaning.clean", leaky)
    with pytest.raises(AssertionError, match="values"):
        same_bars(3, 7, 0.0, "huge", "fix", adjust=False, update=False)
