from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.config import build
from foretrain.data.config import DataConfig
from foretrain.data.source import TrainingSource
from foretrain.data.store import Column, Corpus
from foretrain.data.windows import KNOWN, NO_TIME, PAST, TARGET, Windows
from foretrain.errors import ConfigError, DataError

SMALL = {"batch_bytes": 1_500, "shard_bytes": 6_000}


def config(count: int = 1, **options) -> DataConfig:
    weights = options.pop("weights", (1.0,) * count)
    tree = {"corpora": [{"path": "unused", "weight": w} for w in weights], "context_length": 8, "prediction_length": 3}
    return build(DataConfig, {**tree, **options})


def source(*corpora: Corpus, seed: int = 0, **options) -> TrainingSource:
    return TrainingSource(config(len(corpora), **options), seed, list(corpora))


def expected(made: TrainingSource, windows: Windows) -> Windows:
    """The same windows cut one by one, from the plain definition."""
    c, h = made.config.context_length, made.config.prediction_length
    rows, futures, roles, owner = [], [], [], []
    for b, (k, series, cutoff) in enumerate(windows.source.tolist()):
        selection, values = made.selections[k], made.corpora[k].values(series)
        for column in selection.columns:
            known = values[column, :cutoff][-c:]
            rows.append(np.concatenate([np.full(c - len(known), np.nan, np.float32), known]))
            future = values[column, cutoff : cutoff + h].copy()
            assert len(future) == h
            role = TARGET if column in selection.targets else PAST if column in selection.past else KNOWN
            if role == PAST:
                future[:] = np.nan
            futures.append(future)
            roles.append(role)
            owner.append(b)
    return Windows(np.stack(rows), np.stack(futures), np.array(owner), np.array(roles, np.int8), windows.key)


def agree(made: TrainingSource, windows: Windows) -> None:
    plain = expected(made, windows)
    for name in ("context", "future", "window", "role"):
        assert np.array_equal(getattr(windows, name), getattr(plain, name), equal_nan=name in ("context", "future")), (
            name
        )
    assert windows.context.dtype == windows.future.dtype == np.float32


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    variates=st.integers(1, 4),
    low=st.integers(8, 12),  # min_context + the longest horizon + the most reserved steps
    spread=st.integers(0, 60),
    context=st.integers(2, 40),
    horizon=st.integers(1, 5),
    mode=st.sampled_from(["random", "epoch"]),
    mapped=st.booleans(),
    reserved=st.integers(0, 2),
)
def test_a_batch_equals_windows_cut_one_by_one(
    tmp_path_factory, random_items, write_corpus, seed, variates, low, spread, context, horizon, mode, mapped, reserved
):
    items = random_items(seed, 30, variates, low, low + spread)
    names = [f"v{k}" for k in range(variates)]
    if mapped:
        corpus = write_corpus(tmp_path_factory.mktemp("corpora") / "c", items, names, **SMALL)
    else:
        corpus = Corpus.from_arrays("m", items, names)
    made = source(
        corpus,
        context_length=context,
        prediction_length=horizon,
        min_context=1,
        sampling=mode,
        validation_steps=reserved,
        test_steps=0,
        past_covariates=names[1:2],
        known_covariates=names[2:3],
        seed=seed,
    )
    agree(made, made.windows(0, 40))


def test_corpora_with_different_variates_share_a_batch(tmp_path, random_items, write_corpus):
    one = write_corpus(tmp_path / "one", random_items(0, 9, 1, 8, 40), ["a"], **SMALL)
    three = Corpus.from_arrays("three", random_items(1, 5, 3, 8, 40), ["a", "b", "c"])
    made = source(one, three, weights=(1.0, 2.0), validation_steps=0, test_steps=0)
    windows = made.windows(0, 300)
    agree(made, windows)
    assert abs((windows.source[:, 0] == 1).mean() - 2 / 3) < 0.1
    assert np.array_equal(np.bincount(windows.window), np.where(windows.source[:, 0] == 1, 3, 1))


@pytest.mark.parametrize("chosen", [{"max_train_series": 30}, {"min_rows": 30}, {"holdout_fraction": 0.5}], ids=str)
def test_windows_of_some_series_of_many_record_batches_are_theirs(tmp_path, random_items, write_corpus, chosen):
    one = write_corpus(tmp_path / "one", random_items(0, 60, 1, 12, 40), ["a"], **SMALL)
    two = write_corpus(tmp_path / "two", random_items(1, 60, 1, 12, 40), ["a"], **SMALL)
    assert min(len(one.chunks), len(two.chunks)) >= 5
    made = source(one, Corpus.from_arrays("in memory", random_items(2, 9, 1, 30, 40), ["a"]), two, **chosen)
    windows = made.windows(0, 500)
    assert {0, 1, 2} == set(windows.source[:, 0].tolist())
    agree(made, windows)


@pytest.mark.parametrize("number", [pa.float32(), pa.float64()], ids=str)
@pytest.mark.parametrize("nulls", [False, True])
def test_foreign_folders_give_the_same_windows(tmp_path, random_items, number, nulls):
    items = random_items(5, 12, 3, 9, 30, missing=0.0)
    rows = [[[None if nulls and k == 3 else float(v) for k, v in enumerate(row)] for row in x] for _, x, _ in items]
    kind = pa.list_(pa.list_(number))
    table = pa.table(
        {
            "target": pa.array([row[:2] for row in rows]).cast(kind),
            "past_feat_dynamic_real": pa.array([row[2:] for row in rows]).cast(kind),
        }
    )
    with pa.OSFile(str(tmp_path / "d.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=5):
            writer.write_batch(batch)
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "d.arrow"}]}))
    foreign = Corpus.open(tmp_path)
    own = Corpus.from_arrays(
        "m", [(str(k), np.array(row, np.float32), None) for k, row in enumerate(rows)], foreign.columns
    )
    options = {"past_covariates": ("past_feat_0",), "min_context": 1, "validation_steps": 0, "test_steps": 0}
    windows = source(foreign, **options).windows(0, 64)
    same = source(own, **options).windows(0, 64)
    assert np.array_equal(windows.context, same.context, equal_nan=True)
    assert np.array_equal(windows.future, same.future, equal_nan=True)
    assert np.array_equal(windows.source, same.source)
    assert np.isnan(windows.future[windows.role == PAST]).all()


def test_a_window_longer_than_the_whole_corpus_is_padded():
    made = source(
        Corpus.from_arrays("m", [("a", np.arange(4.0), None)], ["x"]),
        context_length=100,
        min_context=1,
        prediction_length=2,
        validation_steps=0,
        test_steps=0,
    )
    windows = made.windows(0, 5)
    agree(made, windows)
    assert np.isnan(windows.context[:, :98]).all()


# -- purity ----------------------------------------------------------------------------------------------------------


def test_windows_are_a_pure_function_of_seed_and_number(tmp_path, random_items, write_corpus):
    items = random_items(0, 20, 2, 20, 80)
    mapped = write_corpus(tmp_path / "c", items, ["a", "b"], **SMALL)
    whole = source(mapped).windows(5, 90)
    again = source(Corpus.from_arrays("m", items, ["a", "b"]))
    for first, count in ((60, 35), (5, 20), (25, 35)):
        part = again.windows(first, count)
        at = slice(first - 5, first - 5 + count)
        assert np.array_equal(part.context, whole.context[2 * at.start : 2 * at.stop], equal_nan=True)
        assert np.array_equal(part.key, whole.key[at])
        assert np.array_equal(part.source, whole.source[at])
    assert not np.array_equal(source(mapped, seed=1).windows(5, 90).source, whole.source)


def test_keys_name_series_and_cutoff():
    corpus = Corpus.from_arrays("m", [(f"{k}", np.random.default_rng(k).random(12), None) for k in range(4)], ["x"])
    windows = source(corpus, validation_steps=0, test_steps=0).windows(0, 500)
    places = {tuple(place) for place in windows.source.tolist()}
    assert len({int(key) for key in windows.key}) == len(places) > 10


def test_batches_are_private_memory():
    corpus = Corpus.from_arrays("m", [("a", np.arange(40.0), None)], ["x"])
    made = source(corpus)
    first = made.windows(0, 4)
    before = first.context.copy()
    first.context[:] = -1
    assert np.array_equal(made.windows(0, 4).context, before, equal_nan=True)
    assert corpus.values(0)[0].tolist() == list(range(40))


# -- what may be trained on ------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 100),
    horizon=st.integers(1, 6),
    validation=st.none() | st.integers(0, 9),
    test=st.none() | st.integers(0, 9),
    mode=st.sampled_from(["random", "epoch"]),
)
def test_training_windows_end_before_the_reserved_steps(random_items, seed, horizon, validation, test, mode):
    corpus = Corpus.from_arrays("m", random_items(seed, 12, 1, 15, 60), ["x"])
    made = source(
        corpus, prediction_length=horizon, validation_steps=validation, test_steps=test, sampling=mode, min_context=1
    )
    windows = made.windows(0, 200)
    ends = windows.source[:, 2] + horizon
    reserved = (horizon if validation is None else validation) + (horizon if test is None else test)
    assert (ends <= corpus.lengths[windows.source[:, 1]] - reserved).all()
    assert windows.source[:, 2].min() >= 1


def test_held_out_items_are_never_trained_on(random_items):
    corpus = Corpus.from_arrays("m", random_items(0, 400, 1, 20, 20), ["x"])
    made = source(corpus, holdout_fraction=0.25)
    described = made.describe()["corpora"][0]
    assert 60 < described["held_out"] < 140
    assert described["used"] == 400 - described["held_out"] == made.num_series
    trained = set(made.windows(0, 20_000).source[:, 1].tolist())
    assert len(trained) == described["used"]
    reordered = Corpus.from_arrays("n", random_items(0, 400, 1, 20, 20)[::-1], ["x"])
    other = set(source(reordered, holdout_fraction=0.25).windows(0, 20_000).source[:, 1].tolist())
    assert {corpus.item_id(k) for k in trained} == {reordered.item_id(k) for k in other}


def test_short_series_are_excluded_and_counted():
    items = [(f"{n}", np.ones((1, n)), None) for n in (5, 11, 12, 13, 50)]
    corpus = Corpus.from_arrays("m", items, ["x"])
    made = source(corpus)  # needs min_context 3 + prediction_length 3 + 3 + 3
    assert set(made.windows(0, 200).source[:, 1].tolist()) == {2, 3, 4}
    assert made.describe()["corpora"][0]["too_short"] == 2
    assert made.left_out() == ["m: 2 of 5 series are not trained on: 2 too short (fewer than 12 rows)"]
    assert source(corpus, min_rows=20).num_series == 1


def test_a_corpus_without_one_long_series_says_what_is_needed():
    corpus = Corpus.from_arrays("m", [("a", np.ones((1, 11)), None), ("b", np.ones((1, 4)), None)], ["x"])
    with pytest.raises(DataError, match=r"m: none of its 2 series .* longest has 11 rows; needed are 12"):
        source(corpus)


def test_max_train_series_takes_a_random_share_of_every_corpus(random_items):
    big = Corpus.from_arrays("big", random_items(0, 90, 1, 20, 30), ["x"])
    small = Corpus.from_arrays("small", random_items(1, 10, 1, 20, 30), ["x"])
    made = source(big, small, max_train_series=20)
    assert [corpus["used"] for corpus in made.describe()["corpora"]] == [18, 2]
    chosen = {tuple(place) for place in made.windows(0, 3000).source[:, :2].tolist()}
    assert len(chosen) == made.num_series == 20
    assert chosen == {tuple(p) for p in source(big, small, max_train_series=20).windows(0, 3000).source[:, :2].tolist()}
    other = source(big, small, max_train_series=20, seed=1)
    assert chosen != {tuple(place) for place in other.windows(0, 3000).source[:, :2].tolist()}
    assert source(big, small, max_train_series=1000).num_series == 100


def test_epoch_length_counts_strided_windows():
    corpus = Corpus.from_arrays("m", [("a", np.ones((1, 30)), None), ("b", np.ones((1, 13)), None)], ["x"])
    assert source(corpus).epoch_length == 7 + 1  # cutoffs 21, 18, .. 3 and 4
    assert source(corpus, stride=1).epoch_length == 19 + 2
    made = source(corpus, sampling="epoch", stride=1)
    places = [tuple(place) for place in made.windows(0, 21).source[:, 1:].tolist()]
    assert sorted(places) == [(0, c) for c in range(3, 22)] + [(1, 3), (1, 4)]


# -- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", ["regular", "stamps"])
def test_times_are_filled_if_requested(random_items, time):
    freq = "h" if time == "regular" else None
    corpus = Corpus.from_arrays("m", random_items(0, 6, 1, 12, 30, times=time), ["x"], time=time, freq=freq)
    assert source(corpus).windows(0, 4).context_times is None
    windows = source(corpus, with_times=True, min_context=1, context_length=15).windows(0, 30)
    for b, (_, series, cutoff) in enumerate(windows.source.tolist()):
        own = corpus.times(series)
        known = own[max(0, cutoff - 15) : cutoff]
        assert windows.context_times[b].tolist() == [NO_TIME] * (15 - len(known)) + known.tolist()
        assert windows.future_times[b].tolist() == own[cutoff : cutoff + 3].tolist()


def test_times_of_a_corpus_without_a_calendar_are_an_error():
    with pytest.raises(ConfigError, match="with_times"):
        source(Corpus.from_arrays("m", [("a", np.ones((1, 30)), None)], ["x"]), with_times=True)


# -- nothing from the cutoff on --------------------------------------------------------------------------------------

KINDS = [
    Column(name="y"),
    Column(name="p"),
    Column(name="k"),
    Column(name="c", kind="categorical", categories=tuple("abc")),
]


def categorical_corpus(seed: int, cut_at: int | None = None) -> Corpus:
    """Six items of 40 steps; from step cut_at on, other targets, covariates and categories."""
    items = []
    for k in range(6):
        rng = np.random.default_rng([seed, k])
        values = np.stack([*rng.normal(size=(3, 40)), rng.integers(0, 3, 40).astype(float)])
        values[:, rng.random(40) < 0.1] = np.nan
        if cut_at is not None:
            values[:3, cut_at:] = 1e6
            values[3, cut_at:] = 2
        items.append((f"{k}", values.astype(np.float32), np.arange(40) * 1_000_000))
    return Corpus.from_arrays("m", items, KINDS, time="regular", freq="s")


@pytest.mark.parametrize("target", [("y",), ("y", "p")], ids=["one target", "two targets"])
def test_values_after_the_cutoff_change_no_context(target):
    past = ("p",) if len(target) == 1 else ()
    options = {"target": target, "past_covariates": past, "known_covariates": ("k", "c"), "min_context": 2}
    options |= {"validation_steps": 0, "test_steps": 0, "with_times": True}
    plain = source(categorical_corpus(0), **options).windows(0, 600)
    seen = 0
    for cutoff in range(2, 38):
        changed = source(categorical_corpus(0, cutoff), **options).windows(0, 600)
        windows = np.flatnonzero(plain.source[:, 2] <= cutoff)  # the context ends where the change begins, or before
        rows = np.isin(plain.window, windows)
        assert np.array_equal(changed.context[rows], plain.context[rows], equal_nan=True)
        assert np.array_equal(changed.context_times[windows], plain.context_times[windows])
        seen += len(windows)
    assert seen > 1000


def test_categorical_covariates_are_encoded_from_the_context():
    y = np.array([1.0, 2.0, 3.0, np.nan, 5.0, 6.0, 7.0])
    c = np.array([0, 0, 1, 1, np.nan, 2, 0.0])
    columns = [Column(name="y"), Column(name="c", kind="categorical", categories=("a", "b", "z"))]
    corpus = Corpus.from_arrays("m", [("i", np.stack([y, c]), None)], columns)
    options = {"known_covariates": ("c",), "context_length": 6, "prediction_length": 2, "min_context": 5}
    windows = source(corpus, **options, validation_steps=0, test_steps=0).windows(0, 1)
    mean = (1 + 2 + 3 + 5) / 4
    a, b, missing = (mean + 3) / 3, (mean + 3) / 2, (mean + 5) / 2
    assert np.allclose(windows.context[1], [np.nan, a, a, b, b, missing], equal_nan=True)
    assert np.allclose(windows.future[1], [mean, a])  # "z" is not in the context


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": (1.0, 2.0), "sampling": "epoch"}, "unequal corpus weights cannot take effect"),
        ({"sampling": "epoch", "series_weighting": "length"}, "series_weighting cannot take effect"),
        ({"min_context": 9}, "min_context 9 exceeds context_length 8"),
        ({"corpora": []}, "corpora"),
        ({"corpora": [{"path": "a", "synthetic": {}}]}, "either path or synthetic"),
        ({"corpora": [{}]}, "either path or synthetic"),
        ({"corpora": [{"path": "a", "weight": 0}]}, "weight"),
        ({"contextlength": 3}, "Did you mean 'context_length'"),
    ],
)
def test_settings_that_cannot_take_effect_are_errors(options, message):
    weights = options.get("weights", (1.0,))
    with pytest.raises(ConfigError, match=message):
        config(len(weights), **options)


def test_describe_names_every_corpus(tmp_path, random_items, write_corpus):
    mapped = write_corpus(tmp_path / "c", random_items(0, 20, 2, 20, 80), ["a", "b"])
    made = TrainingSource(
        build(
            DataConfig,
            {
                "corpora": [{"path": str(tmp_path / "c"), "weight": 3}, {"synthetic": {"num_series": 4}}],
                "context_length": 16,
                "prediction_length": 4,
            },
        ),
        0,
    )
    first, second = made.describe()["corpora"]
    assert (first["path"], first["provenance"], first["fingerprint"]) == (
        str(tmp_path / "c"),
        "real",
        mapped.fingerprint,
    )
    assert (second["path"], second["provenance"], second["rows_per_window"]) == (None, "synthetic", 1)
    assert (first["share"], second["share"]) == (0.75, 0.25)
    agree(made, made.windows(0, 50))


# -- futures that end early ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    variates=st.integers(1, 3),
    low=st.integers(6, 12),
    context=st.integers(2, 30),
    least=st.integers(1, 5),
    mode=st.sampled_from(["random", "epoch"]),
    mapped=st.booleans(),
    reserved=st.integers(0, 2),
)
def test_the_newest_windows_may_have_shorter_futures_that_end_with_the_training_part(
    tmp_path_factory, random_items, write_corpus, seed, variates, low, context, least, mode, mapped, reserved
):
    items = random_items(seed, 20, variates, low, low + 40, missing=0.0)
    names = [f"v{k}" for k in range(variates)]
    if mapped:
        corpus = write_corpus(tmp_path_factory.mktemp("corpora") / "c", items, names, **SMALL)
    else:
        corpus = Corpus.from_arrays("m", items, names)
    options = {"context_length": context, "prediction_length": 5, "min_prediction_length": least, "min_context": 1}
    options |= {"sampling": mode, "stride": 1, "validation_steps": reserved, "test_steps": 0, "seed": seed}
    made = source(corpus, **options, known_covariates=names[1:2])
    windows = made.windows(0, 60)
    _, series, cutoff = windows.source.T
    left = corpus.lengths[series] - reserved - cutoff
    assert left.min() >= least
    steps = np.arange(5) < left[:, None]
    first_row = np.searchsorted(windows.window, np.arange(60))
    for row, b in enumerate(windows.window.tolist()):
        column = made.selections[0].columns[row - first_row[b]]
        known = corpus.values(int(series[b]))[column, cutoff[b] : cutoff[b] + min(5, left[b])]
        assert np.array_equal(windows.future[row][steps[b]], known) and np.isnan(windows.future[row][~steps[b]]).all()


def test_an_early_end_hides_known_categories_and_times_after_it():
    columns = [Column(name="y"), Column(name="c", kind="categorical", categories=("a", "b"))]
    values = np.stack([np.arange(9.0), np.arange(9.0) % 2])
    corpus = Corpus.from_arrays("m", [("i", values, np.arange(9) * 3_600_000_000)], columns, time="regular", freq="h")
    options = {"context_length": 4, "prediction_length": 3, "min_prediction_length": 1, "sampling": "epoch"}
    options |= {"validation_steps": 0, "test_steps": 0, "with_times": True, "known_covariates": ("c",)}
    made = source(corpus, **options)
    windows = made.windows(0, made.epoch_length)
    newest = int(np.flatnonzero(windows.source[:, 2] == 8)[0])
    assert np.isnan(windows.future[2 * newest + 1]).tolist() == [False, True, True]
    assert (windows.future_times[newest] == NO_TIME).tolist() == [False, True, True]


def test_a_shortest_future_longer_than_the_horizon_is_an_error():
    with pytest.raises(ConfigError, match="min_prediction_length 4 exceeds prediction_length 3"):
        config(min_prediction_length=4)


def unlike_corpora() -> tuple[Corpus, Corpus]:
    """One corpus of single series, and one with covariates."""
    rng = np.random.default_rng(0)
    alone = Corpus.from_arrays("alone", [(f"a{k}", rng.random((1, 60), np.float32), None) for k in range(4)], ["y"])
    items = [(f"b{k}", rng.random((4, 60), np.float32), None) for k in range(4)]
    return alone, Corpus.from_arrays("groups", items, ["sales", "price", "visits", "note"])


GROUPS = {"path": "groups", "known_covariates": ["price"], "past_covariates": ["visits"], "target": ["sales"]}


def with_groups(own: dict, **options) -> TrainingSource:
    corpora = list(unlike_corpora())
    tree = {"corpora": [{"path": "alone"}, own], "context_length": 8, "prediction_length": 3, **options}
    return TrainingSource(build(DataConfig, tree), 0, corpora)


def test_a_corpus_may_have_columns_of_its_own():
    made = with_groups(GROUPS)
    assert [selection.columns for selection in made.selections] == [(0,), (0, 2, 1)]
    assert (made.selections[1].past, made.selections[1].known) == ((2,), (1,))
    windows = made.windows(0, 40)
    agree(made, windows)
    assert {*windows.role.tolist()} == {TARGET, PAST, KNOWN}
    assert [entry["rows_per_window"] for entry in made.describe()["corpora"]] == [1, 3]


def test_covariates_that_a_corpus_does_not_name_have_no_role_there_though_the_run_names_some():
    made = with_groups({"path": "groups", "target": ["sales", "note"]}, past_covariates=[])
    assert made.selections[1].columns == (0, 3)
    own = {"path": "groups", "known_covariates": ["price"]}
    assert with_groups(own).selections[1].targets == (0, 2, 3)  # all that are no covariates


def test_windows_of_corpora_with_columns_of_their_own_are_in_buckets_of_their_own():
    buckets = with_groups(GROUPS, sampling="epoch").in_buckets([8], [3], 200)
    assert {bucket.variates for bucket in buckets.buckets} == {1, 3}
    for number in range(buckets.epoch_length):
        windows = buckets.windows(number)
        assert len({*np.bincount(windows.window).tolist()}) == 1


def test_an_unknown_column_of_one_corpus_is_named_by_its_key():
    with pytest.raises(ConfigError, match=r"data\.corpora\.1\.known_covariates: groups has no column 'prise'.*'price'"):
        with_groups(GROUPS | {"known_covariates": ["prise"]})


def test_columns_of_a_run_whose_corpora_all_have_their_own_are_an_error():
    tree = {"corpora": [GROUPS], "context_length": 8, "prediction_length": 3, "known_covariates": ["price"]}
    with pytest.raises(ConfigError, match="known_covariates cannot take effect"):
        build(DataConfig, tree)
