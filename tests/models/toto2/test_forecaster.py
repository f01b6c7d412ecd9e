"""Toto 2.0 beyond the model contract (test_base.py): scored steps, masks, learning rates, forecasts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from foretrain.config import build as build_section
from foretrain.data.windows import Window, stack_windows
from foretrain.errors import ConfigError, ModelError
from foretrain.models.request import ForecastRequest
from foretrain.models.toto2.config import LEVELS, Toto2ModelConfig
from foretrain.models.toto2.decode import Toto2Options
from foretrain.models.toto2.forecaster import Toto2
from foretrain.models.toto2.inputs import contiguous_patch_mask
from foretrain.notes import Code

PATCH, CONTEXT, HORIZON = 8, 48, 16
SMALL = {"random_init": True, "patch_size": PATCH, "d_model": 16, "num_heads": 2, "num_layers": 3,
         "layer_group_size": 3, "residual_attn_ratio": 2.0}  # fmt: skip


def model_of(context: int = CONTEXT, **changes) -> Toto2:
    section = build_section(Toto2ModelConfig, {**SMALL, **changes})
    return Toto2.build(section, context_length=context, prediction_length=HORIZON, seed=0)


def window_of(values: np.ndarray, horizon: int = HORIZON, **roles: int) -> Window:
    values = np.atleast_2d(values).astype(np.float32)
    targets = len(values) - sum(roles.values())
    past = roles.get("past", 0)
    return Window(values[:, :-horizon], targets, past, values[:, -horizon:])


def walks(rows: int = 1, steps: int = CONTEXT + HORIZON, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, steps)).cumsum(1)


def batch_of(model: Toto2, *windows: Window, horizon: int = HORIZON):
    return model.collate(stack_windows(windows, horizon))


@torch.no_grad()
def forecast(model: Toto2, batch, horizon: int = HORIZON, levels=LEVELS, **options) -> torch.Tensor:
    request = ForecastRequest(prediction_length=horizon, quantile_levels=levels, options=Toto2Options(**options))
    return model.eval().forecast(batch, request).quantiles


# Scored steps


def test_training_scores_every_patch_and_validation_the_future_alone():
    model = model_of()
    batch = batch_of(model, window_of(walks()))
    patches = CONTEXT // PATCH
    assert model.train().scored(batch).counts.all(-1).squeeze().tolist() == [True] * (patches - 1 + HORIZON // PATCH)
    assert model.native_loss(batch).weight == CONTEXT - PATCH + HORIZON
    assert model.eval().native_loss(batch).weight == HORIZON


def test_covariates_and_missing_steps_are_not_scored():
    values = walks(3)
    values[0, -5:] = np.nan
    model = model_of().train()
    batch = batch_of(model, window_of(values, past=1, known=1))
    assert model.native_loss(batch).weight == CONTEXT - PATCH + HORIZON - 5


def test_nothing_is_scored_before_a_row_has_8_values_nor_from_an_empty_patch():
    values = walks()
    values[0, : PATCH + 3] = np.nan  # 5 values in the second patch: too few to score the third
    values[0, 4 * PATCH : 5 * PATCH] = np.nan
    model = model_of().train()
    scored = model.scored(batch_of(model, window_of(values)))
    assert scored.counts.any(-1).squeeze().tolist() == [False, False, True, False, False, True, True]


def test_a_short_context_is_still_scored_from_its_end():
    values = walks()
    values[0, : CONTEXT - 3] = np.nan
    model = model_of().train()
    assert model.native_loss(batch_of(model, window_of(values))).weight == HORIZON


@torch.no_grad()
def test_a_patch_is_scored_by_values_before_it_only():
    """Quantiles, scale and newest value, also where the first values are sparse."""
    values = walks()
    values[0, 2:PATCH] = np.nan
    changed = values.copy()
    changed[0, 3 * PATCH :] = 1000.0
    model = model_of().train()
    one, other = (model.scored(batch_of(model, window_of(x))) for x in (values, changed))
    assert one.counts.any(-1).squeeze().tolist() == [False] + [True] * 6
    for name in ("quantiles", "loc", "scale", "last"):  # of tokens 1 and 2, which predict patches 2 and 3
        assert torch.equal(getattr(one, name)[:, 1:3], getattr(other, name)[:, 1:3]), name
        assert not torch.equal(getattr(one, name)[:, 3], getattr(other, name)[:, 3]), name


@torch.no_grad()
def test_nothing_is_scored_beside_a_row_whose_scale_depends_on_later_values():
    """Covariates known ahead are exempt."""
    values = walks(2)
    values[1, : 2 * PATCH + 5] = np.nan  # 3 values in the third patch: the first 8 reach into the fourth
    changed = values.copy()
    changed[1, 3 * PATCH :] *= 100
    model = model_of().train()
    one, other = (model.scored(batch_of(model, window_of(x, past=1))) for x in (values, changed))
    assert one.counts.any(-1).squeeze().tolist() == [True, True, False, True, True, True, True]
    same = (one.quantiles == other.quantiles).flatten(2).all(-1).squeeze()
    assert same.tolist() == [True, True, *[False] * 5]
    known = model.scored(batch_of(model, window_of(values, known=1)))
    assert known.counts.all()


@torch.no_grad()
def test_nothing_is_scored_beside_a_gap_that_a_later_value_ends():
    values = walks(2)
    values[1, 2 * PATCH : 4 * PATCH] = np.nan
    ended = values.copy()
    ended[1, 2 * PATCH :] = np.nan
    model = model_of().train()
    one, other = (model.scored(batch_of(model, window_of(x, past=1))) for x in (values, ended))
    same = (one.quantiles == other.quantiles).flatten(2).all(-1).squeeze()
    assert same.tolist() == [True, True, *[False] * 5]
    assert one.counts.any(-1).squeeze().tolist() == [True, True, False, False, True, True, True]
    assert other.counts.any(-1).squeeze().tolist() == [True, True, False, False, False, True, True]


def test_predictions_cover_the_steps_of_the_native_loss():
    model = model_of().train()
    values = walks()
    values[0, 20] = np.nan
    batch = batch_of(model, window_of(values))
    predicted = model.predict(batch)
    loss = model.native_loss(batch)
    assert predicted.observed.sum() == loss.weight
    truth = (predicted.target * predicted.scale + predicted.loc)[0].detach().numpy()
    counts = predicted.observed[0].numpy()
    assert np.allclose(truth[counts], values[0, PATCH:][counts], rtol=1e-4, atol=1e-4)
    assert predicted.last[0, :PATCH].tolist() == [np.float32(values[0, PATCH - 1])] * PATCH
    error = predicted.target.asinh()[..., None] - predicted.quantiles.asinh()
    levels = torch.tensor(LEVELS)
    pinball = torch.maximum(levels * error, (levels - 1) * error).mean(-1)
    assert (pinball * predicted.observed).sum().item() == pytest.approx(loss.total.item(), rel=1e-4)


# Alignment


class Copying(torch.nn.Module):
    """A network that predicts the token's own patch as the next one."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network, self.config = network, network.config

    def forward(self, *arguments, **keywords):
        found = self.network(*arguments, **keywords)
        return replace(found, quantiles=found.scaled.values[..., None].expand_as(found.quantiles))


def noise(count: int, steps: int, seed: int) -> list[Window]:
    return [window_of(row, horizon=PATCH) for row in np.random.default_rng(seed).standard_normal((count, steps))]


def chance() -> float:
    """Loss of a forecast by the quantiles of the noise, in the network's space."""
    z = torch.randn(200_000, generator=torch.Generator().manual_seed(0)).asinh()
    levels = torch.tensor(LEVELS)
    error = z[:, None] - z.quantile(levels)
    return torch.maximum(levels * error, (levels - 1) * error).mean().item()


@torch.no_grad()
def test_copying_the_input_patch_does_not_help_on_white_noise():
    """A model that copies its input scores far worse than chance; if a token were scored on its own patch, far
    better."""
    model = model_of()
    batch = batch_of(model, *noise(64, 40 + PATCH, seed=0), horizon=PATCH)
    model.network = Copying(model.network)
    total, weight = model.train().native_loss(batch)
    assert total / weight > 1.2 * chance()
    scored = model.scored(batch)
    own = scored.quantiles[:, 1:, :, 4] - scored.target.asinh()[:, :-1]  # what would be read of the patch itself
    assert own.abs().mean() / 2 < 0.3 * chance()  # the pinball loss of nine equal quantiles


def train(model: Toto2, steps: int, windows, shifted: bool = True, rate: float = 0.3) -> None:
    from foretrain.models.toto2.model import pinball
    from foretrain.training.optimizer import OptimizerConfig, build_optimizer, set_rates

    config = OptimizerConfig(learning_rate=rate, weight_decay=0.0)
    optimizer = build_optimizer(model.train(), config)
    set_rates(optimizer, rate)
    for step in range(steps):
        torch.manual_seed(step)
        batch = batch_of(model, *windows(step), horizon=PATCH)
        if shifted:
            total, weight = model(batch)
        else:  # the mistake: each token against its own patch
            found = model.scored(batch)
            target = found.target.asinh().to(found.quantiles.dtype)
            total, weight = pinball(found.quantiles[:, 1:], target[:, :-1], found.counts[:, :-1])
        (total / weight).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_white_noise_cannot_be_learnt_unless_targets_are_shifted_wrongly():
    losses = {}
    for shifted in (True, False):
        model = model_of(context=40)
        train(model, 40, lambda step: noise(16, 40 + PATCH, seed=step + 1), shifted)
        batch = batch_of(model, *noise(256, 40 + PATCH, seed=0), horizon=PATCH)
        with torch.no_grad():
            found = model.scored(batch)
            quantiles, target = found.quantiles, found.target.asinh()
            if not shifted:
                quantiles, target = quantiles[:, 1:], target[:, :-1]
            levels = torch.tensor(LEVELS)
            error = target[..., None] - quantiles
            losses[shifted] = torch.maximum(levels * error, (levels - 1) * error).mean().item()
    assert losses[True] > 0.99 * chance()
    assert losses[False] < 0.75 * chance()


def test_a_sine_is_learnt_from_random_weights():
    def sines(seed: int, count: int = 16) -> list[Window]:
        rng = np.random.default_rng(seed)
        period, phase, level, size = (rng.uniform(*span, (count, 1)) for span in ((8, 20), (0, 6.3), (-50, 50), (1, 9)))
        steps = np.arange(CONTEXT + PATCH)
        values = level + size * np.sin(2 * np.pi * steps / period + phase)
        return [window_of(row, horizon=PATCH) for row in values]

    model = model_of()
    train(model, 80, lambda step: sines(step + 1))
    windows = sines(0, 64)
    found = forecast(model, batch_of(model, *windows, horizon=PATCH), PATCH, [0.5])[..., 0].numpy()
    truth = np.concatenate([w.future for w in windows])
    naive = np.concatenate([w.context[:, -1:] for w in windows])
    assert np.abs(found - truth).mean() < 0.3 * np.abs(naive - truth).mean()


# Contiguous patch masking


def test_runs_are_contiguous_of_all_lengths_and_never_at_the_first_patch():
    torch.manual_seed(0)
    runs = contiguous_patch_mask(2000, 10, 0.5, 4)
    assert not runs[:, 0].any()
    lengths = runs.sum(1)
    assert runs.any(1).float().mean() == pytest.approx(0.5, abs=0.05)
    assert set(lengths.tolist()) == {0, 1, 2, 3, 4}
    assert torch.equal(runs.diff(dim=1).sum(1) + runs[:, -1].long() == 2, lengths > 0)
    assert (runs.float().mean(0)[1:] > 0.05).all()  # anywhere
    assert contiguous_patch_mask(5, 1, 1.0, 4).sum() == 0  # nothing to hide
    assert contiguous_patch_mask(500, 3, 1.0, 4).sum(1).max() == 2  # at most what there is


def test_masks_act_in_training_alone_and_the_seed_decides_them():
    model = model_of(cpm_probability=1.0, cpm_patches=3)
    assert model.masking == (1.0, 3)
    batch = batch_of(model, *(window_of(walks(2, seed=k), known=1) for k in range(4)))
    losses = {}
    for training in (True, False):
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            losses.setdefault((training, seed), []).append(model.train(training).native_loss(batch).total.item())
    assert losses[True, 0][0] == losses[True, 0][1] != losses[True, 1][0]
    assert losses[False, 0][0] == losses[False, 1][0]
    assert model_of().masking[0] == 0


def test_hidden_patches_are_scored_but_not_read_and_known_covariates_stay():
    model = model_of(cpm_probability=1.0, cpm_patches=3).train()
    batch = batch_of(model, window_of(walks(2), known=1))
    torch.manual_seed(0)
    seen = model._masked(torch.ones(2, CONTEXT + PATCH, dtype=torch.bool), batch)
    hidden = ~seen.unflatten(1, (-1, PATCH)).all(-1)
    assert 1 <= hidden[0].sum() <= 3 and not hidden[1].any() and not hidden[0, -1]
    torch.manual_seed(0)
    before = model.scored(batch)
    first = int(hidden[0].nonzero()[0])
    batch["context"][0, first * PATCH : (first + 1) * PATCH] += 7
    torch.manual_seed(0)
    after = model.scored(batch)
    assert torch.equal(before.quantiles, after.quantiles)
    assert not torch.equal(before.target[0, first - 1], after.target[0, first - 1])
    assert torch.equal(before.counts, after.counts) and before.counts[0, first - 1].all()


# Learning rates


def test_learning_rates_have_the_factors_of_the_recorded_adam(case, recorded):
    folder = recorded / ("like4m" if case.network.config.per_dim_scale else "other")
    roles = Toto2.load(folder).parameter_groups()
    assert {name.removeprefix("network.") for name in roles} == case.facts["adam_lr_factor"].keys()
    for name, factor in case.facts["adam_lr_factor"].items():
        role = roles[f"network.{name}"]
        assert role.lr_factor == pytest.approx(factor, rel=1e-12), name
        kind = case.facts["mup_type"][name]
        assert (role.role == "vector") == (kind in ("bias", "norm")), name
        assert (role.role == "head") == (name.startswith("output_head") and role.role != "vector"), name


def test_gradients_come_near_adams_default_eps():
    """Hence the README asks for a smaller one."""
    section = build_section(Toto2ModelConfig, {"random_init": True, "preset": "4m"})
    model = Toto2.build(section, context_length=256, prediction_length=32, seed=0).train()
    total, weight = model(batch_of(model, window_of(walks(4, 256 + 32), 32), horizon=32))
    (total / weight).backward()
    sizes = {name: p.grad.square().mean().sqrt().item() for name, p in model.named_parameters() if p.grad is not None}
    assert 1e-9 < sizes["network.transformer.layers.0.ffn.fc2.weight"] < 1e-6
    assert sum(p.grad.square().sum() for p in model.parameters() if p.grad is not None) < 0.01**2


# Forecasts


def test_forecasts_ascend_over_levels_and_levels_between_are_interpolated(logged_notes):
    model = model_of()
    batch = batch_of(model, window_of(walks(2)))
    found = forecast(model, batch)
    assert found.shape == (2, HORIZON, 9) and (found.diff(dim=-1) >= 0).all()
    between = forecast(model, batch, levels=(0.5, 0.25))
    torch.testing.assert_close(between[..., 0], found[..., 4])
    torch.testing.assert_close(between[..., 1], (found[..., 1] + found[..., 2]) / 2)
    outside = forecast(model, batch, levels=(0.99,))
    (note,) = logged_notes()
    assert (note.code, note.counts) == (Code.LEVEL_OUTSIDE_TRAINED, {"level": 0.99})
    torch.testing.assert_close(outside[..., 0], found[..., -1])


def test_a_shorter_forecast_is_the_start_of_a_longer_one_of_equally_many_patches():
    model = model_of()
    batch = batch_of(model, window_of(walks(2)))
    assert torch.equal(forecast(model, batch, 11), forecast(model, batch, 16)[:, :11])
    torch.testing.assert_close(forecast(model, batch, 8), forecast(model, batch, 16)[:, :8], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block", [None, 8, 24])
def test_horizons_beyond_the_context_length_are_forecast(block):
    model = model_of()
    found = forecast(model, batch_of(model, window_of(walks())), 5 * CONTEXT + 3, decode_block_size=block)
    assert found.shape == (1, 5 * CONTEXT + 3, 9) and found.isfinite().all()


@pytest.mark.parametrize("block", [8, 16])
def test_decoding_by_blocks_equals_forecasts_of_contexts_extended_by_the_medians(block):
    """The KV cache does not change results: positions keep their centre, and statistics continue the context's."""
    values = walks(3)
    values[0, :9] = np.nan
    values[1, 10:30] = np.nan
    values[2, CONTEXT - 2 : CONTEXT] = np.nan
    model, horizon = model_of(), 4 * PATCH
    window = window_of(values, past=1)
    found = forecast(model, batch_of(model, window, horizon=horizon), horizon, decode_block_size=block)
    context, parts = values[:, :CONTEXT], []
    for _ in range(0, horizon, block):
        extended = replace(window, context=context.astype(np.float32), future=None)
        longer = model_of(context=2 * CONTEXT)
        all_rows = replace(extended, num_targets=3, num_past=0)  # past covariates are forecast in between as well
        parts.append(forecast(longer, batch_of(longer, all_rows, horizon=block), block))
        context = np.concatenate((context, parts[-1][..., 4].numpy()), axis=1)
    torch.testing.assert_close(found, torch.cat(parts, dim=1)[:2], rtol=1e-4, atol=1e-4)


def test_a_block_that_is_no_whole_number_of_patches_is_refused():
    model = model_of()
    with pytest.raises(ConfigError, match="patches of 8 steps: choose 8 or 16"):
        forecast(model, batch_of(model, window_of(walks())), decode_block_size=10)
    with pytest.raises(ConfigError, match="patches of 8 steps: choose 8\\."):
        forecast(model, batch_of(model, window_of(walks())), decode_block_size=7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decode_block_size": 0}, "decode_block_size is 0"),
        ({"scaler_fallback_min_obs": -1}, "scaler_fallback_min_obs is -1"),
        ({"quantile_real_cap_k": -1.0}, "quantile_real_cap_k is -1.0"),
        ({"imputation": "mean"}, "imputation is 'mean', choose none, ffill or linear"),
    ],
)
def test_impossible_options_say_what_is_wrong(options, message):
    with pytest.raises(ConfigError, match=message):
        Toto2Options(**options)


def test_quantiles_stay_within_a_number_of_deviations_of_the_context():
    values = walks()
    model = model_of()
    with torch.no_grad():
        model.network.output_head.param_projection.proj.skip_proj.weight.mul_(100)
    batch = batch_of(model, window_of(values))
    free, capped = (forecast(model, batch, quantile_real_cap_k=k) for k in (0.0, 0.01))
    seen = values[0, :CONTEXT]
    margin = 0.01 * np.std(seen, ddof=1)
    low, high = seen.min() - margin, seen.max() + margin
    assert free.min() < low - 1 and free.max() > high + 1
    torch.testing.assert_close(capped, free.clamp(low, high))


def test_every_option_changes_a_forecast():
    values = walks(2)
    values[0, : 2 * PATCH - 3] = np.nan  # three values in the second patch
    values[0, 30:33] = np.nan
    model = model_of()
    batch = batch_of(model, window_of(values, known=1), horizon=24)
    plain = forecast(model, batch, 24)
    for options in (
        {"decode_block_size": 8},
        {"scaler_fallback_min_obs": 0},
        {"imputation": "ffill"},
        {"imputation": "linear"},
        {"compat": True},
    ):
        assert not torch.allclose(forecast(model, batch, 24, **options), plain, atol=1e-3), options


def test_a_filled_gap_forecasts_as_the_same_values_observed():
    values = walks(2)
    values[:, 17:25] = values[:, 16:17]
    gap = values.copy()
    gap[0, 17:25] = np.nan
    model = model_of()
    whole, filled = (forecast(model, batch_of(model, window_of(x)), imputation="ffill") for x in (values, gap))
    torch.testing.assert_close(filled, whole)
    assert not torch.allclose(forecast(model, batch_of(model, window_of(gap))), whole, atol=1e-3)


def test_a_context_that_ends_in_missing_patches_is_forecast_from_its_observed_part():
    """As if it ended earlier and the horizon were longer. Upstream counts the last patch as observed zeros."""
    values = walks(2) + 100
    late = values.copy()
    late[:, CONTEXT - 2 * PATCH : CONTEXT] = np.nan
    model = model_of()
    found = forecast(model, batch_of(model, window_of(late)))
    early = window_of(values[:, : CONTEXT - 2 * PATCH + HORIZON])
    longer = forecast(model, batch_of(model, early), HORIZON + 2 * PATCH)
    torch.testing.assert_close(found, longer[:, 2 * PATCH :], rtol=1e-4, atol=1e-4)
    zeros = forecast(model, batch_of(model, window_of(late)), compat=True)
    assert (zeros - found).abs().max() > 10


def test_known_covariates_reach_the_patch_they_are_known_for():
    model, horizon = model_of(), PATCH
    window = window_of(walks(2, CONTEXT + PATCH), horizon, known=1)
    other = replace(window, future=window.future + np.array([[0], [5]], np.float32))
    for compat in (False, True):
        one, two = (
            forecast(model, batch_of(model, w, horizon=horizon), horizon, compat=compat) for w in (window, other)
        )
        assert torch.equal(one, two) == compat  # upstream reads them at their own time, which is too late


def test_a_variate_without_values_does_not_affect_the_others():
    values = walks(2)
    alone = values[:1]
    values[1] = np.nan
    model = model_of()
    both, one = (forecast(model, batch_of(model, window_of(x))) for x in (values, alone))
    torch.testing.assert_close(both[:1], one, rtol=1e-5, atol=1e-5)
    assert both[1].abs().max() < 1e-3  # it has no values


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_forecasts_of_any_size_are_finite_and_near_their_context(scale):
    values = walks(3) * scale
    values[1] = 0.0
    values[1, 5] = 1e4 * scale  # zeros but for one value
    values[2] = 3.0
    model = model_of()
    found = forecast(model, batch_of(model, window_of(values)))
    assert found.isfinite().all()
    assert (found[2] - 3).abs().max() < 0.01 + 1e-3


def test_compat_forecasts_are_the_recorded_ones(case, apart):
    """For the recorded window whose missing values are zeros, through windows and batches."""
    model = Toto2(case.network)
    values = np.where(case.inputs["target_mask"][1], case.inputs["target"][1], np.nan).astype(np.float32)
    known = case.inputs["known_dynamic"][1].numpy()
    assert case.inputs["known_dynamic_mask"][1].all()
    ahead = known.shape[1] - values.shape[1]
    for name, block in (("none", None), ("block1", 8), ("block2", 16), ("known_none", None), ("known_block2", 16)):
        context, future = values, np.full((4, ahead), np.nan, np.float32)
        if name.startswith("known"):
            context = np.concatenate((context, known[:, :-ahead]))
            future = np.concatenate((future, known[:, -ahead:]))
        batch = batch_of(model, Window(context, 4, 0, future), horizon=ahead)
        found = forecast(
            model, batch, ahead, compat=True, decode_block_size=block, scaler_fallback_min_obs=0, quantile_real_cap_k=0
        )
        assert apart(found.permute(2, 0, 1), case.expected[f"forecast.{name}"][:, 1]) < 2e-6, name


# Building and loading


def test_a_known_hub_id_needs_no_download_on_meta():
    section = build_section(Toto2ModelConfig, {"model_id": "Datadog/Toto-2.0-2.5B"})
    model = Toto2.build(section, context_length=512, prediction_length=64, seed=0, device="meta")
    assert sum(p.numel() for p in model.parameters()) == 2_454_281_792 and model.max_context_length == 4096


def test_a_run_starts_from_a_release(tmp_path):
    model = model_of()
    model.save_release(tmp_path)
    section = build_section(Toto2ModelConfig, {"model_id": str(tmp_path), "cpm_probability": 0.25})
    again = Toto2.build(section, context_length=4 * CONTEXT, prediction_length=8, seed=1)
    assert again.max_context_length == 4 * CONTEXT and again.masking == (0.25, 8) and again.parents["model"]
    for one, other in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert Toto2.load(tmp_path).max_context_length == CONTEXT


@pytest.mark.parametrize("keys", [{}, {"model_id": "x", "random_init": True}])
def test_a_section_names_a_release_or_random_initialisation_but_not_both(keys):
    section = build_section(Toto2ModelConfig, keys)
    with pytest.raises(ConfigError, match="give either model_id"):
        Toto2.build(section, context_length=8, prediction_length=8, seed=0)


def test_other_folders_and_parts_are_refused(recorded, tmp_path):
    with pytest.raises(ModelError, match="a Toto 2\\.0 model has no tokenizer"):
        Toto2.load(recorded / "like4m", tokenizer="x")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="this is not a Toto 2\\.0 model"):
        Toto2.load(tmp_path)
