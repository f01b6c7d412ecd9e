"""Toto 1.0 as a forecasting model: what is scored, what upstream_compat changes, and alignment of patches."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from foretrain.config import build as build_section
from foretrain.data.windows import Window, stack_windows
from foretrain.errors import ConfigError, ModelError
from foretrain.models import family
from foretrain.models.base import Batch, Loss
from foretrain.models.objective import LossConfig, Objective, objective_for
from foretrain.models.request import ForecastRequest
from foretrain.models.toto import loss as losses
from foretrain.models.toto.config import TotoModelConfig
from foretrain.models.toto.crps import crps
from foretrain.models.toto.forecaster import ScoredPositions, Toto
from foretrain.models.toto.options import TotoOptions

PATCH, CONTEXT, HORIZON = 4, 16, 8
SECTION = {"random_init": True, "patch_size": PATCH, "embed_dim": 16, "num_layers": 2, "num_heads": 2,
           "mlp_hidden_dim": 32, "dropout": 0.0, "spacewise_every_n_layers": 2, "k_components": 3}  # fmt: skip


def model_of(seed: int = 0, context: int = CONTEXT, **changes) -> Toto:
    section = build_section(TotoModelConfig, {**SECTION, **changes})
    made = family("toto").build(section, context_length=context, prediction_length=HORIZON, seed=seed)
    assert isinstance(made, Toto)
    return made


def window(seed: int = 0, rows: int = 2, steps: int = CONTEXT, *, past: int = 0, known: int = 0) -> Window:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, steps + HORIZON)).cumsum(1).astype(np.float32) + 20
    return Window(values[:, :steps], rows - past - known, past, values[:, steps:], key=seed)


def batch_of(model: Toto, *windows: Window, horizon: int = HORIZON) -> Batch:
    return model.collate(stack_windows(list(windows), horizon))


def mean_of(loss: Loss) -> float:
    return (loss.total / loss.weight).item()


# What is scored


def test_every_patch_after_the_first_is_scored_while_training_and_the_future_otherwise():
    model = model_of()
    batch = batch_of(model, window())
    assert model.train()(batch).weight == 2 * (CONTEXT + HORIZON - PATCH)
    assert model.eval()(batch).weight == 2 * HORIZON


@torch.no_grad()
def test_the_loss_while_validating_is_that_of_the_same_steps_while_training():
    model = model_of()
    batch = batch_of(model, window())
    scored = model.train().scored(batch)
    ahead = ScoredPositions(*(x[:, -HORIZON // PATCH :] for x in scored))
    nll, robust = losses.loss_sums(model.network.mixtures(ahead.hidden), ahead.target, ahead.observed)
    found = model.eval().validation_losses(batch)
    assert torch.allclose(found["nll"].total, nll[0]) and torch.allclose(found["robust"].total, robust[0])
    assert torch.allclose(found["loss"].total, 0.575 * nll[0] + 0.425 * robust[0])


def test_rows_of_covariates_are_not_scored():
    model = model_of().train()
    assert model(batch_of(model, window(rows=4, past=1, known=1))).weight == 2 * (CONTEXT + HORIZON - PATCH)


def test_missing_labels_are_not_scored_and_padding_of_the_last_patch_neither():
    model = model_of().train()
    given = window()
    future = given.future[:, :6].copy()
    future[0, 1] = np.nan
    batch = batch_of(model, replace(given, future=future), horizon=6)
    assert model(batch).weight == 2 * (CONTEXT + 6 - PATCH) - 1


def test_nothing_before_a_rows_second_patch_is_scored():
    """Upstream pads short series with zeros and learns to forecast their first values from them."""
    model = model_of().train()
    short = window(steps=6)
    assert model(batch_of(model, short, window(1))).weight == 2 * (4 + HORIZON) + 2 * (CONTEXT + HORIZON - PATCH)
    late = replace(short, context=np.where(np.arange(6) < 4, np.nan, short.context).astype(np.float32))
    assert model(batch_of(model, late)).weight == 2 * HORIZON


@torch.no_grad()
def test_padding_and_other_windows_do_not_change_the_loss():
    model = model_of().train()
    short, other = window(steps=6), window(1)
    alone = [model(batch_of(model, w)) for w in (short, other)]
    together = model(batch_of(model, short, other))
    assert together.weight == sum(part.weight for part in alone)
    assert together.total.item() == pytest.approx(sum(part.total.item() for part in alone), rel=1e-5)


@torch.no_grad()
def test_values_that_were_not_observed_change_no_loss_and_no_forecast():
    model = model_of().eval()
    given = window()
    holes = given.context.copy()
    holes[0, 5:9], holes[1, :3] = np.nan, np.nan
    batch = batch_of(model, replace(given, context=holes))
    other = {**batch, "context": torch.where(batch["observed"], batch["context"], 1e6)}
    for mode in (True, False):
        assert torch.equal(model.train(mode)(batch).total, model(other).total)
    request = ForecastRequest(prediction_length=HORIZON, quantile_levels=[0.1, 0.5], num_samples=4)
    one, two = (model.forecast(b, request).quantiles for b in (batch, other))
    assert torch.equal(one, two)


# Alignment


def noise(rng: np.random.Generator, count: int = 16) -> list[Window]:
    values = rng.standard_normal((count, 1, CONTEXT + PATCH)).astype(np.float32)
    return [Window(v[:, :CONTEXT], 1, 0, v[:, CONTEXT:], key=k) for k, v in enumerate(values)]


class Early(Toto):
    """Scores the patch that was just read: off by one patch."""

    def scored(self, batch: Batch) -> ScoredPositions:
        found = super().scored(batch)
        read = batch["context"].unflatten(1, (-1, PATCH))[:, -found.target.shape[1] :]
        return found._replace(target=(read - found.loc) / found.scale)


def test_white_noise_cannot_be_forecast_better_than_by_chance_and_an_answer_a_patch_early_is_noticed():
    # N(0, 1) over the running deviation sqrt(1 + 0.1), whose own error only adds to this
    chance = 0.5 * math.log(2 * math.pi * math.e / 1.1)
    reached = {}
    for kind in (Toto, Early):
        model = model_of()
        model.__class__ = kind
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
        rng = np.random.default_rng(0)
        for _ in range(80):
            total, weight = model.train()(batch_of(model, *noise(rng), horizon=PATCH))
            (total / weight).backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            batch = batch_of(model, *noise(np.random.default_rng(1), 300), horizon=PATCH)
            reached[kind] = mean_of(model.validation_losses(batch)["nll"])
    assert chance - 0.05 < reached[Toto] < chance + 0.25
    assert reached[Early] < chance - 0.3


@torch.no_grad()
def test_a_target_is_the_patch_after_the_one_whose_statistics_scale_it():
    model = model_of().train()
    given = window()
    scored = model.scored(batch_of(model, given))
    whole = torch.from_numpy(np.concatenate([given.context, given.future], 1))
    assert torch.allclose(
        scored.target * scored.scale + scored.loc, whole[:, PATCH:].unflatten(1, (-1, PATCH)), atol=1e-4
    )
    patches = np.arange(PATCH, CONTEXT + HORIZON, PATCH)
    for k, seen in enumerate(patches):
        assert torch.allclose(scored.loc[:, k, 0], whole[:, :seen].mean(1), rtol=1e-5)
        assert torch.equal(scored.last[:, k, 0], whole[:, seen - 1])


@torch.no_grad()
def test_a_covariate_known_ahead_is_read_along_with_the_patch_before():
    """Its values of a patch move the forecast of that patch, and of none before."""
    model = model_of(variate_labels=True).eval()
    given = window(rows=2, known=1)
    changed = np.concatenate([given.context, given.future], 1)
    changed[1, CONTEXT + PATCH :] += 5  # from the second patch after the cutoff on
    moved = replace(given, future=changed[:, CONTEXT:])
    one, other = (model.scored(batch_of(model, w)).hidden for w in (given, moved))
    assert torch.equal(one[:, 0], other[:, 0]) and not torch.allclose(one[:, 1], other[:, 1])


@pytest.mark.parametrize("labels", [False, True])
@torch.no_grad()
def test_the_start_of_another_row_has_no_effect_before_it(labels):
    model = model_of(variate_labels=labels).train()
    found = []
    for begin in (2 * PATCH, 3 * PATCH):
        context = window().context.copy()
        context[1, :begin] = np.nan
        found.append(model.scored(batch_of(model, replace(window(), context=context))).hidden[0])
    assert torch.equal(found[0][:2], found[1][:2]) and not torch.allclose(found[0][2], found[1][2])


# Predictions


@torch.no_grad()
def test_predictions_are_the_mean_and_deviation_of_what_the_loss_scores():
    model = model_of().train()
    batch = batch_of(model, window())
    scored, found = model.scored(batch), model.predict(batch)
    mixtures = model.network.mixtures(scored.hidden)
    assert torch.allclose(found.point, mixtures.mean.flatten(1), atol=1e-5)
    assert torch.allclose(found.sigma, mixtures.variance.sqrt().flatten(1), rtol=1e-4)
    assert torch.equal(found.target, scored.target.flatten(1))


@torch.no_grad()
def test_predicted_distributions_are_the_mixtures_of_what_the_loss_scores():
    model = model_of().train()
    batch = batch_of(model, window(), window(1))
    scored, found = model.scored(batch), model.predict(batch).distribution
    mixtures = model.network.mixtures(scored.hidden)
    assert torch.allclose(found.quantiles([0.2, 0.7]), mixtures.quantiles([0.2, 0.7]).flatten(1, 2), atol=1e-4)
    expected = crps(mixtures, torch.where(scored.observed, scored.target, 0.0)).flatten(1)
    assert torch.allclose(found.crps(), expected, atol=1e-4)


@torch.no_grad()
def test_the_crps_in_log_returns_is_an_integral_over_levels_with_an_error_of_a_fiftieth():
    model = model_of().train()
    predicted = model.predict(batch_of(model, window(), window(1)))
    found = Objective(LossConfig(name="crps", space="log_return"))(predicted)
    levels = [(k + 0.5) / 400 for k in range(400)]
    fine = Objective(LossConfig(name="pinball", space="log_return", levels=levels))(predicted)
    assert mean_of(found) == pytest.approx(mean_of(fine), rel=0.02)
    in_percent = mean_of(Objective(LossConfig(name="crps", space="pct_return"))(predicted))
    assert mean_of(found) == pytest.approx(in_percent / 100, rel=0.2)  # the same to first order


def test_pinball_takes_any_levels_of_a_mixture_and_deciles_by_default():
    model = model_of().train()
    predicted = model.predict(batch_of(model, window()))
    assert objective_for(LossConfig(name="pinball", levels=[0.005, 0.77]), model) is not None
    deciles = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    found = [mean_of(Objective(LossConfig(name="pinball", levels=x))(predicted)) for x in (None, deciles, [0.5])]
    assert found[0] == found[1] != found[2]


def test_an_objective_replaces_the_loss_and_keeps_its_parts():
    model = model_of().eval()
    batch = batch_of(model, window())
    model.objective = lambda p: Loss(((p.point - p.target).abs() * p.observed).sum(), p.observed.sum().float())
    found = model.validation_losses(batch)
    assert torch.equal(found["loss"].total, model(batch).total)
    assert mean_of(found["loss"]) != mean_of(found["nll"])


# Chunks


@pytest.mark.parametrize("loss", ["own", "pinball", "crps"])
def test_a_loss_in_chunks_is_the_same_and_has_the_same_gradients(monkeypatch, loss):
    found = []
    for limit in (losses._MAX_ELEMENTS, 2000):
        monkeypatch.setattr(losses, "_MAX_ELEMENTS", limit)
        model = model_of().train()
        model.objective = objective_for(LossConfig(name=loss), model)
        total, _ = model(batch_of(model, window(), window(1)))
        total.backward()
        found.append((total.detach(), [p.grad for p in model.parameters()]))
    assert torch.allclose(found[0][0], found[1][0])
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)


def test_predictions_in_chunks_are_the_same(monkeypatch):
    model = model_of().eval()
    batch = batch_of(model, window(), window(1))
    whole = model.predict(batch)
    monkeypatch.setattr(losses, "_MAX_ELEMENTS", 500)
    assert torch.allclose(model.predict(batch).point, whole.point, atol=1e-6)


# upstream_compat


@torch.no_grad()
def test_compat_uses_values_that_were_not_observed_and_trains_on_padding():
    ours, theirs = model_of().train(), model_of(upstream_compat=True).train()
    short, other = window(steps=6), window(1)
    batches = [batch_of(m, short, other) for m in (ours, theirs)]
    assert theirs(batches[1]).weight - ours(batches[0]).weight == 2 * 2  # what the short rows' first patch has
    moved = {**batches[1], "context": torch.where(batches[1]["observed"], batches[1]["context"], 5.0)}
    assert theirs(moved).total != theirs(batches[1]).total


@torch.no_grad()
def test_compat_blanks_as_many_steps_as_there_are_covariates_in_place_of_their_rows():
    model = model_of(upstream_compat=True).train()
    scored = model.scored(batch_of(model, window(rows=4, known=2)))
    assert scored.observed.shape[0] == 4
    assert not scored.observed.flatten(1)[:, -2:].any() and scored.observed.flatten(1)[:2, :-2].all()


@torch.no_grad()
def test_compat_holds_for_forecasts_while_a_run_validates():
    ours, theirs = model_of().eval(), model_of(upstream_compat=True).eval()
    short, other = window(steps=6), window(1)
    request = ForecastRequest(prediction_length=4, quantile_levels=[0.5], num_samples=5)
    found = [m.forecast(batch_of(m, short, other), request).quantiles for m in (ours, theirs)]
    asked = ours.forecast(batch_of(theirs, short, other), request.changed(options=TotoOptions(compat=True)))
    assert torch.equal(asked.quantiles, found[1]) and not torch.allclose(found[0], found[1])


# Building


def test_the_longest_context_is_the_runs_and_of_a_checkpoint_at_least_that(tmp_path):
    model = model_of(context=48)
    assert model.max_context_length == 48
    model.save_release(tmp_path)
    start = {"random_init": False, "model_id": str(tmp_path)}
    start = {**dict.fromkeys(SECTION), **start}
    assert model_of(context=32, **start).max_context_length == 48
    assert model_of(context=64, **start).max_context_length == 64


def test_labels_are_created_on_request_and_read_if_the_file_has_them(tmp_path):
    assert not model_of().network.labels
    model_of(variate_labels=True).save_release(tmp_path)
    start = {**dict.fromkeys(SECTION), "random_init": False, "model_id": str(tmp_path)}
    assert model_of(**start).network.labels and not model_of(**start, variate_labels=False).network.labels


def test_a_start_needs_either_weights_or_random_init():
    for changes in ({"random_init": False}, {"model_id": "somewhere"}):
        with pytest.raises(ConfigError, match=r"either model_id .* or random_init"):
            model_of(**changes)


def test_a_dry_run_knows_the_published_model_without_reading_it():
    section = build_section(TotoModelConfig, {"model_id": "Datadog/Toto-Open-Base-1.0"})
    made = family("toto").build(section, context_length=512, prediction_length=64, seed=0, device="meta")
    assert sum(p.numel() for p in made.parameters()) == 151_306_080
    assert made.max_context_length == 4096


def test_a_release_of_another_family_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ModelError, match=r"not a Toto 1\.0 model"):
        family("toto").load(tmp_path)
    model_of().save_release(tmp_path)
    with pytest.raises(ModelError, match="has no tokenizer"):
        family("toto").load(tmp_path, tokenizer="x")


def test_the_head_is_what_makes_distributions_of_hidden_states():
    roles = model_of(variate_labels=True).parameter_groups()
    heads = {name.split(".")[1] for name, role in roles.items() if role.role == "head"}
    assert heads == {"unembed", "output_distribution"}
    assert roles["network.target_variate_label"].role == "vector"
    assert roles["network.patch_embed.projection.weight"].role == "matrix"
