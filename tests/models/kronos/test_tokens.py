"""The token cache of a run that trains in epochs: the same tokens, computed once."""

from __future__ import annotations

import os
import resource

import numpy as np
import pytest
import torch

from foretrain.config import build as build_section
from foretrain.data.config import DataConfig
from foretrain.data.source import TrainingSource
from foretrain.data.windows import Windows
from foretrain.errors import ConfigError, ModelError
from foretrain.models import family
from foretrain.models.kronos.forecaster import Kronos
from foretrain.models.kronos.tokens import FILE

DATA = {
    "corpora": [{"synthetic": {"kind": "ohlcv", "num_series": 3, "length": 90, "seed": 1}}],
    "context_length": 16,
    "prediction_length": 5,
    "min_context": 6,
    "sampling": "epoch",
    "with_times": True,
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    chosen = family("kronos_tokenizer")
    section = build_section(
        chosen.config(), {"random_init": True, "d_model": 16, "n_heads": 2, "ff_dim": 16, "s1_bits": 4, "s2_bits": 4}
    )
    chosen.build(section, context_length=16, prediction_length=5, seed=0).save_release(folder)
    return str(folder)


def predictor(tokenizer: str, **changes) -> Kronos:
    section = {"random_init": True, "d_model": 16, "n_heads": 2, "ff_dim": 16, "n_layers": 1, "tokenizer": tokenizer}
    chosen = family("kronos")
    model = chosen.build(
        build_section(chosen.config(), {**section, **changes}), context_length=16, prediction_length=5, seed=0
    )
    assert isinstance(model, Kronos)
    return model.eval()


def source(**changes) -> TrainingSource:
    return TrainingSource(build_section(DataConfig, {**DATA, **changes}), seed=3)


def tokens(model: Kronos, windows: Windows) -> list[torch.Tensor]:
    *pair, observed = model.tokens(model.collate(windows))
    return [ids[observed] for ids in pair]


def test_cached_tokens_equal_the_tokenizers_in_every_epoch(tokenizer, tmp_path):
    plain, cached, data = predictor(tokenizer), predictor(tokenizer, token_cache=True), source()
    cached.prepare(data, tmp_path)
    assert cached.cached_tokens is not None and len(cached.cached_tokens) == data.epoch_length
    for first in (0, 7, data.epoch_length + 2):  # ragged windows among them: min_context is below context_length
        windows = data.windows(first, 5)
        assert all(torch.equal(a, b) for a, b in zip(tokens(plain, windows), tokens(cached, windows), strict=True))
        assert torch.equal(plain(plain.collate(windows)).total, cached(cached.collate(windows)).total)


def test_cached_tokens_fit_micro_batches_of_any_length_and_padding_windows_have_none(tokenizer, tmp_path):
    plain, cached = predictor(tokenizer), predictor(tokenizer, token_cache=True)
    data = source(min_prediction_length=2, stride=2)
    cached.prepare(data, tmp_path)
    buckets = data.in_buckets((8, 12), (3,), 200)
    filled = 0
    for number in range(buckets.epoch_length):
        windows = buckets.windows(number)
        filled += windows.num_padding_windows
        assert all(torch.equal(a, b) for a, b in zip(tokens(plain, windows), tokens(cached, windows), strict=True))
        assert torch.equal(plain(plain.collate(windows)).total, cached(cached.collate(windows)).total)
    assert filled
    blank, first = cached.collate(buckets.padding_batch(0)), buckets.buckets[0]
    assert blank["tokens"].shape == (first.micro_batch, first.context_length + first.prediction_length, 2)
    assert cached(blank).weight == 0


def test_a_resumed_run_reads_what_was_written(tokenizer, tmp_path):
    model, data = predictor(tokenizer, token_cache=True), source()
    model.prepare(data, tmp_path)
    written = (tmp_path / FILE).stat()
    (tmp_path / f".tmp-{FILE}").mkdir()  # left by a kill
    again = predictor(tokenizer, token_cache=True)
    again.prepare(source(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert (tmp_path / FILE).stat().st_mtime_ns == written.st_mtime_ns
    assert torch.equal(model.collate(data.windows(0, 4))["tokens"], again.collate(data.windows(0, 4))["tokens"])


@pytest.mark.parametrize("damage", ["other data", "other clip", "other scale", "torn file"])
def test_a_damaged_cache_or_one_of_other_inputs_is_recreated(tokenizer, tmp_path, damage):
    predictor(tokenizer, token_cache=True).prepare(source(), tmp_path)
    if damage == "torn file":
        os.truncate(tmp_path / FILE, 100)
    before = (tmp_path / FILE).read_bytes()
    changes = {"other clip": {"clip": 0.5}, "other scale": {"scale_floor": "relative"}}.get(damage, {})
    model = predictor(tokenizer, token_cache=True, **changes)
    data = source(stride=2) if damage == "other data" else source()
    model.prepare(data, tmp_path)
    assert (tmp_path / FILE).read_bytes() != before
    assert model.cached_tokens is not None and len(model.cached_tokens) == data.epoch_length


def test_windows_drawn_at_random_are_refused(tokenizer, tmp_path):
    with pytest.raises(ConfigError, match=r"token_cache.*epoch"):
        predictor(tokenizer, token_cache=True).prepare(source(sampling="random"), tmp_path)


def test_a_window_that_was_not_tokenised_is_an_error(tokenizer, tmp_path):
    model = predictor(tokenizer, token_cache=True)
    model.prepare(source(), tmp_path)
    assert model.cached_tokens is not None
    with pytest.raises(ModelError, match="not in the token cache"):
        model.cached_tokens.look_up(np.array([1], np.uint64), 21)


def test_a_full_disk_is_reported_as_such(tokenizer, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            predictor(tokenizer, token_cache=True).prepare(source(), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / FILE).exists()
