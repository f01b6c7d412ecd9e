from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.data.splits import Origin, Origins, Selection, cut, held_out, rolling_origins, select, window_key
from foretrain.data.store import Column, Corpus, CorpusWriter
from foretrain.errors import ConfigError, DataError

HOUR = 3_600_000_000
COLUMNS = [
    *(Column(name=name) for name in ("close", "volume", "temperature")),
    Column(name="weekday", kind="categorical", categories=("mon", "tue")),
]


def ones(*lengths: int) -> Corpus:
    return Corpus.from_arrays("m", [(f"{k}", np.ones((1, n)), None) for k, n in enumerate(lengths)], ["x"])


def mixed_corpus(changed_from: int | None = None, time: str = "regular") -> Corpus:
    """Three items of 30 steps with all kinds of columns; from changed_from on, everything is another value."""
    items = []
    for k in range(3):
        rng = np.random.default_rng(k)
        values = np.stack([*rng.normal(size=(3, 30)), rng.integers(0, 2, 30).astype(float)])
        values[:, rng.random(30) < 0.2] = np.nan
        if changed_from is not None:
            values[:3, changed_from:] = 1e9
            values[3, changed_from:] = 1
        items.append((f"item {k}", values, np.arange(30) * HOUR if time != "steps" else None))
    return Corpus.from_arrays("mixed", items, COLUMNS, time=time, freq="h" if time == "regular" else None)


# -- columns ---------------------------------------------------------------------------------------------------------


def test_columns_are_chosen_by_name_and_the_rest_of_the_numbers_are_targets():
    corpus = mixed_corpus()
    assert select(corpus) == Selection((0, 1, 2))
    assert select(corpus, None, ["volume"], ["weekday"]) == Selection((0, 2), (1,), (3,))
    assert select(corpus, ["temperature", "close"]).columns == (2, 0)
    assert select(corpus, ["close"], [], ["weekday"]).categorical(corpus) == [(1, 2)]


@pytest.mark.parametrize(
    ("target", "past", "known", "message"),
    [
        (["clsoe"], [], [], r"data.target: mixed has no column 'clsoe' \(has close.*Did you mean 'close'"),
        (None, ["vol"], [], "data.past_covariates: mixed has no column 'vol'.*'volume'"),
        (None, [], ["xyz"], r"data.known_covariates: mixed has no column 'xyz' \(has [a-z, ]*\)\.$"),
        (["close"], ["close"], [], "column 'close' has two roles"),
        (["weekday"], [], [], "column 'weekday' is categorical"),
        (None, ["close", "volume", "temperature"], [], "no column of mixed is left"),
    ],
)
def test_wrong_columns_are_named(target, past, known, message):
    with pytest.raises(ConfigError, match=message):
        select(mixed_corpus(), target, past, known)


# -- cut -------------------------------------------------------------------------------------------------------------

EVERY_ROLE = {"context_length": 10, "prediction_length": 4}
ROLES = Selection((0,), (1,), (2, 3))


def test_a_cut_shows_the_past_the_known_and_on_request_the_truth():
    corpus = mixed_corpus()
    window = cut(corpus, ROLES, 1, 20, **EVERY_ROLE, with_future=True)
    values = corpus.values(1)
    assert np.array_equal(window.context[:3], values[:3, 10:20], equal_nan=True)
    assert np.array_equal(window.future[0], values[0, 20:24], equal_nan=True)
    assert np.isnan(window.future[1]).all()
    assert np.array_equal(window.future[2], values[2, 20:24], equal_nan=True)
    assert np.isfinite(window.future[3]).any()
    assert (window.num_targets, window.num_past, window.item_id) == (1, 1, "item 1")
    assert window.context_times.tolist() == [k * HOUR for k in range(10, 20)]
    assert window.future_times.tolist() == [k * HOUR for k in range(20, 24)]
    blind = cut(corpus, ROLES, 1, 20, **EVERY_ROLE, with_future=False)
    assert np.isnan(blind.future[0]).all()
    assert np.array_equal(blind.future[2:], window.future[2:], equal_nan=True)
    assert blind.key == window.key


def test_an_early_cut_has_a_short_context_and_no_limit_keeps_all():
    corpus = mixed_corpus()
    assert cut(corpus, ROLES, 0, 3, **EVERY_ROLE).context.shape == (4, 3)
    assert cut(corpus, ROLES, 0, 25, prediction_length=2).context.shape == (4, 25)


@pytest.mark.parametrize("time", ["regular", "stamps"])
def test_a_cut_near_the_end_continues_the_clock_and_leaves_the_unknown_empty(time):
    corpus = mixed_corpus(time=time)
    window = cut(corpus, ROLES, 0, 28, **EVERY_ROLE)
    assert np.array_equal(window.future[2, :2], corpus.values(0)[2, 28:], equal_nan=True)
    assert np.isnan(window.future[:, 2:]).all()
    assert window.future_times.tolist() == [k * HOUR for k in range(28, 32)]
    assert np.isnan(cut(corpus, ROLES, 0, 30, **EVERY_ROLE).future).all()


def test_a_corpus_without_a_calendar_gives_no_times():
    window = cut(mixed_corpus(time="steps"), ROLES, 0, 20, **EVERY_ROLE)
    assert window.context_times is None
    assert window.future_times is None


@pytest.mark.parametrize("cutoff", [0, -1, 31])
def test_a_cutoff_outside_the_series_is_an_error(cutoff):
    with pytest.raises(DataError, match=f"item 'item 0': cutoff {cutoff} is outside its 30 rows"):
        cut(mixed_corpus(), ROLES, 0, cutoff, **EVERY_ROLE)


@pytest.mark.parametrize("time", ["regular", "stamps", "steps"])
@pytest.mark.parametrize("targets", [(0,), (0, 1)], ids=["one target", "two targets"])
def test_values_from_the_cutoff_on_change_nothing_but_labels_and_known_covariates(time, targets):
    selection = Selection(targets, () if 1 in targets else (1,), (2, 3))
    for cutoff in range(1, 31):
        plain, changed = (
            cut(mixed_corpus(part, time), selection, 2, cutoff, context_length=10, prediction_length=4)
            for part in (None, cutoff)
        )
        assert np.array_equal(plain.context, changed.context, equal_nan=True)
        assert plain.key == changed.key
        if time != "steps":
            assert np.array_equal(plain.context_times, changed.context_times)
            assert np.array_equal(plain.future_times, changed.future_times)
        unknown = [row for row in range(4) if row < len(targets) + len(selection.past)]
        blind = cut(mixed_corpus(cutoff, time), selection, 2, cutoff, prediction_length=4, with_future=False)
        assert np.isnan(blind.future[unknown]).all()


def test_keys_differ_by_item_and_cutoff():
    keys = {window_key(item_id, cutoff) for item_id in ("a", "b", "a1", "") for cutoff in (1, 11, 2, 100)}
    assert len(keys) == 16
    assert all(0 <= key < 2**64 for key in keys)


def test_categories_are_learnt_from_the_whole_history_before_the_cutoff():
    y = np.array([10.0, 2, 4, 6, 8, 0])
    c = np.array([0.0, 1, 1, 0, 0, 1])
    corpus = Corpus.from_arrays("m", [("a", np.stack([y, c]), None)], [COLUMNS[0], COLUMNS[3]])
    window = cut(corpus, Selection((0,), (), (1,)), 0, 4, context_length=2, prediction_length=2)
    mean = (10 + 2 + 4 + 6) / 4
    monday, tuesday = (mean + 10 + 6) / 3, (mean + 2 + 4) / 3
    assert np.allclose(window.context[1], [tuesday, monday])
    assert np.allclose(window.future[1], [monday, tuesday])


# -- rolling origins -------------------------------------------------------------------------------------------------

sizes = st.lists(st.integers(1, 60), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(
    lengths=sizes,
    split=st.sampled_from(["validation", "test", "all"]),
    horizon=st.integers(1, 6),
    num_windows=st.integers(1, 5),
    stride=st.none() | st.integers(1, 8),
    validation=st.none() | st.integers(0, 20),
    test=st.none() | st.integers(0, 20),
    min_context=st.none() | st.integers(1, 10),
)
def test_origins_are_those_found_by_trying_every_cutoff(
    lengths, split, horizon, num_windows, stride, validation, test, min_context
):
    v = horizon if validation is None else validation
    t = horizon if test is None else test
    step = stride or horizon
    expected = []
    for series, length in enumerate(lengths):
        ends = {"test": length, "all": length, "validation": length - t}[split]
        region = {"test": length - t, "all": 0, "validation": length - t - v}[split]
        tried = (ends - horizon - k * step for k in range(num_windows))
        fits = [c for c in tried if c >= max(region, min_context or 1)]
        expected += [(series, c) for c in sorted(fits)]
    options = dict(split=split, prediction_length=horizon, num_windows=num_windows, stride=stride)
    options |= dict(validation_steps=validation, test_steps=test, min_context=min_context)
    if not expected:
        with pytest.raises((DataError, ConfigError)):
            rolling_origins(ones(*lengths), **options)
        return
    found = rolling_origins(ones(*lengths), **options)
    assert list(found) == expected == [found[k] for k in range(len(found))]
    assert isinstance(found[0], Origin)
    assert list(Origins.of(expected)[1:]) == expected[1:]


def test_a_split_without_room_is_an_error_that_names_the_setting():
    with pytest.raises(ConfigError, match=r"data.validation_steps: 0 steps hold no window of prediction_length 4"):
        rolling_origins(ones(50), split="validation", prediction_length=4, validation_steps=0)
    with pytest.raises(ConfigError, match=r"data.test_steps: 3 steps .* at least 4"):
        rolling_origins(ones(50), prediction_length=4, test_steps=3)


def test_too_short_series_are_named_by_the_longest():
    parts = r"needed are 9 \(1 before the cutoff, 4 after it, 4 of the test part\)"
    with pytest.raises(DataError, match=rf"no validation window in 2 series .* longest has 7 rows; {parts}"):
        rolling_origins(ones(7, 3), split="validation", prediction_length=4)


def test_items_are_held_out_by_a_hash_of_their_ids(tmp_path):
    with CorpusWriter(tmp_path / "c", ["x"], time="steps", batch_bytes=64) as writer:
        for k in range(50):
            writer.append(f"id é {k}", np.ones((1, 4)))
    corpus = Corpus.open(tmp_path / "c")
    assert len(corpus.chunks) > 5
    for fraction in (0.0, 0.3, 0.999):
        hashes = [hashlib.blake2b(i.encode(), digest_size=8, person=b"holdout").digest() for i in corpus.item_ids()]
        expected = [int.from_bytes(hashed, "little") < fraction * 2**64 for hashed in hashes]
        assert held_out(corpus, fraction).tolist() == expected


def test_items_can_be_the_held_out_or_the_trained_ones():
    corpus = Corpus.from_arrays("m", [(f"id{k}", np.ones((1, 20)), None) for k in range(300)], ["x"])
    options = {"prediction_length": 2, "holdout_fraction": 0.2}
    out = {o.series for o in rolling_origins(corpus, items="held_out", **options)}
    trained = {o.series for o in rolling_origins(corpus, items="trained", **options)}
    assert out == set(np.flatnonzero(held_out(corpus, 0.2)).tolist())
    assert 30 < len(out) < 90
    assert out.isdisjoint(trained)
    assert len(out | trained) == len(rolling_origins(corpus, **options)) == 300
    with pytest.raises(DataError, match="items: held_out"):
        rolling_origins(corpus, items="held_out", prediction_length=2)


def test_a_larger_held_out_share_contains_the_smaller():
    corpus = Corpus.from_arrays("m", [(f"id{k}", np.ones((1, 5)), None) for k in range(500)], ["x"])
    small, large = held_out(corpus, 0.1), held_out(corpus, 0.3)
    assert (large | ~small).all()
    assert small.sum() < large.sum()
