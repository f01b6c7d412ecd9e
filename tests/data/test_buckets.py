from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.config import build
from foretrain.data.buckets import Buckets, choices
from foretrain.data.config import DataConfig
from foretrain.data.source import TrainingSource
from foretrain.data.store import Corpus
from foretrain.data.windows import NO_TIME, Windows
from foretrain.errors import ConfigError

OWN = {"context_length": 16, "prediction_length": 6, "sampling": "epoch", "validation_steps": 0, "test_steps": 0}


def source(*corpora: Corpus, seed: int = 0, **options) -> TrainingSource:
    tree = {"corpora": [{"path": "unused"}] * len(corpora), **OWN, **options}
    return TrainingSource(build(DataConfig, tree), seed, list(corpora))


def in_buckets(made: TrainingSource, lengths=(4, 8), horizons=(2, 4), tokens: int = 100) -> Buckets:
    return made.in_buckets(lengths, horizons, tokens)


def ragged(items, columns=("x",), **options) -> TrainingSource:
    options = {"min_context": 1, "min_prediction_length": 1, "stride": 1, **options}
    return source(Corpus.from_arrays("m", items, list(columns)), **options)


def epoch(found: Buckets, number: int = 0) -> list[Windows]:
    return [found.windows(number * found.epoch_length + m) for m in range(found.epoch_length)]


def places(batch: Windows) -> list[tuple[int, ...]]:
    return [tuple(place) for place in batch.source[: len(batch) - batch.num_padding_windows].tolist()]


lengths = st.sets(st.integers(1, 20), max_size=3)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 1000),
    low=st.integers(8, 14),
    given_lengths=lengths,
    given_horizons=lengths,
    stride=st.integers(1, 7),
    least=st.integers(1, 6),
    min_context=st.integers(1, 5),
    reserved=st.integers(0, 2),
    tokens=st.integers(22, 300),
)
def test_each_window_occurs_once_an_epoch_in_the_smallest_bucket_that_holds_it(
    random_items, seed, low, given_lengths, given_horizons, stride, least, min_context, reserved, tokens
):
    items = random_items(seed, 12, 1, low, low + 30)
    options = {"min_context": min_context, "min_prediction_length": least, "stride": stride}
    made = ragged(items, **options, validation_steps=reserved, seed=seed)
    found = in_buckets(made, sorted(given_lengths), sorted(given_horizons), tokens)
    contexts, futures = (
        sorted({own, *(n for n in chosen if n <= own)}) for own, chosen in ((16, given_lengths), (6, given_horizons))
    )
    seen = Counter()
    for batch in epoch(found):
        context, future = batch.context.shape[1], batch.future.shape[1]
        assert len(batch) * (context + future) <= tokens
        for place in places(batch):
            seen[place] += 1
            _, series, cutoff = place
            past, ahead = min(cutoff, 16), min(len(items[series][1][0]) - reserved - cutoff, 6)
            assert context == min(n for n in contexts if n >= past)
            assert future == min(n for n in futures if n >= ahead)
    plain = [tuple(place) for place in made.windows(0, made.epoch_length).source.tolist()]
    assert seen == Counter(plain)


def test_windows_are_those_of_the_plain_order_cut_to_their_bucket(random_items):
    made = ragged(random_items(3, 20, 3, 8, 60), "abc", known_covariates=("b",), past_covariates=("c",))
    plain = made.windows(0, made.epoch_length)
    number = {tuple(place): b for b, place in enumerate(plain.source.tolist())}
    checked = 0
    for batch in epoch(in_buckets(made, tokens=300)):
        for b, place in enumerate(places(batch)):
            rows, same = batch.window == b, plain.window == number[place]
            context, future = batch.context.shape[1], batch.future.shape[1]
            assert np.array_equal(batch.context[rows], plain.context[same][:, 16 - context :], equal_nan=True)
            assert np.array_equal(batch.future[rows], plain.future[same][:, :future], equal_nan=True)
            assert np.isnan(plain.context[same][:, : 16 - context]).all()
            assert np.isnan(plain.future[same][:, future:]).all()
            assert batch.key[b] == plain.key[number[place]]
            assert np.array_equal(batch.role[rows], plain.role[same])
            checked += 1
    assert checked == made.epoch_length


def test_a_mapped_corpus_gives_the_same_batches_as_one_in_memory(tmp_path, random_items, write_corpus):
    items = random_items(1, 30, 2, 8, 60)
    mapped = source(
        write_corpus(tmp_path / "c", items, ["a", "b"], batch_bytes=1_500, shard_bytes=6_000),
        min_context=1, min_prediction_length=1, stride=1,
    )  # fmt: skip
    ours, other = in_buckets(mapped), in_buckets(ragged(items, "ab"))
    for m in range(ours.epoch_length):
        one, two = ours.windows(m), other.windows(m)
        assert np.array_equal(one.context, two.context, equal_nan=True)
        assert np.array_equal(one.future, two.future, equal_nan=True)


def test_all_micro_batches_of_a_bucket_have_one_shape_and_only_the_last_is_padded(random_items):
    found = in_buckets(ragged(random_items(0, 9, 2, 10, 40), "ab"))
    sizes: dict[tuple[int, int], set[int]] = {}
    filled: Counter[tuple[int, int]] = Counter()
    for batch in epoch(found):
        shape = batch.context.shape[1], batch.future.shape[1]
        sizes.setdefault(shape, set()).add(len(batch))
        assert batch.static_shapes and len(batch.context) == len(batch.window) == len(batch.role) == 2 * len(batch)
        if batch.num_padding_windows:
            filled[shape] += 1
            rows = 2 * batch.num_padding_windows
            assert np.isnan(batch.context[-rows:]).all() and np.isnan(batch.future[-rows:]).all()
            assert len(batch.names) == len(batch.key) == len(batch)
    assert all(len(found) == 1 for found in sizes.values()) and len(sizes) == len(found.buckets)
    assert filled and max(filled.values()) == 1


def test_micro_batches_of_equal_size_need_little_padding(random_items):
    found = in_buckets(ragged(random_items(0, 9, 2, 10, 40), "ab"), tokens=1000)
    for bucket in found.buckets:
        assert bucket.micro_batches * bucket.micro_batch - bucket.windows < bucket.micro_batches


def test_padding_windows_have_no_times(random_items):
    items = random_items(0, 9, 1, 10, 40, times="regular")
    corpus = Corpus.from_arrays("m", items, ["x"], time="regular", freq="h")
    found = in_buckets(source(corpus, min_context=1, stride=1, with_times=True))
    batch = next(batch for batch in epoch(found) if batch.num_padding_windows)
    assert (batch.context_times[-batch.num_padding_windows :] == NO_TIME).all()
    assert (batch.future_times[-batch.num_padding_windows :] == NO_TIME).all()
    assert (batch.future_times[: -batch.num_padding_windows] != NO_TIME).all()


def test_a_padding_batch_has_the_shape_of_its_bucket_and_no_values(random_items):
    found = in_buckets(ragged(random_items(0, 9, 2, 10, 40), "ab"))
    for number, bucket in enumerate(found.buckets):
        batch = found.padding_batch(number)
        assert batch.context.shape == (2 * bucket.micro_batch, bucket.context_length)
        assert batch.future.shape == (2 * bucket.micro_batch, bucket.prediction_length)
        assert (
            np.isnan(batch.context).all() and np.isnan(batch.future).all() and batch.num_padding_windows == len(batch)
        )


def test_corpora_with_different_variates_never_share_a_micro_batch_and_share_the_budget(random_items):
    one = Corpus.from_arrays("one", random_items(0, 9, 1, 8, 40), ["a"])
    three = Corpus.from_arrays("three", random_items(1, 5, 3, 8, 40), ["a", "b", "c"])
    again = Corpus.from_arrays("again", random_items(2, 4, 1, 8, 40), ["a"])
    made = source(one, three, again, min_context=1, min_prediction_length=1, stride=1)
    found = in_buckets(made, tokens=150)
    seen = Counter()
    for batch in epoch(found):
        rows = np.bincount(batch.window)
        assert len(set(rows.tolist())) == 1
        assert len(batch.context) * (batch.context.shape[1] + batch.future.shape[1]) <= 150
        corpora = {place[0] for place in places(batch)}
        assert corpora <= ({1} if rows[0] == 3 else {0, 2})
        seen.update(places(batch))
    assert len(seen) == made.epoch_length and set(seen.values()) == {1}


# -- order -----------------------------------------------------------------------------------------------------------


def test_a_micro_batch_is_a_pure_function_of_seed_and_number(random_items):
    items = random_items(0, 20, 1, 8, 60)
    whole = [places(in_buckets(ragged(items)).windows(m)) for m in range(12)]
    again = in_buckets(ragged(items))
    assert [places(again.windows(m)) for m in reversed(range(12))] == whole[::-1]
    assert [places(in_buckets(ragged(items, seed=1)).windows(m)) for m in range(12)] != whole


def test_every_epoch_has_its_own_order_of_windows_and_of_micro_batches(random_items):
    found = in_buckets(ragged(random_items(0, 20, 1, 8, 60)))
    orders = [[places(batch) for batch in epoch(found, number)] for number in range(2)]
    shapes = [[batch.context.shape for batch in epoch(found, number)] for number in range(2)]
    assert Counter(p for batch in orders[0] for p in batch) == Counter(p for batch in orders[1] for p in batch)
    assert shapes[0] != shapes[1] and sorted(shapes[0]) == sorted(shapes[1])
    assert {frozenset(batch) for batch in orders[0]} != {frozenset(batch) for batch in orders[1]}


def test_micro_batches_of_all_buckets_are_interleaved(random_items):
    found = in_buckets(ragged(random_items(0, 60, 1, 8, 60)))
    order = [batch.context.shape[1] for batch in epoch(found)]
    changes = sum(a != b for a, b in pairwise(order))
    assert changes > 3 * len(found.buckets)  # one bucket after the other would change once a bucket


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "given", "kept", "dropped"),
    [
        (512, (128, 256, 512), (128, 256, 512), ()),
        (300, (128, 256, 512), (128, 256, 300), (512,)),
        (64, (1024, 128), (64,), (128, 1024)),
        (64, (), (64,), ()),
        (64, (32, 32, 64), (32, 64), ()),
    ],
)
def test_buckets_end_with_the_length_of_the_run(own, given, kept, dropped):
    assert choices(own, given) == (kept, dropped)


def test_dropped_and_added_buckets_are_reported(random_items):
    lines = in_buckets(ragged(random_items(0, 9, 1, 10, 40)), (4, 8, 99), (6, 50)).describe()
    assert lines[:3] == [
        "buckets longer than data.context_length 16 dropped: 99",
        "bucket 16 added, data.context_length",
        "buckets longer than data.prediction_length 6 dropped: 50",
    ]


def test_the_table_names_pairs_windows_and_micro_batches():
    found = in_buckets(ragged([("a", np.ones((1, 12)), None)]), (4,), (), 40)
    assert found.describe()[-3:] == [
        "buckets: 11 windows an epoch in 8 micro-batches",
        "  context 4 + horizon 6, variates 1: 4 windows = 1 x 4",
        "  context 16 + horizon 6, variates 1: 7 windows = 7 x 1",
    ]


def test_a_budget_below_one_window_names_the_bucket_and_the_smallest_that_works(random_items):
    made = ragged(random_items(0, 9, 2, 30, 40), "ab")
    with pytest.raises(ConfigError, match=r"43 holds no window of bucket context 16 \+ horizon 6 with 2 variates.* 44"):
        in_buckets(made, tokens=43)
    assert max(bucket.micro_batch for bucket in in_buckets(made, tokens=44).buckets) > 1


def test_a_bucket_without_windows_needs_no_budget():
    made = ragged([("a", np.ones((1, 8)), None)], min_context=1)
    assert in_buckets(made, tokens=14).epoch_length  # context 16 would need 22, and no series has more than 8 rows


def test_buckets_need_sampling_by_epochs(random_items):
    with pytest.raises(ConfigError, match=r"data.sampling is 'random'. Set data.sampling: epoch"):
        in_buckets(ragged(random_items(0, 9, 1, 30, 40), sampling="random"))


def test_horizons_are_drawn_evenly_and_depend_on_seed_and_number_alone(random_items):
    made = ragged(random_items(0, 40, 1, 30, 40))

    def drawn(made: TrainingSource = made) -> Buckets:
        return made.in_buckets((8,), (2, 4, 6), 60, draw_horizons=True)

    found, full = drawn(), made.in_buckets((8,), (2, 4, 6), 60)
    horizons = [found.windows(m).future.shape[1] for m in range(600)]
    shares = np.array([np.mean(np.array(horizons)[np.array(horizons) <= 6] == h) for h in (2, 4, 6)])
    assert (np.abs(shares - 1 / 3) < 5 * np.sqrt(2 / 9 / 600) + 0.05).all()  # series' ends have only short ones
    for m in (0, 17, 230):
        one, again, whole = found.windows(m), drawn().windows(m), full.windows(m)
        horizon = one.future.shape[1]
        assert np.array_equal(one.source, whole.source)
        assert np.array_equal(one.context, whole.context, equal_nan=True)
        assert np.array_equal(one.future, whole.future[:, :horizon], equal_nan=True)
        assert np.array_equal(one.future, again.future, equal_nan=True)
    other = TrainingSource(made.config, 1, list(made.corpora))
    assert horizons != [drawn(other).windows(m).future.shape[1] for m in range(600)]


def test_every_drawn_shape_is_listed_and_has_a_padding_batch(random_items):
    found = ragged(random_items(0, 30, 1, 8, 30)).in_buckets((4, 8), (2, 4), 100, draw_horizons=True)
    seen = {(b.context.shape, b.future.shape) for b in (found.windows(m) for m in range(10 * found.epoch_length))}
    blank = {(b.context.shape, b.future.shape) for b in (found.padding_batch(*shape) for shape in found.shapes)}
    assert seen <= blank
    assert len(found.shapes) == sum(sum(h <= b.prediction_length for h in (2, 4, 6)) for b in found.buckets)
    assert "drawn from 2, 4, 6" in "\n".join(found.describe())


def test_horizons_cannot_be_drawn_from_one(random_items):
    with pytest.raises(ConfigError, match="draw_horizons: 6 is the only horizon"):
        ragged(random_items(0, 5, 1, 30, 40)).in_buckets((8,), (6, 9), 60, draw_horizons=True)


def test_a_limit_of_windows_gives_short_windows_more_steps(random_items):
    made = ragged(random_items(0, 30, 1, 8, 30))
    free, limited = (made.in_buckets((4, 8), (2, 4), 100, max_windows=most) for most in (None, 5))
    assert [b.windows for b in free.buckets] == [b.windows for b in limited.buckets]
    assert max(b.micro_batch for b in limited.buckets) == 5 < max(b.micro_batch for b in free.buckets)
    assert sorted(place for b in epoch(limited) for place in places(b)) == sorted(
        place for b in epoch(free) for place in places(b)
    )
