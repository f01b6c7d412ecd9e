"""Autoregressive decoding beyond the native horizon: equal to a plain reference, however it is split into passes."""

from __future__ import annotations

import os
from copy import deepcopy
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foretrain.errors import ConfigError
from foretrain.models.chronos2 import decode
from foretrain.models.chronos2.decode import Chronos2Options, DecodedRows, forecast, repeat
from foretrain.models.chronos2.layout import arrange
from foretrain.models.chronos2.model import Chronos2Network
from foretrain.nn.quantiles import probability_mass, weighted_quantiles
from foretrain.notes import Code

GOLDEN = Path(os.environ.get("FORETRAIN_GOLDEN_DIR") or Path(__file__).parents[2] / "golden") / "chronos2"
DECILES = [0.1 * k for k in range(1, 10)]


@pytest.fixture(scope="module")
def network():
    return Chronos2Network.read_release(GOLDEN / "model").eval()


def batch(group_ids, steps=48, horizon=70, missing=True, seed=0):
    """Arranged rows with covariates known ahead for every third row (partly missing), and the rows' ids."""
    rng = np.random.default_rng(seed)
    order, layout = arrange(np.asarray(group_ids))
    ids = np.asarray(group_ids)[np.arange(len(group_ids)) if order is None else order]
    context = torch.from_numpy(rng.standard_normal((len(ids), steps)).cumsum(1).astype(np.float32))
    if missing:
        context[0, :20] = torch.nan
        context[-1, 30:33] = torch.nan
    covariates = torch.full((len(ids), horizon), torch.nan)
    covariates[::3] = torch.from_numpy(rng.standard_normal((len(covariates[::3]), horizon)).astype(np.float32))
    covariates[0, 5:9] = torch.nan
    rows = DecodedRows(context, layout, covariates=covariates)
    if missing:
        observed = ~context.isnan()
        rows = replace(rows, observed=observed, patches_observed=observed.unflatten(-1, (-1, 8)).any(-1))
    return rows, torch.from_numpy(ids)


def plain(network, rows, ids, horizon, levels, unrolled, patches):
    """The same forecast from the network's public forward, one branch at a time, all rows, all levels."""
    trained, size = list(network.config.quantiles), network.config.patch_size
    picked = [min(range(len(trained)), key=lambda i: abs(trained[i] - u)) for u in unrolled]
    weights = torch.outer(
        torch.from_numpy(probability_mass(unrolled)), torch.from_numpy(probability_mass(trained))
    ).flatten()
    contexts = [rows.context] * len(unrolled)
    done, results, latest = 0, [], None
    while done < horizon:
        count = min(-(-(horizon - done) // size), patches)
        ahead = rows.covariates[:, done : done + count * size]
        if latest is not None:
            known = rows.covariates[:, done - latest.shape[-1] : done]
            for b, column in enumerate(picked):
                generated = torch.where(known.isnan(), latest[:, column], known)
                contexts[b] = torch.cat((contexts[b], generated), 1)[:, -network.config.context_length :]
        outputs = [
            network(c, group_ids=ids, future_covariates=ahead, num_output_patches=count).quantile_preds
            for c in (contexts if latest is not None else contexts[:1])
        ]
        if latest is None:
            latest = outputs[0]
        else:
            samples = torch.stack(outputs, 1).flatten(1, 2).transpose(1, 2)
            latest = weighted_quantiles(samples, weights / weights.sum(), trained).transpose(1, 2)
        results.append(latest)
        done += latest.shape[-1]
    whole = torch.cat(results, -1)[..., :horizon]
    return torch.stack([whole[:, trained.index(level)] for level in levels], -1)


def assert_close(a, b, tolerance=5e-5):
    assert a.shape == b.shape
    assert float(((a - b).abs() / (b.abs() + 1)).max()) <= tolerance


GROUPS = {
    "single-variate": [0, 1, 2, 3, 4],
    "equal groups": [0, 0, 1, 1, 2, 2],
    "mixed": [0, 1, 1, 2, 2, 2, 3, 3, 3, 3],
    "many sizes": [g for g in range(9) for _ in range(g + 1)],
}


@pytest.mark.parametrize("groups", list(GROUPS))
@pytest.mark.parametrize(("unrolled", "patches"), [([0.1, 0.5, 0.9], 4), ([0.2, 0.8], 2)])
def test_decoding_equals_one_branch_at_a_time(network, groups, unrolled, patches):
    rows, ids = batch(GROUPS[groups])
    levels = [0.1, 0.5, 0.99]
    options = Chronos2Options(unrolled_quantiles=tuple(unrolled), max_output_patches=patches)
    with torch.inference_mode():
        found = forecast(network, rows, 70, levels, options)
        assert_close(found, plain(network, rows, ids, 70, levels, unrolled, patches))


@pytest.mark.parametrize("limit", [1, 7, 20, 10_000])
def test_the_row_limit_of_a_pass_changes_nothing(network, monkeypatch, limit):
    rows, _ = batch(GROUPS["many sizes"])
    with torch.inference_mode():
        expected = forecast(network, rows, 70, DECILES)
        monkeypatch.setattr(decode, "MAX_BRANCH_ROWS", limit)
        assert_close(forecast(network, rows, 70, DECILES), expected)


def test_passes_have_no_more_rows_than_the_limit_or_the_batch(network, monkeypatch):
    rows, _ = batch(GROUPS["equal groups"])
    seen = []
    handle = network.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    monkeypatch.setattr(decode, "MAX_BRANCH_ROWS", 20)
    with torch.inference_mode():
        forecast(network, rows, 70, [0.5])
    handle.remove()
    assert seen == [6] + [18, 18, 18] * 2  # 9 branches of 6 rows, three at a time, in two rounds


@pytest.mark.parametrize("horizon", [8, 30, 70])
def test_only_wanted_rows_are_returned_and_in_their_order(network, horizon):
    rows, _ = batch(GROUPS["mixed"])
    wanted = torch.tensor([7, 0, 3])
    with torch.inference_mode():
        every = forecast(network, rows, horizon, [0.5, 0.1])
        some = forecast(network, replace(rows, wanted=wanted), horizon, [0.5, 0.1])
    assert_close(some, every[wanted])


def test_other_groups_do_not_change_a_forecast(network):
    rows, ids = batch(GROUPS["mixed"])
    changed = rows.context.clone()
    changed[ids == 2] *= 5
    with torch.inference_mode():
        a, b = (forecast(network, replace(rows, context=c), 70, [0.5]) for c in (rows.context, changed))
    assert_close(b[ids != 2], a[ids != 2])
    assert not torch.allclose(a[ids == 2], b[ids == 2])


def test_a_context_length_that_is_no_multiple_of_the_patch_uses_the_newest_steps():
    config = replace(Chronos2Network.read_release(GOLDEN / "model").config, context_length=52, max_output_patches=2)
    network = Chronos2Network.read_release(GOLDEN / "model", config).eval()
    rows, ids = batch(GROUPS["mixed"], steps=52, missing=False)
    padded = torch.nn.functional.pad(rows.context, (4, 0), value=torch.nan)
    ready = DecodedRows(padded, rows.layout, ~padded.isnan(), None, rows.covariates)
    with torch.inference_mode():
        found = forecast(network, ready, 70, [0.1, 0.5], Chronos2Options(unrolled_quantiles=(0.2, 0.8)))
        assert_close(found, plain(network, rows, ids, 70, [0.1, 0.5], [0.2, 0.8], 2))


@pytest.mark.parametrize("horizon", [8, 70])
@pytest.mark.parametrize("groups", list(GROUPS))
def test_a_forecast_never_waits_for_its_device(network, groups, horizon):
    """Tensors on the meta device have no values: code that reads one, or mixes devices, fails."""
    rows, _ = batch(GROUPS[groups])
    rows = DecodedRows(**{f.name: _to_meta(getattr(rows, f.name)) for f in fields(rows)})
    with torch.inference_mode():
        found = forecast(deepcopy(network).to("meta"), rows, horizon, [0.1, 0.35])
    assert found.device.type == "meta" and found.shape == (len(GROUPS[groups]), horizon, 2)


def _to_meta(value):
    return None if value is None else value.to(torch.device("meta"))


def test_copies_of_a_layout_keep_their_rows_apart():
    _, layout = arrange(np.array(GROUPS["many sizes"]))
    repeated, order = repeat(layout, 3)
    assert repeated.rows == 3 * layout.rows
    assert sorted(order.tolist()) == list(range(3 * layout.rows))
    first = repeated.singles
    for bucket, single in zip(repeated.buckets, layout.buckets, strict=True):
        copies = order[first : first + bucket.rows].view(3, -1) // layout.rows
        assert torch.equal(copies, torch.arange(3)[:, None].expand_as(copies))
        assert (bucket.count, bucket.size) == (3 * single.count, single.size)
        first += bucket.rows


@pytest.mark.parametrize(
    "options",
    [
        Chronos2Options(unrolled_quantiles=(0.15,)),
        Chronos2Options(unrolled_quantiles=()),
        Chronos2Options(max_output_patches=0),
        Chronos2Options(limit_prediction_length=True),
    ],
)
def test_impossible_options_are_refused(network, options):
    rows, _ = batch(GROUPS["single-variate"])
    with pytest.raises(ConfigError):
        forecast(network, rows, 70, [0.5], options)


def test_a_horizon_or_level_beyond_training_is_reported(network, logged_notes):
    rows, _ = batch(GROUPS["single-variate"])
    with torch.inference_mode():
        forecast(network, rows, 70, [0.5])
        (note,) = logged_notes()
        assert (note.code, note.counts) == (Code.HORIZON_UNROLLED, {"prediction_length": 70, "trained": 32})
        low = forecast(network, rows, 8, [0.001, 0.01])
        (note,) = logged_notes()
        assert (note.code, note.counts) == (Code.LEVEL_OUTSIDE_TRAINED, {"level": 0.001})
    assert torch.equal(low[..., 0], low[..., 1])
