"""Series that are generated while a model is trained: what a micro-batch holds follows from its number alone."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from foretrain.config import build
from foretrain.data.config import DataConfig
from foretrain.data.store import Corpus
from foretrain.data.synthetic.augment import Augment
from foretrain.data.synthetic.contamination import write_hashes
from foretrain.data.synthetic.generated import GeneratedSource, GeneratedStream
from foretrain.data.synthetic.mixture import GENERATORS
from foretrain.data.windows import KNOWN, PAST, TARGET, Windows
from foretrain.data.writer import CorpusWriter
from foretrain.errors import ConfigError, DataError
from foretrain.timeaxis.frequency import DAY
from foretrain.training.settings import StepPlan

ARRAYS = ("context", "future", "window", "role", "key", "source")
QUICK = [{"kind": "arma"}, {"kind": "shapes"}]
ALL_CHANGES = {name: {"share": 0.5} for name in Augment.model_fields}


def data(generated: dict[str, Any] | None = None, **section: Any) -> DataConfig:
    settings = {"generators": QUICK, "max_windows": 16, "max_tokens": 2048, **(generated or {})}
    return build(DataConfig, {"context_length": 64, "prediction_length": 16, "generated": settings, **section})


def stream(seed: int = 0, section: dict[str, Any] | None = None, **generated: Any) -> GeneratedStream:
    return GeneratedStream(data(generated, **(section or {})), seed)


def equal(first: Windows, second: Windows) -> bool:
    pairs = [(getattr(first, name), getattr(second, name)) for name in ARRAYS]
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)


def corpus(folder, count: int = 5, length: int = 100, names: tuple[str, ...] = ("target",), seed: int = 0):
    """Random walks at a level of 1,000 that no generator has, on disk."""
    rng = np.random.default_rng(seed)
    with CorpusWriter(folder, list(names), time="steps") as writer:
        for k in range(count):
            walk = rng.standard_normal((len(names), length)).cumsum(axis=1)
            writer.append(f"{k}", (1000.0 * (k + 1) + walk).astype(np.float32))
    return folder


# -- a function of the number ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", GENERATORS, ids=lambda kind: kind.__name__)
def test_a_micro_batch_of_every_generator_follows_from_seed_and_number_alone(kind):
    settings = {"generators": [{"kind": kind.model_fields["kind"].default}]}
    once, other = stream(**settings), stream(**settings)
    first = once.windows(5)
    for number in (9, 2, 7):
        other.windows(number)
    assert equal(first, other.windows(5))
    assert equal(first, pickle.loads(pickle.dumps(once)).windows(5))
    assert not equal(first, once.windows(6))
    assert not equal(first, stream(1, **settings).windows(5))


@pytest.mark.parametrize("change", Augment.model_fields)
def test_a_micro_batch_of_every_augmentation_follows_from_its_number_and_differs_from_an_unchanged_one(change):
    settings = {"augment": {change: {"share": 1.0}}}
    first = stream(**settings).windows(3)
    assert equal(first, stream(**settings).windows(3))
    assert not equal(first, stream().windows(3))


def test_any_number_of_ranks_sees_the_same_micro_batches(tmp_path):
    layouts = [{"share": 2.0}, {"targets": 2, "past": 1, "known": 1}]
    stored = [{"path": str(corpus(tmp_path / "stored")), "cap": 3}]
    settings = {"layouts": layouts, "corpora": stored, "augment": ALL_CHANGES}
    plan = StepPlan(steps=4, total=12, batch_size=3, micro_batch_size=1, unit="micro-batches")
    expected = [stream(**settings).windows(number) for number in range(12)]
    for ranks in (1, 2, 7):
        found = {}
        for rank in range(ranks):
            own = stream(**settings)  # every rank has a stream of its own
            for step in range(4):
                for part in plan.for_rank(step, rank, ranks):
                    if not part.idle:
                        found[part.first] = own.windows(part.first, part.count)
        assert sorted(found) == list(range(12))
        assert all(equal(expected[number], windows) for number, windows in found.items())


def test_another_setting_or_seed_has_another_fingerprint_and_workers_have_not(tmp_path):
    prints = {
        stream().fingerprint,
        stream(seed=1).fingerprint,
        stream(missing=0.5).fingerprint,
        stream(augment={"mixup": {"share": 0.1}}).fingerprint,
        stream(corpora=[{"path": str(corpus(tmp_path / "a"))}]).fingerprint,
        stream(corpora=[{"path": str(corpus(tmp_path / "b", seed=1))}]).fingerprint,
    }
    assert len(prints) == 6
    assert stream(workers=3, validation_windows=9).fingerprint == stream().fingerprint


# -- shapes and shares -----------------------------------------------------------------------------------------------


def test_shares_of_contexts_horizons_and_layouts_are_shares_of_micro_batches():
    found = stream(
        contexts=[{"shortest": 8, "longest": 16, "share": 1.0}, {"shortest": 17, "longest": 64, "share": 3.0}],
        horizons=[{"steps": 4, "share": 1.0}, {"steps": 16, "share": 1.0}],
        layouts=[{"share": 4.0}, {"targets": 2, "share": 1.0}],
        max_windows=1,
    )
    number = 300
    batches = [found.windows(k) for k in range(number)]
    shapes = [(w.context.shape[1], w.future.shape[1], len(w.context) // len(w)) for w in batches]
    short, long, pairs = (np.array(values) for values in zip(*shapes, strict=True))
    for mask, share in ((short <= 16, 0.25), (long == 4, 0.5), (pairs == 2, 0.2)):
        assert abs(mask.mean() - share) < 4 * np.sqrt(share * (1 - share) / number)
    assert {(c, h, k) for c, h, k in found.shapes} == {(c, h, r - 1) for c, h, r in shapes}


def test_contexts_are_uniform_in_their_range_and_padded_on_the_left():
    found = stream(contexts=[{"shortest": 9, "longest": 64}], missing=0.0)
    lengths = []
    for number in range(60):
        windows = found.windows(number)
        observed = ~np.isnan(windows.context)
        lengths += observed.sum(axis=1).tolist()
        assert np.array_equal(observed, np.sort(observed, axis=1))  # all that is missing is on the left
        assert not np.isnan(windows.future).any()
    assert (min(lengths), max(lengths)) == (9, 64)
    assert abs(np.mean(lengths) - 36.5) < 4 * 16.2 / np.sqrt(len(lengths) / 16)  # the contexts of a batch are alike


def test_a_micro_batch_holds_what_tokens_and_windows_allow():
    found = stream(layouts=[{"targets": 1, "past": 1, "known": 2}], max_tokens=640, max_windows=7)
    for number in range(20):
        windows = found.windows(number)
        steps = windows.context.shape[1] + windows.future.shape[1]
        assert len(windows) == min(7, 640 // (4 * steps))


def test_rows_are_targets_then_covariates_and_those_of_the_past_have_no_future():
    windows = stream(layouts=[{"targets": 2, "past": 1, "known": 1}], missing=0.0).windows(0)
    assert windows.role[:4].tolist() == [TARGET, TARGET, PAST, KNOWN]
    assert windows.window.tolist() == np.repeat(np.arange(len(windows)), 4).tolist()
    assert np.isnan(windows.future[windows.role == PAST]).all()
    assert not np.isnan(windows.future[windows.role != PAST]).any()


def test_missing_values_leave_no_context_empty():
    gaps = {"gaps": {"share": 1.0, "blocks": [3, 3], "fraction": [0.3, 0.4]}}
    found = stream(missing=1.0, missing_fraction=[0.5, 0.9], augment=gaps)
    for number in range(20):
        windows = found.windows(number)
        assert np.isfinite(windows.context).any(axis=1).all()
        assert np.isnan(windows.future).any()


def test_padding_batches_have_every_shape_and_no_value():
    found = stream(layouts=[{}, {"targets": 2}])
    shapes = {(len(w), *w.context.shape, w.future.shape[1]) for w in map(found.windows, range(100))}
    blank = [found.padding_batch(*shape) for shape in found.shapes]
    assert shapes <= {(len(w), *w.context.shape, w.future.shape[1]) for w in blank}
    assert all(w.num_padding_windows == len(w) and np.isnan(w.context).all() for w in blank)


def test_the_description_tells_shares_and_augmentations():
    text = "\n".join(stream(augment={"stride": {"share": 0.25}}, missing=0.2).describe())
    for part in (
        "arma 50.0%",
        "missing values in 20%",
        "stride 25%",
        "horizons 16 100%",
        "contexts 8 to 32 33%, 33 to 64 67%",
    ):
        assert part in text


# -- stored series ---------------------------------------------------------------------------------------------------


def is_stored(windows: Windows) -> np.ndarray:
    return np.nanmax(windows.context, axis=1) > 900


PLAIN = {"generators": [{"kind": "shapes", "scale": [1.0, 1.0]}], "missing": 0.0}


def test_weights_of_corpora_are_shares_of_windows(tmp_path):
    found = stream(corpora=[{"path": str(corpus(tmp_path / "stored")), "weight": 0.5}], **PLAIN)
    hits = np.concatenate([is_stored(found.windows(number)) for number in range(50)])
    assert abs(hits.mean() - 1 / 3) < 4 * 0.5 / np.sqrt(50 * 16)


def test_a_cap_bounds_the_windows_of_each_series_in_the_run(tmp_path):
    path = str(corpus(tmp_path / "stored", count=3, length=300))
    capped, free = (stream(corpora=[{"path": path, "weight": 1.0, "cap": cap}], **PLAIN) for cap in (10, None))

    def uses(of: GeneratedStream) -> np.ndarray:
        last = [w.context[is_stored(w)][:, -1] for w in map(of.windows, range(40))]
        return np.bincount(np.rint(np.concatenate(last) / 1000).astype(int), minlength=4)[1:]

    assert uses(capped).min() >= 5 and uses(capped).max() <= 10
    assert uses(free).max() > 80


def test_windows_of_stored_series_are_their_values_and_leave_out_what_is_held_out(tmp_path):
    path = corpus(tmp_path / "stored", count=2, length=60, names=("a", "b"))
    reserved = {"validation_steps": 3, "test_steps": 7}
    found = stream(section=reserved, corpora=[{"path": str(path), "weight": 9.0}], **PLAIN)
    series = [row[:50] for k in range(2) for row in Corpus.open(path).values(k)]
    seen = set()
    for number in range(30):
        windows = found.windows(number)
        for values in np.concatenate([windows.context, windows.future], axis=1)[is_stored(windows)]:
            own = values[~np.isnan(values)]
            hits = [
                (k, t)
                for k, row in enumerate(series)
                for t in np.flatnonzero(row == own[0])
                if np.array_equal(row[t : t + len(own)], own)
            ]
            assert len(hits) == 1
            seen.add((hits[0][0], hits[0][1] + len(own)))
    assert {k for k, _ in seen} == {0, 1, 2, 3} and max(end for _, end in seen) == 50


def test_dates_cut_stored_series_and_no_generated_ones(tmp_path):
    """Two daily items, from 1 and from 11 January on: of 60 rows each, 50 and 40 lie before 20 February."""
    first = np.datetime64("2024-01-01", "us").astype(np.int64)
    with CorpusWriter(tmp_path / "days", ["x"], time="regular", freq="D") as writer:
        for k in range(2):
            values = (1000.0 * (k + 1) + np.arange(60))[None].astype(np.float32)
            writer.append(f"{k}", values, times=first + (10 * k + np.arange(60)) * DAY)
    dates = {"validation_from": "2024-02-22", "test_from": "2024-03-01", "embargo": "2D"}
    stored = [{"path": str(tmp_path / "days"), "weight": 9.0}]
    source = GeneratedSource(data({"corpora": stored, **PLAIN, "validation_windows": 4}, **dates), 0)
    values = [w.context[is_stored(w)] for w in map(source.stream.windows, range(30))]
    futures = [w.future[is_stored(w)] for w in map(source.stream.windows, range(30))]
    seen = np.concatenate([*(part.ravel() for part in values), *(part.ravel() for part in futures)])
    assert [np.nanmax(seen[(seen >= low) & (seen < low + 1000)]) for low in (1000, 2000)] == [1049, 2039]
    assert source.validation_data()[0].cuts == (16, 0), "generated series have no calendar"
    line = "days: only what lies before 2024-02-20 (validation_from less 2D) is used, by the local times that it stores"
    assert source.left_out() == [line] and f"  {line}" in source.stream.describe()
    with pytest.raises(DataError, match=r"days: no item that may be trained on has 24 steps .*, all before the first"):
        GeneratedSource(data({"corpora": stored}, test_from="2024-01-05"), 0)
    with pytest.raises(ConfigError, match=r"test_from: no effect beside data\.generated"):
        data({}, test_from="2024-01-05")


def test_no_row_has_labels_without_a_value_before_them(tmp_path):
    """Stored series are cut where they have values on both sides; where mixtures have none, there are no labels."""
    rng = np.random.default_rng(1)
    with CorpusWriter(tmp_path / "stored", ["target"], time="steps") as writer:
        for k in range(20):
            gone = rng.random((1, 100)) < (0.9 if k else 1.1)
            writer.append(f"{k}", np.where(gone, np.nan, rng.standard_normal((1, 100)).cumsum()).astype(np.float32))
    stored = [{"path": str(tmp_path / "stored"), "weight": 4.0}]
    for changes in ({}, {"tsmixup": {"share": 1.0}}, ALL_CHANGES):
        for windows in map(stream(corpora=stored, augment=changes).windows, range(20)):
            unseen = np.isnan(windows.context).all(axis=1)
            assert np.isnan(windows.future[unseen]).all()
            assert changes or not unseen.any()


def test_a_window_that_holds_a_run_of_the_benchmark_is_drawn_again(tmp_path):
    """Copies are found at another level and scale, and turned over; so is the rest of their series used."""
    rng = np.random.default_rng(4)
    benchmark = rng.standard_normal((1, 200)).cumsum(axis=1)
    with CorpusWriter(tmp_path / "benchmark", ["target"], time="steps") as writer:
        writer.append("secret", benchmark.astype(np.float32))
    with CorpusWriter(tmp_path / "stored", ["target"], time="steps") as writer:
        for k, scale in enumerate((1.0, 250.0, -3.0)):
            walk = rng.standard_normal((1, 300)).cumsum(axis=1) * 5.0 * abs(scale)
            walk[:, 100:180] = benchmark[:, 40:120] * scale
            writer.append(f"{k}", (20_000.0 * (k + 1) + walk).astype(np.float32))
    hashes = tmp_path / "hashes.npy"
    assert write_hashes([tmp_path / "benchmark"], hashes) == 200 - 32 + 1

    def planted(**settings: Any) -> int:
        found = stream(
            corpora=[{"path": str(tmp_path / "stored"), "weight": 3.0}],
            contexts=[{"shortest": 40, "longest": 64}],
            **PLAIN,
            **settings,
        )
        hits = kept = 0
        for number in range(12):
            windows = found.windows(number)
            for values in np.concatenate([windows.context, windows.future], axis=1)[is_stored(windows)]:
                moves = np.diff(values.astype(np.float64))
                runs = np.lib.stride_tricks.sliding_window_view(moves, 31)
                known = np.diff(benchmark[0, 40:120])
                known = np.lib.stride_tricks.sliding_window_view(known, 31)
                unit = [r / np.linalg.norm(r, axis=1, keepdims=True) for r in (runs, known)]
                hits += bool((np.abs(np.nan_to_num(unit[0]) @ unit[1].T) > 0.999).any())
                kept += 1
        assert kept > 100
        return hits

    assert planted() > 20
    assert planted(exclude=[str(tmp_path / "benchmark")]) == 0
    assert planted(exclude=[str(hashes)]) == 0


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("generated", "section", "message"),
    [
        ({"contexts": [{"shortest": 8, "longest": 32}]}, {}, "contexts: the longest is 32 and context_length is 64"),
        ({"horizons": [{"steps": 8}]}, {}, "horizons: the longest is 8 and prediction_length is 16"),
        ({"max_tokens": 79}, {}, "max_tokens 79 holds no window of 80"),
        ({"exclude": ["x"]}, {}, "exclude has no effect without corpora"),
        ({"corpora": [{"path": "x"}], "layouts": [{"targets": 2}]}, {}, "no entry of layouts has one row"),
        ({"multivariate": {"leading": 0.9}}, {}, "multivariate has no effect on windows of one row"),
        (
            {"layouts": [{"targets": 2}], "augment": {"mixup": {"share": 0.1}}},
            {},
            "augment.mixup acts on windows of one row",
        ),
        ({}, {"context_length": 7}, "context_length 7: generated contexts have 8 steps at least"),
        ({"augment": {"stride": {"share": 0.1, "factor": [1, 2]}}}, {}, r"must lie in \[2, 16\]"),
        ({"contexts": [{"shortest": 9, "longest": 8}]}, {}, "shortest 9 exceeds longest 8"),
        ({}, {"sampling": "epoch"}, "sampling: no effect beside data.generated"),
        ({}, {"target": ["x"], "stride": 3}, "target, stride: no effect"),
        ({}, {"test_steps": 8}, "test_steps: no effect"),
        ({}, {"corpora": [{"path": "x"}]}, "either corpora or generated"),
    ],
)
def test_settings_that_cannot_take_effect_are_errors(generated, section, message):
    with pytest.raises(ConfigError, match=message):
        data(generated, **section)


def test_a_corpus_without_a_series_that_is_long_enough_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no item that may be trained on has 28 steps"):
        stream(
            section={"validation_steps": 4, "test_steps": 0},
            corpora=[{"path": str(corpus(tmp_path / "stored", length=27))}],
        )


def test_validation_has_windows_of_another_stream_with_the_longest_horizon():
    source = GeneratedSource(
        data({"layouts": [{}, {"targets": 1, "known": 1}], "validation_windows": 40, "horizons": [
            {"steps": 4}, {"steps": 16}]}), 0,
    )  # fmt: skip
    section, corpora, selections = source.validation_data()
    assert sum(corpus.num_series for corpus in corpora) == 40
    assert [selection.known for selection in selections] == [(), (1,)]
    assert all(corpus.manifest.generated and (corpus.lengths > 16).all() for corpus in corpora)
    assert section.cuts == (16, 0)
    again = GeneratedSource(data({"validation_windows": 40}), 0)
    assert again.validation_data()[1][0].fingerprint == again.validation_data()[1][0].fingerprint
