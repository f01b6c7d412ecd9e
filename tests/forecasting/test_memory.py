"""Forecasts within a bound: batches that fit, equal results, and one line that says the least."""

from __future__ import annotations

import platform
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from tests.forecasting.quantiles import forecast_windows
from tests.forecasting.test_batching import assert_equal, windows_of

from foretrain.adapters.layers import AdapterConfig, adapt
from foretrain.data.windows import Window
from foretrain.errors import ConfigError
from foretrain.forecasting.batching import forecast_paths, plan
from foretrain.forecasting.memory import RESERVE, SHARE, Bound, bound_of
from foretrain.models.chronos2.decode import Chronos2Options
from foretrain.models.memory import BatchSize, memory_size, most_bytes
from foretrain.models.request import ForecastRequest

LEVELS = [0.1, 0.5, 0.9]


def least_of(model, windows, **fields):
    """The least bound that a forecast of 5 steps takes, as its error says it."""
    with pytest.raises(ConfigError) as caught:
        forecast_windows(model, windows, 5, LEVELS, max_memory=1, **fields)
    text = str(caught.value)
    assert "\n" not in text and "max_memory is 1MB" in text
    return memory_size(re.search(r"takes at least (\S+) with", text)[1])


def test_the_least_bound_that_an_error_names_is_enough_and_changes_no_forecast(predictor):
    windows = windows_of(3, 9)
    least = least_of(predictor.model, windows)
    assert_equal(
        forecast_windows(predictor.model, windows, 5, LEVELS, max_memory=least),
        forecast_windows(predictor.model, windows, 5, LEVELS),
    )


def test_the_error_names_the_item_and_its_size(predictor):
    window = Window(np.zeros((70, 90), np.float32), 70, item_id="wide")
    with pytest.raises(ConfigError, match=r"item 'wide' \(70 rows of \d+ steps, 5 steps ahead\) takes at least \d+MB"):
        predictor.forecast([Window(np.zeros((1, 8), np.float32), 1), window], 5, max_memory="1MB")


class Watched:
    """A model that records the rows of its batches."""

    def __init__(self, model):
        self.model, self.rows = model, []

    def __getattr__(self, name):
        return getattr(self.model, name)

    def forecast(self, batch, request):
        self.rows.append(len(batch["context"]))
        return self.model.forecast(batch, request)


def test_a_batch_has_fewer_windows_where_the_bound_holds_no_more(predictor):
    windows = [Window(np.random.default_rng(k).standard_normal((1, 90)).astype(np.float32), 1) for k in range(64)]
    watched = Watched(predictor.model)
    request = ForecastRequest(prediction_length=5, quantile_levels=LEVELS, max_memory=1)
    bucket = predictor.model.bucket_length
    steps = -(-min(90, predictor.model.max_context_length) // bucket) * bucket
    kept = bound_of(predictor.model, windows, request, keep_samples=False, dtype=None).kept
    of_twenty = most_bytes(predictor.model.memory_phases(BatchSize(20, 20, 1, steps), request))
    few = forecast_windows(watched, windows, 5, LEVELS, max_memory=Bound(0, kept).total_for(of_twenty))
    assert watched.rows == [20, 20, 20, 4]
    watched.rows.clear()
    assert_equal(few, forecast_windows(watched, windows, 5, LEVELS, max_memory="8GB"))
    assert watched.rows == [64]


def test_a_batch_whose_items_attend_to_each_other_is_not_split(predictor):
    windows, options = windows_of(5, 12), Chronos2Options(cross_learning=True)
    watched = Watched(predictor.model)
    least = least_of(predictor.model, windows, options=options)
    found = forecast_windows(watched, windows, 5, LEVELS, options=options, max_memory=least)
    assert watched.rows == [sum(len(window.context) for window in windows)]
    assert_equal(found, forecast_windows(predictor.model, windows, 5, LEVELS, options=options))


def test_a_batch_takes_windows_as_long_as_they_fit():
    windows = [Window(np.zeros((2, 30), np.float32), 2) for _ in range(5)] + [Window(np.zeros((1, 7), np.float32), 1)]
    batches = plan(windows, 64, 400, 16, False, lambda size: size.rows <= 5)
    assert [batch.size for batch in batches] == [(4, 2, 2, 32), (4, 2, 2, 32), (2, 1, 2, 32), (1, 1, 1, 16)]
    assert plan(windows, 64, 400, 16, True, lambda size: False)[0].size == (11, 6, 11, 32)


def test_results_paths_and_copies_of_weights_are_part_of_the_bound(predictor):
    model, windows = predictor.model, [Window(np.zeros((3, 30), np.float32), 2)]
    request = ForecastRequest(prediction_length=10, quantile_levels=LEVELS, max_memory="1GB", num_samples=50)

    def kept(dtype=None, **fields):
        return bound_of(model, windows, request.changed(**fields), keep_samples=bool(fields), dtype=dtype).kept

    values, weights = 2 * 10, sum(weight.numel() for weight in model.parameters())
    assert kept() == values * (2 * 3 * 4 + 4 + 1)
    assert kept(num_samples=50) - kept() == values * 50 * 4
    assert kept(torch.bfloat16) - kept() == 2 * weights and kept(torch.float32) == kept()
    assert bound_of(model, windows, request.changed(max_memory=None), keep_samples=False, dtype=None) is None
    bound = Bound(10**9, 10**6)
    assert bound.of_batch == SHARE * 10**9 - RESERVE - 10**6
    assert 0 <= bound.total_for(bound.of_batch) - 10**9 <= 2


def test_merged_layers_of_an_adapter_are_part_of_the_bound(zoo):
    plain, model = zoo.built("chronos2"), zoo.built("chronos2")
    adapt(model, AdapterConfig(rank=2), seed=0)
    request = ForecastRequest(prediction_length=4, max_memory="1GB")
    without, with_one = (bound_of(m, [], request, keep_samples=False, dtype=None).kept for m in (plain, model))
    assert without == 0 < with_one


def test_paths_are_those_without_a_bound(zoo):
    model = zoo.shared("toto")
    window = Window(np.random.default_rng(0).standard_normal((2, 24)).cumsum(1).astype(np.float32), 2)
    request = ForecastRequest(prediction_length=9, quantile_levels=LEVELS, num_samples=6)
    plain, bounded = (
        forecast_paths(model, [window], asked, keep_samples=True)
        for asked in (request, request.changed(max_memory="60MB"))
    )
    assert_equal(bounded.samples, plain.samples)


# 100 pieces of 4 MB, every other of which is freed: what is between the others stays with the process, or is given back
PIECES = """
import os, sys
import torch
from foretrain.forecasting.memory import _return_large_pieces
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
if sys.argv[1] == "bounded":
    _return_large_pieces()
torch.ones(10**6)
before = resident()
pieces = [torch.ones(10**6) for _ in range(100)]
del pieces[::2]
print(resident() - before)
"""


@pytest.mark.processes
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_under_a_bound_freed_pieces_are_given_back():
    command = [sys.executable, "-c", PIECES]
    free, bounded = (int(subprocess.check_output([*command, how])) for how in ("free", "bounded"))
    assert bounded < 1.1 * 50 * 4e6 < 1.7 * 50 * 4e6 < free
