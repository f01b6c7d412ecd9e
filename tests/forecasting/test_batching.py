"""Batches by length: results do not depend on order or size, and memory errors are survived."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.forecasting.quantiles import forecast_windows

from foretrain.data.windows import Window, stack_windows
from foretrain.errors import ConfigError, ModelError
from foretrain.forecasting.batching import MAX_PADDING, forecast_paths, plan
from foretrain.forecasting.predictor import load
from foretrain.models.base import Forecast
from foretrain.models.chronos2.decode import Chronos2Options
from foretrain.models.request import ForecastRequest
from foretrain.notes import Code, Note, Tally, codes

LEVELS = [0.1, 0.5, 0.9]


def windows_of(seed, count, horizon=5):
    """Windows of 1 to 90 steps, 1 to 3 rows, some with a covariate known ahead, some values missing."""
    rng = np.random.default_rng(seed)
    windows = []
    for _ in range(count):
        rows, steps = int(rng.integers(1, 4)), int(rng.integers(1, 91))
        context = rng.standard_normal((rows, steps)).cumsum(1).astype(np.float32)
        context[rng.random(context.shape) < 0.05] = np.nan
        future = np.full((rows, horizon), np.nan, np.float32)
        if rows == 3:
            future[2] = rng.standard_normal(horizon)
        windows.append(Window(context, num_targets=1, num_past=min(rows, 2) - 1, future=future))
    return windows


def assert_equal(a, b, tolerance=5e-5):
    for x, y in zip(a, b, strict=True):
        assert x.shape == y.shape
        assert np.max(np.abs(x - y) / (np.abs(y) + 1)) <= tolerance


@pytest.mark.parametrize("seed", range(8))
def test_results_depend_on_neither_order_nor_batch_size(predictor, seed):
    batch_size, horizon = 1 + 5 * seed, (3, 40)[seed % 2]
    windows = windows_of(seed, 9, horizon)
    order = np.random.default_rng(seed).permutation(len(windows))
    alone = [forecast_windows(predictor.model, [w], horizon, LEVELS)[0] for w in windows]
    together = forecast_windows(predictor.model, [windows[i] for i in order], horizon, LEVELS, batch_size=batch_size)
    assert_equal([together[i] for i in np.argsort(order)], alone)


def test_the_truth_in_a_window_changes_no_forecast(predictor):
    """Evaluation windows hold the future; a forecast may read only covariates known ahead."""
    windows = windows_of(3, 12)
    rng = np.random.default_rng(0)
    with_truth = []
    for w in windows:
        future = w.future.copy()
        future[: w.num_targets + w.num_past] = rng.standard_normal((w.num_targets + w.num_past, 5)) * 100
        with_truth.append(Window(w.context, w.num_targets, w.num_past, future))
    a = forecast_windows(predictor.model, windows, 5, LEVELS)
    b = forecast_windows(predictor.model, with_truth, 5, LEVELS)
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_only_the_newest_steps_of_a_context_are_read(predictor):
    windows = windows_of(4, 8)
    cut = [Window(w.context[:, -16:], w.num_targets, w.num_past, w.future) for w in windows]
    assert_equal(
        forecast_windows(predictor.model, windows, 5, LEVELS, context_length=16),
        forecast_windows(predictor.model, cut, 5, LEVELS),
    )


def test_batches_hold_similar_lengths_and_every_window_once():
    windows = [Window(np.zeros((1 + i % 3, 1 + 37 * i % 500), np.float32), 1) for i in range(300)]
    batches = plan(windows, 24, 400, 16, together=False)
    assert sorted(np.concatenate([b.windows for b in batches])) == list(range(300))
    for batch in batches:
        buckets = [-(-min(windows[i].context.shape[1], 400) // 16) for i in batch.windows]
        rows = [len(windows[i].context) for i in batch.windows]
        assert max(buckets) <= min(buckets) * MAX_PADDING
        assert sum(rows) == batch.rows and sum(rows[:-1]) < 24


def test_cross_learning_fills_batches_in_input_order():
    windows = [Window(np.zeros((1, steps), np.float32), 1) for steps in (5, 400, 7, 300, 9)]
    batches = plan(windows, 2, 400, 16, together=True)
    assert [b.windows.tolist() for b in batches] == [[0, 1], [2, 3], [4]]


def test_cross_learning_mixes_the_rows_of_a_batch(predictor):
    windows = windows_of(5, 6)
    options = Chronos2Options(cross_learning=True)
    joint = forecast_windows(predictor.model, windows, 5, LEVELS, options=options)
    changed = [Window(windows[0].context * 3 + 1, 1, windows[0].num_past, windows[0].future), *windows[1:]]
    other = forecast_windows(predictor.model, changed, 5, LEVELS, options=options)
    assert not np.allclose(joint[3], other[3])


def request_of(**fields):
    return ForecastRequest(prediction_length=5, quantile_levels=LEVELS, **fields)


class Scarce:
    """A model that runs out of memory above a number of rows, like a small GPU."""

    def __init__(self, model, most):
        self.model, self.most = model, most
        self.rows: list[int] = []

    def __getattr__(self, name):
        return getattr(self.model, name)

    def forecast(self, batch, request):
        if len(batch["context"]) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.rows.append(len(batch["context"]))
        return self.model.forecast(batch, request)


def test_a_batch_too_big_for_memory_is_halved_with_a_warning(predictor, logged_notes):
    windows = windows_of(6, 40)
    scarce = Scarce(predictor.model, 10)
    found = forecast_windows(scarce, windows, 5, LEVELS)
    assert codes(logged_notes()) == {Code.BATCH_HALVED}
    assert max(scarce.rows) <= 10
    assert_equal(found, forecast_windows(predictor.model, windows, 5, LEVELS))


@pytest.mark.parametrize(("most", "options"), [(0, None), (10, Chronos2Options(cross_learning=True))])
def test_running_out_of_memory_despite_halving_is_an_error(predictor, most, options):
    with pytest.raises(ModelError, match="out of memory"):
        forecast_windows(Scarce(predictor.model, most), windows_of(6, 40), 5, LEVELS, options=options)


def test_training_continues_after_a_forecast(golden_folder):
    """No tensor made in inference mode may stay in the model: a backward pass would fail."""
    model = load(golden_folder / "model", device="cpu").model.train()
    windows = windows_of(7, 3)
    forecast_windows(model, windows, 5, LEVELS)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    truth = [Window(w.context, 1, w.num_past, np.ones_like(w.future)) for w in windows]
    model(model.collate(stack_windows(truth, 5))).total.backward()
    assert all(p.grad is not None for p in model.network.output_patch_embedding.parameters())


def test_progress_counts_every_window(predictor):
    seen: list[int] = []
    forecast_windows(predictor.model, windows_of(8, 30), 5, LEVELS, batch_size=8, progress=seen.append)
    assert sum(seen) == 30


def test_lower_precision_stays_near(predictor):
    windows = windows_of(9, 10)
    exact = forecast_windows(predictor.model, windows, 5, LEVELS)
    rough = forecast_windows(predictor.model, windows, 5, LEVELS, dtype=torch.bfloat16)
    differences = [np.abs(x - y).max() / (1 + np.abs(y).max()) for x, y in zip(rough, exact, strict=True)]
    assert 0 < max(differences) < 0.2


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("batch_size", 0, "at least 1"),
        ("context_length", 0, "at least 1"),
        ("context_length", "9", "context_length is '9'"),
        ("num_samples", 0, "at least 1"),
        ("seed", 1.5, "seed is 1.5; it must be a whole number"),
    ],
)
def test_impossible_arguments_are_refused(predictor, argument, value, message):
    with pytest.raises(ConfigError, match=message):
        forecast_windows(predictor.model, windows_of(1, 2), 5, LEVELS, **{argument: value})


def test_a_context_beyond_the_models_is_cut_with_a_warning(predictor, logged_notes):
    forecast_windows(predictor.model, windows_of(1, 2), 5, LEVELS, context_length=100)
    (note,) = logged_notes()
    assert (note.code, note.counts) == (Code.CONTEXT_CLIPPED, {"context_length": 64})


class Sampler:
    """A model that draws paths around its levels, counts windows in its notes, and may omit its mean."""

    def __init__(self, model, family="sampler"):
        self.model, self.family = model, family

    def __getattr__(self, name):
        return getattr(self.model, name)

    def forecast(self, batch, request):
        found = self.model.forecast(batch, request)
        middle = found.quantiles[..., 1]
        samples = torch.stack([middle + k for k in range(request.num_samples or 4)], dim=1)
        notes = (
            Tally("windows", "{windows:,} windows", {"windows": len(middle)}),
            Tally("none", "{none:,} of nothing", {"none": 0}),
        )
        return Forecast(found.quantiles, found.levels, samples, samples.mean(1), notes)


def test_paths_means_and_notes_are_returned_by_window(predictor, logged_notes):
    windows = [w for w in windows_of(10, 30) if len(w.context) < 3]
    quantiles = forecast_windows(Sampler(predictor.model), windows, 5, LEVELS, batch_size=7)
    assert logged_notes() == [
        Note("windows", f"in these forecasts: {len(windows)} windows.", {"windows": len(windows)})
    ]
    found = forecast_paths(
        Sampler(predictor.model), windows, request_of(batch_size=7, num_samples=3), keep_samples=True
    )
    assert_equal(found.quantiles, quantiles)
    assert [(tally.code, tally.counts) for tally in found.notes] == [
        ("windows", {"windows": len(windows)}),
        ("none", {"none": 0}),
    ]
    for values, mean, samples in zip(found.quantiles, found.mean, found.samples, strict=True):
        assert samples.shape == (1, 3, 5)
        np.testing.assert_array_equal(samples[:, 0], values[..., 1])
        np.testing.assert_allclose(mean, samples.mean(1), rtol=1e-5, atol=1e-5)


def test_paths_that_were_not_requested_are_dropped(predictor):
    found = forecast_paths(Sampler(predictor.model), windows_of(10, 3), request_of(), keep_samples=False)
    assert found.samples is None and found.mean is not None


def test_num_samples_of_a_family_without_paths_gives_a_warning(predictor, logged_notes):
    found = forecast_paths(predictor.model, windows_of(11, 3), request_of(num_samples=3), keep_samples=True)
    assert codes(logged_notes()) == {Code.NUM_SAMPLES_UNUSED}
    assert (found.samples, found.mean, found.notes) == (None, None, ())


def test_no_windows_give_empty_lists(predictor):
    found = forecast_paths(predictor.model, [], request_of(), keep_samples=True)
    assert found.quantiles == [] and found.notes == ()


def test_windows_with_stamps_share_no_batch_with_windows_without():
    """Stacking would drop all stamps, so a forecast would depend on its batch."""
    plain = [Window(np.zeros((1, 20), np.float32), 1) for _ in range(6)]
    stamped = [replace(w, context_times=np.arange(20), future_times=np.arange(5)) for w in plain]
    mixed = [w for pair in zip(plain, stamped, strict=True) for w in pair]
    batches = [b.windows.tolist() for b in plan(mixed, 100, 400, 16, together=False)]
    assert batches == [[1, 3, 5, 7, 9, 11], [0, 2, 4, 6, 8, 10]]


def test_equal_warnings_of_all_batches_are_logged_once(predictor, logged_notes):
    horizon = predictor.model.config.native_horizon + 1
    forecast_windows(predictor.model, windows_of(12, 20), horizon, LEVELS, batch_size=2)
    assert [note.code for note in logged_notes()] == [Code.HORIZON_UNROLLED]
    forecast_windows(predictor.model, windows_of(12, 2), horizon, LEVELS)
    assert codes(logged_notes()) == {Code.HORIZON_UNROLLED}  # another forecast says it again
