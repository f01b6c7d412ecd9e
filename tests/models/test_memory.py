"""A bound on memory: it changes no forecast, and what a family says that its forecasts take is an upper limit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.live_bytes import LiveBytes
from tests.models.zoo import CONTEXT, HORIZON, ZOO, kinds_of, windows_of
from tests.tolerance import WIDE, InFloat64

from foretrain.config import build as build_section
from foretrain.data.windows import Window, stack_windows
from foretrain.errors import ConfigError
from foretrain.models import family, resolved
from foretrain.models.memory import (
    BatchSize,
    Phase,
    Piece,
    in_words,
    least_bytes,
    memory_bytes,
    memory_size,
    most_bytes,
    units_at_once,
)
from foretrain.models.request import ForecastRequest

LEVELS = (0.1, 0.25, 0.5, 0.9)
FAR = 4 * HORIZON  # several blocks and rounds of every family


def request_for(name, horizon, options):
    samples = 5 if ZOO[name].samples else None
    asked = ForecastRequest(prediction_length=horizon, quantile_levels=LEVELS, num_samples=samples, options=options)
    return resolved(asked, name)


def size_of(model, rows, joint):
    counts = np.bincount(rows.window)
    steps = -(-rows.context.shape[1] // model.bucket_length) * model.bucket_length
    return BatchSize(len(rows.window), len(counts), int(len(rows.window) if joint else counts.max()), steps)


CASES = [
    ("chronos2", {}), ("chronos2", {"max_output_patches": 2}), ("chronos2", {"cross_learning": True}),
    ("chronos2", {"symmetric": True, "max_output_patches": 4}), ("chronos2", {"nested": True}),
    ("kronos", {}), ("kronos", {"mode": "rolling"}), ("linear", {}), ("toto", {}),
    ("toto", {"exact_first_patch": False}), ("toto2", {}), ("toto2", {"decode_block_size": 8}),
]  # fmt: skip
NAMED = [f"{name} {options or ''}".strip() for name, options in CASES]


@pytest.mark.parametrize(("name", "options"), CASES, ids=NAMED)
def test_the_smallest_pieces_change_no_forecast(zoo, name, options):
    """In float64, where another order of sums shows in the twelfth digit only."""
    model = zoo.built(name).eval().double()
    if name == "kronos":
        model.tokenizer.double()
    for kind in ["ragged"] if options else [kind for which, kind in kinds_of(forecasts=True) if which == name]:
        windows = windows_of(name, kind)
        if options:  # a longer horizon, without values known ahead
            windows = [replace(w, future=None, context_times=None, future_times=None) for w in windows]
        request = request_for(name, FAR if options else HORIZON, options)
        rows = stack_windows(windows, request.prediction_length, CONTEXT)
        least = least_bytes(model.memory_phases(size_of(model, rows, request.mixes_items), request))
        with torch.inference_mode(), InFloat64():
            whole = model.forecast(model.collate(rows), request)
            pieces = model.forecast(model.collate(rows), request.changed(max_memory=least))
        for found, other in ((pieces.quantiles, whole.quantiles), (pieces.samples, whole.samples)):
            assert (found is None) == (other is None)
            if found is not None:
                assert torch.equal(found.isnan(), other.isnan())
                away = ((found - other).abs() / (other.abs() + 1)).nan_to_num().max()
                assert found.shape == other.shape and away < WIDE, f"{kind}: {away:.2g} away"


# Sizes at which activations, caches and paths outweigh tables and masks.
SECTIONS = {
    "chronos2": {"d_model": 32, "d_kv": 8, "d_ff": 128, "num_layers": 2, "num_heads": 4, "patch_size": 8,
                 "random_init": True},
    "toto": {"patch_size": 8, "embed_dim": 32, "num_layers": 3, "num_heads": 4, "mlp_hidden_dim": 64, "dropout": 0.0,
             "spacewise_every_n_layers": 3, "k_components": 4, "random_init": True},
    "toto2": {"patch_size": 8, "d_model": 32, "num_heads": 4, "num_layers": 3, "d_ff": 64, "layer_group_size": 3,
              "random_init": True},
}  # fmt: skip
_SAME = ("nested", "exact_first_patch")  # options whose passes are those of another case
LARGE = [(name, options) for name, options in CASES if name in SECTIONS and not options.keys() & set(_SAME)]


@pytest.mark.parametrize(("name", "options"), LARGE, ids=[f"{name} {options or ''}".strip() for name, options in LARGE])
def test_tensors_take_no_more_than_the_phases_say(name, options):
    chosen, steps, horizon = family(name), 280, 32
    section = build_section(chosen.config(), {"family": name, **SECTIONS[name]})
    model = chosen.build(section, context_length=steps, prediction_length=horizon, seed=0).eval()
    values = np.random.default_rng(0).standard_normal((2, 12, steps)).cumsum(2).astype(np.float32)
    values[0, :, :20] = np.nan
    rows = stack_windows([Window(item, 12, key=k) for k, item in enumerate(values)], horizon, steps)
    request = request_for(name, horizon, options)
    assert_within(model, rows, request)


def test_candles_take_no_more_than_the_phases_say(zoo):
    model = zoo.built("kronos", max_context=400).eval()
    rng = np.random.default_rng(0)
    close = 100 + rng.standard_normal((4, 300)).cumsum(1)
    bars = np.stack([close, close + 1, close - 1, close], 1).astype(np.float32)
    columns = ("open", "high", "low", "close")
    rows = stack_windows([Window(x, 4, names=columns, key=k) for k, x in enumerate(bars)], 24, 300)
    assert_within(model, rows, request_for("kronos", 24, {}).changed(num_samples=20))


def test_candles_that_are_drawn_jointly_take_no_bound(zoo):
    request = request_for("kronos", HORIZON, {"compat": True}).changed(max_memory="2GB")
    with pytest.raises(ConfigError, match="drawn jointly"):
        zoo.shared("kronos").memory_phases(BatchSize(6, 1, 6, 24), request)


def assert_within(model, rows, request):
    """With the smallest and with the largest pieces tensors take at most what the phases say; else they take more."""
    phases = model.memory_phases(size_of(model, rows, request.mixes_items), request)
    least, most = least_bytes(phases), most_bytes(phases)
    taken = {bound: peak_of(model, rows, request.changed(max_memory=bound)) for bound in (None, least, most)}
    assert taken[least] <= least and taken[most] <= most
    assert taken[least] < 0.7 * taken[None]
    assert least < 4 * taken[least]  # the limit is of use


def peak_of(model, rows, request):
    with LiveBytes() as live, torch.inference_mode():
        model.forecast(model.collate(rows), request)
    return live.peak


# The arithmetic


def test_pieces_grow_in_order_and_a_kind_in_several_phases_keeps_each():
    phases = [Phase(100, {"a": Piece(10, 2, 5), "b": Piece(1, 1, 1000)}), Phase(50, {"a": Piece(30, 1, 9)})]
    assert (least_bytes(phases), most_bytes(phases)) == (121, 1150)
    assert units_at_once(phases, 121) == {"a": 2, "b": 1}
    assert units_at_once(phases, 145) == {"a": 3, "b": 5}  # a may be 4 in the first phase
    assert units_at_once(phases, 10**6) == {"a": 5, "b": 1000}
    with pytest.raises(ConfigError, match="takes at least 1MB"):
        units_at_once(phases, 120)


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2 * 10**9), ("2", 2 * 10**9), ("1.5", 15 * 10**8), ("800MB", 8 * 10**8), ("800 MB", 8 * 10**8),
     ("2GiB", 2**31), ("64kB", 64_000), ("1T", 10**12)],
)  # fmt: skip
def test_sizes_are_read_as_they_are_written(text, size):
    assert memory_size(text) == memory_bytes(text) == size


@pytest.mark.parametrize(
    "value", ["", "much", "0", "-2GB", "2GBs", "2B", "1e9", "nan", "inf", "GB", "2 G B", "0.0000000001", "99999999TB"]
)
def test_other_text_is_refused(value):
    with pytest.raises(ConfigError, match=r"max_memory is .*such as 2GB"):
        memory_bytes(value)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, [], 2**70])
def test_other_numbers_are_refused(value):
    with pytest.raises(ConfigError, match=r"max_memory is .*bytes"):
        ForecastRequest(prediction_length=1, max_memory=value)


def test_a_size_in_words_is_no_smaller_and_is_read_again():
    for count in (1, 999_999, 10**6, 123_456_789, 999_999_999, 10**9, 2 * 10**9 + 1, 123_456_789_012):
        assert count <= memory_size(in_words(count)) <= 1.01 * count + 10**6
