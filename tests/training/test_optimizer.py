from __future__ import annotations

import copy
import sys

import pytest
import torch
from pydantic import ValidationError

from foretrain.errors import ConfigError, ModelError
from foretrain.models.base import ParameterRole
from foretrain.training.optimizer import OptimizerConfig, build_optimizer, set_rates, state_size


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
def test_one_cycle_uses_the_configured_betas_unless_cycle_momentum_is_set(toy, tmp_path, cycled):
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
    with pytest.raises(ValidationError, match=r"0.8 has no effect, as schedule.cycle_momentum sets it"):
        toy.Optimizer(betas=(0.8, 0.95), schedule=toy.Schedule(kind="one_cycle", cycle_momentum=True))


# Muon beside AdamW


class Mixed(torch.nn.Module):
    """A parameter of every kind that a family has."""

    def __init__(self):
        super().__init__()
        draw = torch.Generator().manual_seed(3)
        shapes = {"a": (6, 4), "scaled": (4, 6), "kernel": (3, 4, 2), "table": (5, 4), "head": (4, 3), "bias": (4,)}
        for name, shape in shapes.items():
            self.register_parameter(name, torch.nn.Parameter(torch.randn(shape, generator=draw)))

    def parameter_groups(self):
        others = {"table": "embedding", "head": "head", "bias": "vector"}
        return {
            name: ParameterRole(others.get(name, "matrix"), 0.5 if name == "scaled" else 1.0)
            for name, _ in self.named_parameters()
        }


def step_by(model, *optimizers, seed=0):
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=draw)
    for optimizer in optimizers:
        optimizer.step()


def equal(model, other):
    return all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


MUON = OptimizerConfig(name="muon", learning_rate=0.02, weight_decay=0.1, betas=(0.8, 0.9), options={"momentum": 0.7})


def test_muon_steps_matrices_and_adamw_the_rest_at_one_learning_rate():
    model, plain = Mixed(), Mixed()
    optimizer = build_optimizer(model, MUON)
    shared = {"weight_decay": 0.1, "momentum": 0.7, "adjust_lr_fn": "match_rms_adamw"}
    muon = torch.optim.Muon([{"params": [plain.a]}, {"params": [plain.scaled], "lr": 0.01}], lr=0.02, **shared)
    rest = [
        {"params": [plain.kernel, plain.head], "weight_decay": 0.1},
        {"params": [plain.table, plain.bias], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(rest, lr=0.02, betas=(0.8, 0.9), fused=True)
    for seed in range(3):
        set_rates(optimizer, 0.02)
        step_by(model, optimizer, seed=seed)
        step_by(plain, muon, adamw, seed=seed)
    assert equal(model, plain)


def test_muons_steps_are_of_adamws_size_unless_its_own_scale_is_asked_for():
    sizes = {}
    for scale in ("match_rms_adamw", "original", "adamw"):
        own = {"name": "adamw"} if scale == "adamw" else {"name": "muon", "options": {"adjust_lr_fn": scale}}
        model = torch.nn.Linear(64, 256, bias=False)
        model.parameter_groups = lambda: {"weight": ParameterRole("matrix")}
        before = model.weight.detach().clone()
        step_by(model, build_optimizer(model, OptimizerConfig(learning_rate=1.0, weight_decay=0.0, **own)))
        sizes[scale] = float((model.weight.detach() - before).square().mean().sqrt())
    assert sizes["match_rms_adamw"] == pytest.approx(0.2 * sizes["adamw"], rel=0.2)
    assert sizes["original"] == pytest.approx(sizes["match_rms_adamw"] / (0.2 * 256**0.5) * 2, rel=1e-3)


def test_the_two_are_one_optimizer_with_one_state():
    model = Mixed()
    optimizer = build_optimizer(model, MUON)
    step_by(model, optimizer)
    assert {p for group in optimizer.param_groups for p in group["params"]} == set(model.parameters())
    assert optimizer.state.keys() == set(model.parameters())
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())
    other = Mixed()
    other.load_state_dict(model.state_dict())
    resumed = build_optimizer(other, MUON)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for seed, which in ((1, 0.02), (2, 0.0), (3, 0.01)):
        for of, optimizer_of in ((model, optimizer), (other, resumed)):
            set_rates(optimizer_of, which)
            step_by(of, optimizer_of, seed=seed)
    assert equal(model, other)


def test_a_learning_rate_of_zero_stops_matrices_and_the_rest():
    model = Mixed()
    optimizer = build_optimizer(model, MUON)
    set_rates(optimizer, 0.0)
    step_by(model, optimizer)
    assert equal(model, Mixed())


def test_muon_without_a_matrix_is_an_error():
    model = Mixed()
    for name in ("a", "scaled"):
        getattr(model, name).requires_grad_(False)
    roles = {name: role for name, role in model.parameter_groups().items() if name not in ("a", "scaled")}
    model.parameter_groups = lambda: roles
    with pytest.raises(ConfigError, match=r"muon is for matrices, and none is trained here.*Choose adamw"):
        build_optimizer(model, MUON)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_muon_trains_under_autocast_with_averages_and_a_schedule(toy, tmp_path, dtype):
    config = OptimizerConfig(name="muon", learning_rate=2e-2, schedule=toy.Schedule(kind="cosine", warmup_steps=5))
    settings = {"dtype": dtype, "ema_decay": 0.9, "clip_norm": 0.5, "max_steps": 60}
    toy.trainer(tmp_path, optimizer=config, **settings).fit()
    losses = [loss for _, loss in toy.losses(tmp_path)]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


# Adafactor and those of the extra


def test_adafactor_is_torchs():
    model, plain = Mixed(), Mixed()
    optimizer = build_optimizer(model, OptimizerConfig(name="adafactor", learning_rate=0.02, options={"d": 2.0}))
    decayed = {"weight_decay": 0.01}
    groups = [
        {"params": [plain.a, plain.kernel, plain.head], **decayed},
        {"params": [plain.scaled], "lr": 0.01, **decayed},
        {"params": [plain.table, plain.bias], "weight_decay": 0.0},
    ]
    reference = torch.optim.Adafactor(groups, lr=0.02, d=2.0)
    for seed in range(3):
        set_rates(optimizer, 0.02)
        step_by(model, optimizer, seed=seed)
        step_by(plain, reference, seed=seed)
    assert equal(model, plain)


def test_an_optimizer_of_the_extra_is_the_packages():
    from pytorch_optimizer import Lion

    model, plain = Mixed(), Mixed()
    config = OptimizerConfig(name="lion", learning_rate=0.02, decay_all=True, options={"betas": [0.8, 0.9]})
    optimizer = build_optimizer(model, config)
    rest = [plain.a, plain.kernel, plain.table, plain.head, plain.bias]
    groups = [{"params": rest}, {"params": [plain.scaled], "lr": 0.01}]
    reference = Lion(groups, lr=0.02, weight_decay=0.01, betas=(0.8, 0.9))
    for seed in range(3):
        set_rates(optimizer, 0.02)
        step_by(model, optimizer, seed=seed)
        step_by(plain, reference, seed=seed)
    assert equal(model, plain)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "moun"}, "'moun' is not known. Did you mean 'muon'"),
        ({"name": "xyzzy"}, "'xyzzy' is not known. Known: adamw, muon, adafactor, a2grad,"),
        ({"name": "muon", "options": {"momentun": 0.9}}, "muon has no option 'momentun'. Did you mean 'momentum'"),
        ({"name": "muon", "options": {"x": 1}}, "Known: momentum, nesterov, ns_coefficients, eps, ns_steps"),
        ({"name": "adamw", "options": {"lr": 1}}, "adamw has no option 'lr'. Known: amsgrad"),
        (
            {"name": "lion", "options": {"betas": [2, 0]}},
            "lion cannot be created so: beta1 must be in",
        ),
        ({"name": "muon", "options": {"ns_steps": 500}}, "muon cannot train here: .* less than 100"),
        (
            {"name": "muon", "options": {"adjust_lr_fn": "x"}},
            "muon cannot be created so: .*not supported",
        ),
        ({"name": "amos", "weight_decay": 0.5}, "weight_decay: amos has none"),
        ({"name": "amos", "decay_all": True}, "leave weight_decay and decay_all out"),
        ({"name": "soap"}, "soap cannot train here: it keeps state that a checkpoint cannot hold"),
        ({"name": "madgrad"}, "a resumed run would differ from an uninterrupted one"),
        ({"name": "schedulefreeadamw"}, "it needs a call of its eval"),
        ({"name": "laprop"}, "it changes weights at a learning rate of 0"),
        ({"name": "adahessian"}, "adahessian cannot train here: .*grad_fn"),
        ({"name": "lomo"}, "lomo takes no groups of parameters with a rate"),
    ],
)
def test_an_optimizer_that_cannot_train_is_refused_before_anything_is_written(toy, tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        toy.trainer(tmp_path / "run", optimizer=OptimizerConfig(**settings))
    assert not (tmp_path / "run").exists()


def test_a_missing_extra_is_named(toy, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(ConfigError, match=r"'lion' is none of adamw, muon, adafactor.*foretrain\[optimizers\]"):
        toy.trainer(tmp_path, optimizer=OptimizerConfig(name="lion"))
    with pytest.raises(ConfigError, match=r"Did you mean 'adamw'\?"):
        toy.trainer(tmp_path, optimizer=OptimizerConfig(name="adamv"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "adafactor", "betas": (0.8, 0.9)}, "betas: has no effect on adafactor"),
        ({"name": "lion", "betas": (0.8, 0.9)}, "set options.betas"),
        ({"name": "adafactor", "eps": 1e-5}, "eps: has no effect on adafactor"),
        ({"name": "lion", "fused": True}, "fused: has no effect on lion"),
        ({"name": "muon", "schedule": {"kind": "one_cycle", "cycle_momentum": True}}, "no effect on muon"),
    ],
)
def test_a_setting_that_an_optimizer_does_not_read_is_an_error(settings, message):
    with pytest.raises(ValidationError, match=message):
        OptimizerConfig(**settings)


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor"])
def test_the_stated_size_of_an_optimizer_is_what_it_keeps(name):
    model, config = Mixed(), OptimizerConfig(name=name)
    optimizer = build_optimizer(model, config)
    step_by(model, optimizer)
    kept = sum(t.numel() for state in optimizer.state.values() for t in state.values() if t.dim() > 0)
    assert state_size(model, config) == kept


def test_an_optimizer_that_draws_draws_the_same_however_a_step_is_cut(toy, tmp_path):
    """gravity draws its first velocity, after a micro-batch that set the generator, and every rank has another last."""
    losses = []
    for size in (3, 8):
        config = OptimizerConfig(name="gravity", learning_rate=1e-2)
        toy.trainer(tmp_path / str(size), optimizer=config, micro_batch_size=size, max_steps=6).fit()
        losses.append(dict(toy.losses(tmp_path / str(size))))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
