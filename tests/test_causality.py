"""Nothing after the cutoff reaches a model: every kind of data, from raw files to forecasts, with the future changed.

Each test takes the same data twice, the second time with every value after a cutoff replaced: targets, and covariates
known up to the cutoff only. What a model may see, and what it makes of it, must then be the same bits. Labels and
covariates known ahead are the exceptions. The last section shows that the same checks catch a leak.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tests.forecasting.quantiles import forecast_windows
from tests.models.zoo import CANDLE, CONTEXT, HORIZON, ZOO, tokens_up_to_cutoff

from foretrain.data.config import CorpusSpec, DataConfig
from foretrain.data.source import TrainingSource
from foretrain.data.splits import Origin, Selection, cut, select
from foretrain.data.store import Column, Corpus, CorpusWriter
from foretrain.data.windows import KNOWN, Window, Windows, stack_windows
from foretrain.errors import DataError
from foretrain.evaluation.backtest import Backtest
from foretrain.evaluation.panel import make_panel
from foretrain.evaluation.scored import seasonal_errors
from foretrain.forecasting.frame import read_frame
from foretrain.forecasting.inputs import read_inputs
from foretrain.forecasting.predictor import Predictor
from foretrain.forecasting.rows import Names
from foretrain.models.base import Forecaster, Trainable
from foretrain.models.output import RAW
from foretrain.models.request import ForecastRequest

HOUR = 3_600_000_000  # microseconds
LEVELS = (0.1, 0.5, 0.9)
# entries of a batch that may know the truth: labels, and how many rows have any, which a loss is divided by
LABELS = {"future_target", "future_observed", "rows"}
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="session", params=ZOO)
def model(request, zoo) -> Trainable:
    return zoo.shared(request.param)


@pytest.fixture(scope="session", params=[name for name, entry in ZOO.items() if entry.forecasts])
def forecaster(request, zoo) -> Forecaster:
    return zoo.shared(request.param)


@pytest.fixture(scope="session", params=[name for name, entry in ZOO.items() if not entry.candles])
def general_model(request, zoo) -> Forecaster:
    """Of a family that takes any columns, known covariates among them."""
    return zoo.shared(request.param)


def few(model: Trainable) -> dict[str, int]:
    """Few sample paths, where the family draws any."""
    return {"num_samples": 2} if ZOO[model.family].samples else {}


# Data


@dataclass(frozen=True)
class Kind:
    """What the data look like; columns are targets, past-only numbers, past-only words, known numbers, known words.

    Of candles, columns are those of a candle: open, high, low, close, ... as targets, or close as the target and the
    others as past covariates.
    """

    seed: int
    lengths: tuple[int, ...]
    columns: tuple[int, int, int, int, int]
    missing: float
    time: str
    mapped: bool
    candles: bool = False

    @property
    def names(self) -> dict[str, list[str]]:
        labels = ("target", "past", "past_word", "known", "known_word")
        if self.candles:
            columns = candle_columns(self)
            cut = self.columns[0]
            return {label: [] for label in labels} | {"target": columns[:cut], "past": columns[cut:]}
        return {label: [f"{label}{k}" for k in range(n)] for label, n in zip(labels, self.columns, strict=True)}

    @property
    def unknown(self) -> int:
        """Rows whose values after the cutoff are not known: these come first."""
        return sum(self.columns[:3])


def candle_columns(kind: Kind) -> list[str]:
    """Names in the order targets, past covariates."""
    chosen = list(CANDLE[: sum(kind.columns)])
    return chosen if kind.columns[1] == 0 else ["close", *(name for name in chosen if name != "close")]


def suited(kind: Kind, model: Trainable) -> Kind:
    """The kind as the family can take it."""
    if not ZOO[model.family].candles:
        return kind
    count = 4 + kind.seed % 3
    columns = (1, count - 1, 0, 0, 0) if kind.columns[1] else (count, 0, 0, 0, 0)
    return replace(kind, columns=columns, candles=True)


kinds = st.builds(
    Kind,
    seed=st.integers(0, 10_000),
    lengths=st.lists(st.integers(2, 60), min_size=1, max_size=3).map(tuple),
    columns=st.tuples(*(st.integers(low, 2 if low else 1) for low in (1, 0, 0, 0, 0))),
    missing=st.sampled_from([0.0, 0.3, 0.9]),
    time=st.sampled_from(["regular", "stamps", "steps"]),
    mapped=st.booleans(),
)
poisons = st.sampled_from(["random", "nan", "huge", "constant"])


def make_items(kind: Kind) -> list[tuple[str, np.ndarray, np.ndarray | None]]:
    rng = np.random.default_rng(kind.seed)
    items = []
    for k, length in enumerate(kind.lengths):
        values = 50 + rng.standard_normal((sum(kind.columns), length)).cumsum(1)
        if kind.candles:
            values = make_candles(rng, kind, length)
        for row in word_rows(kind):
            values[row] = rng.integers(0, 4, length)
        values[rng.random(values.shape) < kind.missing] = np.nan
        times = {
            "regular": (k + np.arange(length)) * HOUR,
            "stamps": np.cumsum(rng.integers(1, 3 * HOUR, length)),
            "steps": None,
        }[kind.time]
        items.append((f"item {k}", values.astype(np.float32), times))
    return items


def make_candles(rng: np.random.Generator, kind: Kind, length: int) -> np.ndarray:
    """(V, T) bars in the order of the kind's names."""
    close = 50 + rng.standard_normal(length).cumsum()
    opened, volume = close + rng.normal(0, 0.1, length), rng.uniform(1e3, 1e4, length)
    bars = [opened, np.maximum(opened, close) + 0.1, np.minimum(opened, close) - 0.1, close, volume, volume * close]
    return np.array([bars[CANDLE.index(name)] for name in candle_columns(kind)])


def word_rows(kind: Kind) -> list[int]:
    first = np.cumsum([0, *kind.columns])
    return [*range(first[2], first[3]), *range(first[4], first[5])]


def make_corpus(kind: Kind, items: list, folder: Path) -> tuple[Corpus, Selection]:
    names = kind.names
    columns = [
        Column(name=n, kind="categorical", categories=("a", "b", "c", "d")) if "word" in label else Column(name=n)
        for label, group in names.items()
        for n in group
    ]
    freq = "h" if kind.time == "regular" else None
    if kind.mapped:
        path = folder / f"corpus{len(list(folder.iterdir()))}"
        with CorpusWriter(path, columns, time=kind.time, freq=freq, batch_bytes=400) as writer:
            for item_id, values, times in items:
                writer.append(item_id, values, times=times)
        corpus = Corpus.open(path)
    else:
        corpus = Corpus.from_arrays("memory", items, columns, time=kind.time, freq=freq)
    chosen = select(corpus, names["target"], names["past"] + names["past_word"], names["known"] + names["known_word"])
    return corpus, chosen


def poisoned(kind: Kind, items: list, cutoffs: dict[int, int], how: str) -> list:
    """The items with every target and past covariate from the cutoff of the named series on replaced."""
    rng = np.random.default_rng(kind.seed + 1)
    result = []
    for k, (item_id, values, times) in enumerate(items):
        values = values.copy()
        if k in cutoffs:
            for row in range(kind.unknown):
                count = values.shape[1] - cutoffs[k]
                values[row, cutoffs[k] :] = poison(rng, how, count, words=row in word_rows(kind))
        result.append((item_id, values, times))
    return result


def poison(rng: np.random.Generator, how: str, count: int, words: bool = False) -> np.ndarray:
    if how == "nan":
        return np.full(count, np.nan)
    if words:
        return rng.integers(0, 4, count).astype(float)
    return {"random": rng.normal(-1000, 500, count), "huge": np.full(count, 3e37), "constant": np.zeros(count)}[how]


# What must not change


def same(before: np.ndarray | None, after: np.ndarray | None, what: str) -> None:
    """The same bits, NaN included."""
    assert (before is None) == (after is None), what
    if before is not None and after is not None:
        assert before.dtype == after.dtype and np.array_equal(before, after, equal_nan=before.dtype.kind == "f"), what


def same_batch(model: Trainable, before: Windows, after: Windows) -> None:
    """Everything that collate returns but the labels, the statistics and tokens made of it, and the forecasts."""
    batches = [model.collate(windows) for windows in (before, after)]
    assert batches[0].keys() - LABELS == batches[1].keys() - LABELS
    for name in batches[0].keys() - LABELS:
        same(batches[0][name].numpy(), batches[1][name].numpy(), name)
    with torch.no_grad():
        made = [inputs_of(model, batch) for batch in batches]
        if isinstance(model, Forecaster):
            request = ForecastRequest(prediction_length=HORIZON, quantile_levels=LEVELS, **few(model))
            forecasts = [model.forecast(batch, request).quantiles.numpy() for batch in batches]
            same(*forecasts, "forecast")
    assert made[0].keys() == made[1].keys()
    for name in made[0]:
        same(made[0][name], made[1][name], name)


def inputs_of(model: Trainable, batch: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Statistics, masks and tokens of a batch, where the family names them."""
    found = {f"tokens {k}": ids.numpy() for k, ids in enumerate(tokens_up_to_cutoff(model, batch))}
    inputs = getattr(model, "inputs", None)
    if inputs is None:
        return found
    return {name: value.numpy() for name, value in vars(inputs(batch, 2)).items() if isinstance(value, torch.Tensor)}


def same_window(before: Window, after: Window) -> None:
    same(before.context, after.context, "context")
    same(before.context_times, after.context_times, "context_times")
    same(before.future_times, after.future_times, "future_times")
    known = before.roles == KNOWN
    assert before.future is not None and after.future is not None
    same(before.future[known], after.future[known], "known covariates")
    assert before.key == after.key


# Windows for evaluation and forecasting


def windows_twice(kind: Kind, cutoffs: dict[int, int], how: str, truth: bool) -> list[list[Window]]:
    """The window of each series at its cutoff, from the data as they are and from those with another future."""
    items = make_items(kind)
    sizes = {"context_length": CONTEXT, "prediction_length": HORIZON, "with_future": truth}
    with tempfile.TemporaryDirectory() as folder:
        corpora = [make_corpus(kind, version, Path(folder)) for version in (items, poisoned(kind, items, cutoffs, how))]
        return [[cut(*made, k, cutoff, **sizes) for k, cutoff in cutoffs.items()] for made in corpora]


@quick
@given(kind=kinds, how=poisons, share=st.floats(0, 1), truth=st.booleans())
def test_a_window_and_its_batch_know_nothing_of_what_comes(model, kind, how, share, truth):
    kind = suited(kind, model)
    cutoffs = {k: 1 + int(share * (length - 1)) for k, length in enumerate(kind.lengths)}
    pair = windows_twice(kind, cutoffs, how, truth)
    for before, after in zip(*pair, strict=True):
        same_window(before, after)
        if not truth:
            same(before.future, after.future, "future")
    same_batch(model, *(stack_windows(windows, HORIZON) for windows in pair))


@quick
@given(kind=kinds, how=poisons, share=st.floats(0, 1))
def test_forecasts_of_many_windows_know_nothing_of_what_comes(forecaster, kind, how, share):
    kind = suited(kind, forecaster)
    cutoffs = {k: 1 + int(share * (length - 1)) for k, length in enumerate(kind.lengths)}
    pair = windows_twice(kind, cutoffs, how, truth=True)
    results = [forecast_windows(forecaster, windows, HORIZON, LEVELS, **few(forecaster)) for windows in pair]
    for before, after in zip(*results, strict=True):
        same(before, after, "forecast_windows")


@quick
@given(kind=kinds, share=st.floats(0, 1))
def test_a_series_that_ends_at_the_cutoff_gives_the_same_window(kind, share):
    """Not the values alone: how much comes after the cutoff, and that anything does, is not seen either."""
    kind = replace(kind, columns=(*kind.columns[:3], 0, 0), lengths=kind.lengths[:1], mapped=False)
    items = make_items(kind)
    cutoff = 2 + int(share * (kind.lengths[0] - 2))  # a single stamp has no spacing to go on with
    name, values, times = items[0]
    shorter = [(name, values[:, :cutoff], None if times is None else times[:cutoff])]
    whole, short = (
        cut(*make_corpus(kind, version, Path()), 0, cutoff, prediction_length=HORIZON, with_future=False)
        for version in (items, shorter)
    )
    same(whole.context, short.context, "context")
    same(whole.context_times, short.context_times, "context_times")
    same(whole.future, short.future, "future")
    assert whole.key == short.key


# Windows for training


@quick
@given(kind=kinds, how=poisons, number=st.integers(0, 500), epoch=st.booleans())
def test_a_training_window_knows_nothing_of_what_comes_but_its_labels(model, kind, how, number, epoch):
    kind = replace(suited(kind, model), lengths=tuple(length + 30 for length in kind.lengths))
    items = make_items(kind)
    names = kind.names
    config = DataConfig(
        corpora=(CorpusSpec(path="unused"),),
        target=tuple(names["target"]),
        past_covariates=(*names["past"], *names["past_word"]),
        known_covariates=(*names["known"], *names["known_word"]),
        context_length=CONTEXT,
        prediction_length=HORIZON,
        min_context=3,
        sampling="epoch" if epoch else "random",
        with_times=kind.time != "steps",
    )

    def window(version: list, folder: str) -> Windows:
        return TrainingSource(config, 7, [make_corpus(kind, version, Path(folder))[0]]).windows(number, 1)

    with tempfile.TemporaryDirectory() as folder:
        before = window(items, folder)
        assert before.source is not None
        _, series, cutoff = before.source[0].tolist()
        after = window(poisoned(kind, items, {series: cutoff}, how), folder)
        same(before.source, after.source, "place")
        same(before.context, after.context, "context")
        same(before.future[before.role == KNOWN], after.future[after.role == KNOWN], "known covariates")
        same(before.context_times, after.context_times, "context_times")
        assert np.isnan(after.future[before.role == 1]).all()  # past-only covariates have no future at all
        # the key of a training window names the corpus, whose content differs; it seeds draws and says nothing
        same_batch(model, before, replace(after, key=before.key))


# Frames and arrays, which have no future but that of the covariates known ahead


@quick
@given(
    seed=st.integers(0, 10_000),
    lengths=st.lists(st.integers(3, 50), min_size=1, max_size=3),
    targets=st.integers(1, 2),
    ahead=st.sets(st.sampled_from(["number", "word", "flag"]), min_size=1),
    how=st.sampled_from(["random", "nan", "huge"]),
)
def test_covariates_known_ahead_change_no_encoding_and_no_statistic_of_the_past(
    general_model, seed, lengths, targets, ahead, how
):
    frame, future = make_frame(seed, lengths)
    future = future[["item_id", "timestamp", *sorted(ahead)]]
    changed, rng = future.copy(), np.random.default_rng(seed)
    for name in sorted(ahead):
        if name == "number":
            changed[name] = poison(rng, how, len(future))
        elif name == "flag":
            changed[name] = ~future[name]
        else:
            changed[name] = None if how == "nan" else rng.choice(["new", "a", "zz"], len(future))
            changed.loc[0, name] = frame[name].iloc[0]  # a column without any known value is refused
    target = ["target", "second"][:targets]
    columns = [c for c in frame.columns if c not in {"target", "second"} - set(target)]
    names = Names(target=tuple(target))
    before, after = (
        read_frame(frame[columns], HORIZON, names=names, future_df=given).windows for given in (future, changed)
    )
    for one, other in zip(before, after, strict=True):
        same(one.context, other.context, "context")
    made = [
        inputs_of(general_model, general_model.collate(stack_windows(windows, HORIZON))) for windows in (before, after)
    ]
    for name in ("loc", "scale", "values", "observed"):
        same(made[0].get(name), made[1].get(name), name)


def make_frame(seed: int, lengths: list[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A frame of items with every type of covariate, and the covariates of the steps that follow."""
    rng = np.random.default_rng(seed)
    parts: dict[bool, list[pd.DataFrame]] = {False: [], True: []}
    for k, length in enumerate(lengths):
        steps = length + HORIZON
        part = pd.DataFrame(
            {
                "item_id": f"item {k}",
                "timestamp": pd.date_range("2024-03-28", periods=steps, freq="h"),
                "target": 50 + rng.standard_normal(steps).cumsum(),
                "second": rng.standard_normal(steps),
                "number": rng.standard_normal(steps),
                "word": rng.choice(["a", "b", "c"], steps),
                "flag": rng.random(steps) < 0.5,
            }
        )
        parts[False].append(part.iloc[:length])
        parts[True].append(part.iloc[length:].drop(columns=["target", "second"]))
    return pd.concat(parts[False], ignore_index=True), pd.concat(parts[True], ignore_index=True)


@quick
@given(kind=kinds, how=poisons, share=st.floats(0.2, 1))
def test_a_backtest_forecasts_what_a_user_would_have_forecast_at_the_cutoff(forecaster, kind, how, share):
    """The user's frame ends at the cutoff, so it cannot leak; a corpus that goes on must give the same numbers."""
    kind = replace(kind, columns=(1, *kind.columns[1:]), time="regular", mapped=False, lengths=kind.lengths[:1])
    kind = suited(kind, forecaster)
    cutoff = 3 + int(share * kind.lengths[0])
    kind = replace(kind, lengths=(cutoff + HORIZON + 5,))
    items = poisoned(kind, make_items(kind), {0: cutoff}, how)
    corpus, chosen = make_corpus(kind, items, Path())
    window = cut(corpus, chosen, 0, cutoff, context_length=CONTEXT, prediction_length=HORIZON, with_future=False)
    table = pd.DataFrame({"item_id": "item 0", "timestamp": items[0][2].astype("M8[us]")})
    for column, values in zip(corpus.manifest.columns, items[0][1], strict=True):
        words = column.categories
        table[column.name] = [None if np.isnan(v) else words[int(v)] for v in values] if words else values
    known = [*kind.names["known"], *kind.names["known_word"]]
    future = table.iloc[cutoff : cutoff + HORIZON][["item_id", "timestamp", *known]]
    for name in kind.names["known_word"]:  # a column of words that are all new is refused
        seen, coming = ({*part[name].dropna()} for part in (table.iloc[:cutoff], future))
        assume(not seen or not coming or seen & coming)
    result = Predictor(forecaster).forecast_df(
        table.iloc[:cutoff],
        HORIZON,
        LEVELS,
        future if known else None,
        CONTEXT,
        target=kind.names["target"],
        freq="h",
        trailing_rows="history",  # where the newest targets are missing
        **few(forecaster),
        **RAW.model_dump(),
    )
    ours = forecast_windows(forecaster, [window], HORIZON, LEVELS, **few(forecaster))[0]
    np.testing.assert_array_equal(result[[str(level) for level in LEVELS]].to_numpy(), ours.reshape(-1, len(LEVELS)))


@quick
@given(seed=st.integers(0, 10_000), lengths=st.lists(st.integers(1, 40), min_size=1, max_size=3), words=st.booleans())
def test_arrays_known_ahead_change_no_encoding_of_the_past(seed, lengths, words):
    rng = np.random.default_rng(seed)
    pair: list[list[dict]] = [[], []]
    for length in lengths:
        target, numbers = rng.standard_normal(length), rng.standard_normal(length)
        past = {"x": rng.choice(["a", "b"], length) if words else numbers}
        for version, items in enumerate(pair):
            coming = rng.choice(["a", "z"], HORIZON) if words else rng.standard_normal(HORIZON) * 10.0**version
            coming[0] = past["x"][0]  # a column without any known value is refused
            items.append({"target": target, "past_covariates": past, "future_covariates": {"x": coming}})
    for before, after in zip(*(read_inputs(items, HORIZON) for items in pair), strict=True):
        same(before.context, after.context, "context")


# Rolling windows, baselines and seasonal errors


@settings(quick, max_examples=8)
@given(kind=kinds, how=poisons, share=st.floats(0, 1), season=st.integers(1, 7))
def test_scores_up_to_a_cutoff_rest_on_nothing_after_it(forecaster, kind, how, share, season):
    """The cutoff of one rolling origin: that origin and the older ones must not change, whatever the newer ones see."""
    kind = replace(kind, lengths=tuple(length + 12 for length in kind.lengths), missing=min(kind.missing, 0.3))
    kind = suited(kind, forecaster)
    stride = 6 if ZOO[forecaster.family].samples else 2  # drawing paths takes its time
    items = make_items(kind)
    origins = [
        Origin(k, cutoff)
        for k, length in enumerate(kind.lengths)
        for cutoff in range(2 + length % 2, length - HORIZON + 1, stride)
    ]
    chosen = origins[int(share * (len(origins) - 1))]
    same_rows(forecaster, kind, items, origins, chosen, how, season)


def same_rows(
    model: Forecaster, kind: Kind, items: list, origins: list[Origin], chosen: Origin, how: str, season: int
) -> int:
    """Compare the rows of all windows up to the chosen one; returns how many there were."""
    changed = poisoned(kind, items, {chosen.series: chosen.cutoff}, how)
    with tempfile.TemporaryDirectory() as folder:
        before, after = (
            panel_rows(*make_corpus(kind, version, Path(folder)), origins, model, season)
            for version in (items, changed)
        )
    places = [p for p in before.keys() & after.keys() if p[0] != chosen.series or p[1] <= chosen.cutoff]
    for place in places:
        for name in before[place]:
            same(before[place][name], after[place][name], f"{name} at {place}")
    return len(places)


def panel_rows(
    corpus: Corpus, chosen: Selection, origins: list[Origin], model: Forecaster, season: int
) -> dict[tuple[int, int, int], dict[str, np.ndarray]]:
    """What an evaluation holds of its rows besides the truth, by (series, cutoff, target).

    One window a batch, so that rounding is the same too: what shares a batch may change in shape of its masks.
    """
    panel = make_panel(
        [corpus], [chosen], [origins], prediction_length=HORIZON, context_length=CONTEXT, stride=2, seasonality=season
    )
    try:
        backtest = Backtest(panel, levels=LEVELS, batch_size=1)
    except DataError:
        return {}  # nothing observed that could be scored
    facts = {f"baseline {name}": scored.quantiles for name, scored in backtest.scored_baselines.items()}
    facts |= {"model": backtest.forecast(model, backtest.request(**few(model))).quantiles, "last": backtest.naive.last}
    facts["seasonal error"] = backtest.naive.seasonal_error
    places = [backtest.row_ref(row) for row in range(len(backtest.naive))]
    return {
        (place.series, place.cutoff, target): {name: values[row] for name, values in facts.items()}
        for row, (place, target) in enumerate(places)
    }


# The checks above notice a leak

LEAKY = Kind(seed=5, lengths=(40, 33), columns=(1, 0, 1, 0, 0), missing=0.0, time="regular", mapped=False)


def test_a_model_that_normalises_over_context_and_future_is_caught(model, zoo):
    class Leaky(type(model)):  # type: ignore[misc]
        def collate(self, windows: Windows) -> dict[str, torch.Tensor]:
            whole = np.concatenate([windows.context, windows.future], axis=1)
            level = np.nan_to_num(np.nanmean(whole, axis=1, keepdims=True))
            return super().collate(replace(windows, context=windows.context - level, future=windows.future - level))

    leaky = zoo.built(model.family).eval()
    leaky.__class__ = Leaky
    pair = windows_twice(suited(LEAKY, model), {0: 30, 1: 20}, "random", truth=True)
    same_batch(model, *(stack_windows(windows, HORIZON) for windows in pair))
    with pytest.raises(AssertionError, match=r"context|loc|scale"):
        same_batch(leaky, *(stack_windows(windows, HORIZON) for windows in pair))


def test_an_encoding_learnt_from_the_whole_series_is_caught(monkeypatch):
    items = make_items(LEAKY)
    versions = [items, poisoned(LEAKY, items, {0: 30}, "random")]

    def windows() -> list[Window]:
        found = []
        for version in versions:
            target, words = version[0][1]
            means = np.array([target[words == k].mean() for k in range(4)])
            monkeypatch.setattr("foretrain.data.splits.encode_codes", lambda codes, *_, m=means: leaky(codes, m))
            corpus, chosen = make_corpus(LEAKY, version, Path())
            found.append(cut(corpus, chosen, 0, 30, prediction_length=HORIZON, with_future=False))
        return found

    def leaky(codes: np.ndarray, means: np.ndarray) -> np.ndarray:
        return means[np.nan_to_num(codes).astype(np.int64)].astype(np.float32)

    with pytest.raises(AssertionError, match="context"):
        same_window(*windows())


def test_a_scale_from_the_whole_series_is_caught(forecaster, monkeypatch):
    def leaky(values, cutoffs, seasonality):
        return seasonal_errors(values, [values.shape[1]] * len(cutoffs), seasonality)

    origins = [Origin(0, cutoff) for cutoff in range(12, 34, 2)]
    kind = suited(replace(LEAKY, columns=(1, 0, 0, 0, 0)), forecaster)
    items = make_items(kind)
    assert same_rows(forecaster, kind, items, origins, origins[4], "random", 1) == 5 * len(kind.names["target"])
    monkeypatch.setattr("foretrain.evaluation.backtest.seasonal_errors", leaky)
    with pytest.raises(AssertionError, match="seasonal error"):
        same_rows(forecaster, kind, items, origins, origins[4], "random", 1)


def test_a_window_holds_no_view_of_the_series_it_was_cut_from():
    """So that nothing that is handed a window can reach what comes after it."""
    kind = replace(LEAKY, mapped=True)
    with tempfile.TemporaryDirectory() as folder:
        corpus, chosen = make_corpus(kind, make_items(kind), Path(folder))
        window = cut(corpus, chosen, 0, 30, prediction_length=HORIZON, with_future=False)
        assert not np.shares_memory(window.context, corpus.values(0))
