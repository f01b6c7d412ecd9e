from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from foretrain.errors import ModelError
from foretrain.models.base import ParameterRole
from foretrain.training.optimizer import OptimizerConfig, build_optimizer, set_rates


def decayed(optimizer, model):
    names = {p: name for name, p in model.named_parameters()}
    return {names[p] for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}


def test_norms_and_biases_are_not_decayed(toy):
    model = toy.Model()
    expected = {name for name, p in model.named_parameters() if p.dim() > 1}
    assert decayed(build_optimizer(model, OptimizerConfig()), model) == expected


def test_decay_all_decays_everything(toy):
    model = toy.Model()
    optimizer = build_optimizer(model, OptimizerConfig(decay_all=True))
    assert decayed(optimizer, model) == {name for name, _ in model.named_parameters()}


def test_lr_factor_scales_the_rate_of_its_parameters(toy):
    model = toy.Model()
    optimizer = build_optimizer(model, OptimizerConfig())
    set_rates(optimizer, 0.1)
    rates = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[model.last.weight] == pytest.approx(0.05)
    assert rates[model.first.weight] == pytest.approx(0.1)


def test_a_trainable_parameter_without_a_role_is_an_error(toy):
    model = toy.Model()
    model.extra = torch.nn.Parameter(torch.zeros(2))
    model.parameter_groups = lambda: {name: role for name, role in groups.items() if name != "extra"}
    groups = type(model).parameter_groups(model)
    with pytest.raises(ModelError, match="differs at extra"):
        build_optimizer(model, OptimizerConfig())


def test_frozen_parameters_are_left_out(toy):
    model = toy.Model()
    model.first.requires_grad_(False)
    roles = type(model).parameter_groups(model)
    model.parameter_groups = lambda: {name: role for name, role in roles.items() if not name.startswith("first")}
    optimizer = build_optimizer(model, OptimizerConfig())
    assert not any(p is model.first.weight for group in optimizer.param_groups for p in group["params"])


@pytest.mark.parametrize("fused", [True, False])
def test_a_run_equals_a_plain_loop_with_torchs_adamw(toy, tmp_path, fused):
    """The reference: mean over observed values of the whole batch, clip_grad_norm_, AdamW in two groups."""
    config = toy.Optimizer(learning_rate=2e-2, weight_decay=0.1, betas=(0.8, 0.95), eps=1e-6, fused=fused)
    config = config.model_copy(update={"schedule": toy.Schedule(kind="cosine", warmup_steps=3)})
    trainer = toy.trainer(tmp_path, optimizer=config, max_steps=6, micro_batch_size=3, clip_norm=0.5)
    trainer.fit()
    model, source = toy.Model(), toy.Source()
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": [p for p in vectors if p is not model.last.bias], "weight_decay": 0.0},
        {"params": [model.last.bias], "weight_decay": 0.0, "factor": 0.5},
        {"params": [p for p in model.parameters() if p.dim() > 1 and p is not model.last.weight]},
        {"params": [model.last.weight], "factor": 0.5},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1.0, weight_decay=0.1, betas=(0.8, 0.95), eps=1e-6, fused=False)
    losses = []
    for step in range(6):
        loss = model(model.collate(source.windows(8 * step, 8)))
        (loss.total / loss.weight).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group in optimizer.param_groups:
            progress = torch.tensor((step - 3) / 3)
            rate = 2e-2 * ((step + 1) / 3 if step < 3 else float(0.5 * (1 + torch.cos(torch.pi * progress))))
            group["lr"] = rate * group.get("factor", 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append((loss.total.detach() / loss.weight).item())
    assert [loss for _, loss in toy.losses(tmp_path)] == pytest.approx(losses, rel=1e-5)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(toy.release(tmp_path)[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cycled", [False, True])
def test_one_cycle_leaves_the_configured_betas_in_effect_unless_told_to_cycle_them(toy, tmp_path, cycled):
    """The reference: torch's OneCycleLR, whose own default is to overwrite beta1."""
    schedule = toy.Schedule(kind="one_cycle", pct_start=0.4, div_factor=10, cycle_momentum=cycled)
    config = toy.Optimizer(learning_rate=2e-2, betas=(0.9, 0.95), decay_all=True, weight_decay=0.1, schedule=schedule)
    model = toy.Model()
    model.parameter_groups = lambda: {name: ParameterRole("matrix") for name, _ in model.named_parameters()}
    trainer = toy.trainer(tmp_path, model=model, optimizer=config, max_steps=6, clip_norm=None)
    trainer.fit()
    plain, source = toy.Model(), toy.Source()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=2e-2, betas=(0.9, 0.95), weight_decay=0.1)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2e-2, total_steps=6, pct_start=0.4, div_factor=10, cycle_momentum=cycled
    )
    betas = []
    for step in range(6):
        loss = plain(plain.collate(source.windows(8 * step, 8)))
        (loss.total / loss.weight).backward()
        betas.append(optimizer.param_groups[0]["betas"][0])
        optimizer.step()
        optimizer.zero_grad()
        if step < 5:
            reference.step()
    assert (set(betas) == {0.9}) != cycled
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(toy.release(tmp_path)[name], value, rtol=1e-4, atol=1e-6)


def test_a_beta_that_the_schedule_overwrites_is_an_error(toy):
    with pytest.raises(ValidationError, match=r"0.8 has no effect, as schedule.cycle_momentum rules it"):
        toy.Optimizer(betas=(0.8, 0.95), schedule=toy.Schedule(kind="one_cycle", cycle_momentum=True))
