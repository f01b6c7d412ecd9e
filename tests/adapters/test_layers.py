"""Low-rank layers in every family: training, computation, adapter folders."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from tests.models.zoo import HORIZON, ZOO, kinds_of, windows_of
from torch import nn

from foretrain.adapters import layers as adapters
from foretrain.adapters.files import write_adapter
from foretrain.adapters.layers import AdapterConfig, adapt, merged
from foretrain.config import build as build_section
from foretrain.data.windows import stack_windows
from foretrain.errors import ConfigError
from foretrain.models import FAMILIES, family
from foretrain.models.base import Batch, Trainable
from foretrain.models.request import ForecastRequest
from foretrain.training.optimizer import DECAYED
from foretrain.training.trainer import ValidationResult

every_family = pytest.mark.parametrize("name", FAMILIES)
trainable_kinds = pytest.mark.parametrize(("name", "kind"), kinds_of(trains=True))
SMALL = AdapterConfig(rank=2, alpha=6)
SCALING = 3.0
LEVELS = (0.1, 0.5, 0.9)


def adapted(zoo, name: str, config: AdapterConfig = SMALL, *, learned: bool = True, seed: int = 0) -> Trainable:
    """Build a model with low-rank layers whose B are not zero, as after some training."""
    model = zoo.built(name)
    adapt(model, config, seed)
    if learned:
        draw = torch.Generator().manual_seed(1)
        for layer in model.adapter.layers:
            with torch.no_grad():
                layer.up.copy_(torch.randn(layer.up.shape, generator=draw) * 0.1)
    return model


def summed(zoo, name: str, model: Trainable) -> Trainable:
    """Build a model without low-rank layers, whose weights are W + scaling * B @ A."""
    plain = zoo.built(name)
    with torch.no_grad():
        for layer in model.adapter.layers:
            plain.network.get_submodule(layer.name).weight += SCALING * layer.up @ layer.down
    return plain


def batch_of(model: Trainable, name: str, kind: str | None = None) -> Batch:
    kind = kind or next(kind for kind, facts in ZOO[name].kinds.items() if facts.trains)
    return model.collate(stack_windows(windows_of(name, kind), HORIZON))


def loss_of(model: Trainable, batch: Batch) -> torch.Tensor:
    """Return the training loss, with the same random draws in every call."""
    torch.manual_seed(7)
    return model(batch).total


@pytest.fixture(params=FAMILIES)
def name(request) -> str:
    return request.param


# Training


def test_only_low_rank_layers_are_trained_and_each_has_a_role(zoo, name):
    model = adapted(zoo, name)
    trained = {key for key, p in model.named_parameters() if p.requires_grad}
    assert trained and all(re.search(r"\.lora_[AB]\.default\.weight$", key) for key in trained)
    roles = model.parameter_groups()
    assert roles.keys() == trained
    assert {role.role for role in roles.values()} <= DECAYED
    assert {role.lr_factor for role in roles.values()} == {1.0}


def test_every_default_target_of_a_family_matches_layers(zoo, name):
    model = adapted(zoo, name)
    assert model.adapter.parts == type(model).adapter_targets
    found = {layer.name for layer in model.adapter.layers}
    for part in model.adapter.parts:
        assert any(f".{part}." in f".{layer}." for layer in found), part


def test_before_the_first_step_nothing_has_changed(zoo, name):
    model, plain = adapted(zoo, name, learned=False).double(), zoo.built(name).double()
    batch = batch_of(plain, name)
    torch.testing.assert_close(loss_of(model, batch), loss_of(plain, batch), rtol=1e-6, atol=1e-6)


def test_the_seed_alone_decides_the_first_weights(zoo, name):
    def downs(seed: int) -> list[torch.Tensor]:
        return [layer.down for layer in adapted(zoo, name, learned=False, seed=seed).adapter.layers]

    torch.manual_seed(3)
    one = downs(5)
    torch.manual_seed(4)
    assert all(torch.equal(a, b) for a, b in zip(one, downs(5), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, downs(6), strict=True))
    bound = [layer.shape[1] ** -0.5 for layer in one]
    assert all(0.5 * b < float(layer.detach().abs().max()) <= b for layer, b in zip(one, bound, strict=True))


def test_a_head_is_trained_with_its_biases(zoo, name):
    model = adapted(zoo, name, AdapterConfig(rank=0, train_head=True))
    trained = {key for key, p in model.named_parameters() if p.requires_grad}
    roles = zoo.built(name).parameter_groups()
    assert model.adapter.layers == ()
    assert {key for key, role in roles.items() if role.role == "head"} <= trained
    assert {key.rpartition(".")[0] for key in trained} == {f"network.{head}" for head in model.adapter.heads}
    assert model.parameter_groups() == {key: roles[key] for key in trained}


def test_a_fully_trained_head_gets_no_low_rank_layers(zoo):
    model = adapted(zoo, "chronos2", AdapterConfig(rank=2, train_head=True))
    assert "output_patch_embedding.output_layer" in model.adapter.heads
    assert not any("output_patch_embedding" in layer.name for layer in model.adapter.layers)


def test_the_backbone_is_trained_too_where_it_is_not_frozen(zoo, name):
    model, roles = adapted(zoo, name, AdapterConfig(rank=2, freeze_backbone=False)), zoo.built(name).parameter_groups()
    found = {key.replace(".base_layer.", "."): role for key, role in model.parameter_groups().items()}
    assert {key: role for key, role in found.items() if ".lora_" not in key} == roles
    assert len(found) == len(roles) + 2 * len(model.adapter.layers)


def test_parameters_that_a_family_never_trains_stay_frozen(zoo):
    model = zoo.built("kronos", learn_te=False)
    fixed = {key for key, p in model.named_parameters() if not p.requires_grad}
    adapt(model, AdapterConfig(rank=2, freeze_backbone=False), 0)
    assert fixed == {key for key, p in model.named_parameters() if not p.requires_grad} != set()


@pytest.mark.parametrize("targets", [("transformer.1",), ("transformer.*.w?",), ("head", "fusion_proj")])
def test_targets_are_whole_parts_of_names_with_wildcards(zoo, targets):
    names = [layer.name for layer in adapted(zoo, "kronos", AdapterConfig(rank=2, targets=targets)).adapter.layers]
    expected = {
        "transformer.1": r"transformer\.1\.",
        "transformer.*.w?": r"transformer\.\d\.ffn\.w[123]$",
        "head": r"head\.proj_s[12]$|embedding\.fusion_proj$",
    }[targets[0]]
    every = [key for key, module in zoo.built("kronos").network.named_modules() if isinstance(module, nn.Linear)]
    assert names == [key for key in every if re.search(expected, key)] != []


# Refusals


def test_a_target_that_matches_nothing_is_refused_with_near_names_and_all_layers(zoo):
    config = AdapterConfig(targets=("self_attention.q", "self_atention.k"))
    with pytest.raises(ConfigError, match=r"'self_atention.k' matches no.*Near: .*self_attention\.k") as error:
        adapt(zoo.built("chronos2"), config, 0)
    assert "encoder.block.*.layer.*.mlp.wi" in str(error.value)
    with pytest.raises(ConfigError, match=r"'SELF_attention\.q' matches no.*Near: .*self_attention\.q"):
        adapt(zoo.built("chronos2"), AdapterConfig(targets=("SELF_attention.q",)), 0)


def test_half_a_part_of_a_name_matches_nothing(zoo, name):
    with pytest.raises(ConfigError, match=r"'ea' matches no linear layer"):
        adapt(zoo.built(name), AdapterConfig(targets=("ea",)), 0)


def test_a_family_without_default_targets_needs_targets(zoo):
    model = zoo.built("chronos2")
    model.adapter_targets = ()
    with pytest.raises(ConfigError, match=r"has no default.*self_attention\.q"):
        adapt(model, SMALL, 0)


def test_targets_that_are_all_in_a_head_trained_whole_are_refused(zoo):
    with pytest.raises(ConfigError, match="all of these layers are in the head"):
        adapt(zoo.built("kronos"), AdapterConfig(targets=("head",), train_head=True), 0)


def test_a_refusal_leaves_the_model_as_it_was(zoo, name):
    model = zoo.built(name)
    before = {key: (p.requires_grad, p) for key, p in model.named_parameters()}
    with pytest.raises(ConfigError):
        adapt(model, AdapterConfig(targets=("nowhere",)), 0)
    assert {key: (p.requires_grad, p) for key, p in model.named_parameters()} == before and model.adapter is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "leaves nothing to train"),
        ({"rank": 0, "train_head": True, "targets": ("head",)}, "rank: 0 makes none"),
        ({"rank": 0, "train_head": True, "dropout": 0.1}, "rank: 0 makes none"),
        ({"freeze_backbone": False, "train_head": True}, "trains the head already"),
        ({"targets": ()}, "at least 1 item"),
        ({"name": "../elsewhere"}, "should match pattern"),
    ],
)
def test_settings_that_cannot_take_effect_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        AdapterConfig(**settings)


def test_without_peft_the_extra_is_named(zoo, monkeypatch):
    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'foretrain\[lora\]'"):
        adapt(zoo.built("chronos2"), SMALL, 0)


# Computation


@trainable_kinds
def test_loss_and_gradients_are_those_of_the_summed_weights(zoo, name, kind):
    """With dW the gradient of a layer whose weight is W + s B A: dA = s B^T dW and dB = s dW A^T."""
    model = adapted(zoo, name).double()
    plain = summed(zoo, name, model).double()
    batch = batch_of(plain, name, kind)
    loss, expected = loss_of(model, batch), loss_of(plain, batch)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    for layer in model.adapter.layers:
        slope = plain.network.get_submodule(layer.name).weight.grad
        torch.testing.assert_close(layer.down.grad, SCALING * layer.up.T @ slope, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(layer.up.grad, SCALING * slope @ layer.down.T, rtol=1e-5, atol=1e-5)


def test_a_trained_head_has_the_gradients_of_full_training(zoo, name):
    model, plain = adapted(zoo, name, AdapterConfig(rank=0, train_head=True)).double(), zoo.built(name).double()
    batch = batch_of(plain, name)
    loss_of(model, batch).backward()
    loss_of(plain, batch).backward()
    full = dict(plain.named_parameters())
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, full[key].grad, rtol=1e-5, atol=1e-6)


def test_dropout_of_the_adapter_is_there_in_training_alone(zoo, name):
    model = adapted(zoo, name, AdapterConfig(rank=2, alpha=6, dropout=0.5))
    batch, plain = batch_of(model, name), adapted(zoo, name)
    assert not torch.equal(loss_of(model, batch), loss_of(plain, batch))
    with torch.no_grad():
        assert torch.equal(loss_of(model.eval(), batch), loss_of(plain.eval(), batch))


def test_activation_checkpointing_changes_no_gradient(zoo, name):
    from foretrain.distributed.world import World
    from foretrain.training.parallel import parallelize, unwrap
    from foretrain.training.settings import TrainingConfig

    def gradients(recompute: bool) -> list[torch.Tensor]:
        model = adapted(zoo, name)
        parallelize(model, World(), TrainingConfig(max_steps=1, activation_checkpointing=recompute))
        loss_of(model, batch_of(model, name)).backward()
        unwrap(model)
        return [p.grad for p in model.parameters() if p.requires_grad]

    for a, b in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_compiled_blocks_have_the_gradients_of_eager_ones_and_merge_for_a_while(zoo):
    """With backend aot_eager: it traces the graph that an accelerator would run."""
    eager, traced = adapted(zoo, "chronos2"), adapted(zoo, "chronos2")
    for block in traced.blocks():
        block.compile(backend="aot_eager")
    batch = batch_of(eager, "chronos2")
    for model in (eager, traced):
        loss_of(model, batch).backward()
    for a, b in zip(eager.parameters(), traced.parameters(), strict=True):
        if a.requires_grad:
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-5)
    with torch.no_grad(), merged(traced):
        torch.testing.assert_close(loss_of(traced, batch), loss_of(eager, batch), rtol=1e-5, atol=1e-5)
    with torch.compiler.set_stance("fail_on_recompile"):
        loss_of(traced, batch).backward()
        with torch.no_grad(), merged(traced):
            loss_of(traced, batch)


# Merging


def test_merged_makes_layers_plain_and_restores_them_after(zoo, name):
    model = adapted(zoo, name)
    before = [(key, p, p.detach().clone()) for key, p in model.named_parameters()]
    names = list(zoo.built(name).state_dict())
    with merged(model):
        assert list(model.state_dict()) == names
        assert all(type(model.network.get_submodule(layer.name)) is nn.Linear for layer in model.adapter.layers)
    after = list(model.named_parameters())
    assert [key for key, _ in after] == [key for key, _, _ in before]
    for (_, now), (_, then, value) in zip(after, before, strict=True):
        assert now is then and torch.equal(now, value)


def test_validation_in_training_meets_plain_layers_that_hold_the_averages(zoo, toy, tmp_path):
    model, seen = adapted(zoo, "chronos2", learned=False), []

    def evaluate(given: Trainable, step: int) -> ValidationResult:
        seen.append({key: value.clone() for key, value in given.network.state_dict().items()})
        return ValidationResult({"loss": 1.0 / step})

    toy.trainer(tmp_path, model=model, evaluate=evaluate, validate_every=4, ema_decay=0.9).fit()
    assert [list(state) for state in seen] == [list(zoo.built("chronos2").network.state_dict())] * 3
    released = family("chronos2").load(tmp_path / "release").network.state_dict()
    assert all(torch.equal(value, released[key]) for key, value in seen[-1].items())


def test_merged_weights_are_those_of_the_formula(zoo, name):
    model = adapted(zoo, name)
    expected = summed(zoo, name, model).state_dict()
    with merged(model):
        for key, value in model.state_dict().items():
            torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-6)


def test_merging_inside_merging_and_without_an_adapter_does_nothing(zoo, name):
    model = adapted(zoo, name)
    with merged(model):
        held = {key: id(module) for key, module in model.named_modules()}
        with merged(model):
            assert {key: id(module) for key, module in model.named_modules()} == held
        assert {key: id(module) for key, module in model.named_modules()} == held
    plain = zoo.built(name)
    held = {key: id(module) for key, module in plain.named_modules()}
    with merged(plain):
        assert {key: id(module) for key, module in plain.named_modules()} == held


def test_a_change_of_mode_inside_merged_reaches_the_layers_that_come_back(zoo):
    model = adapted(zoo, "chronos2").eval()
    with merged(model):
        model.train()
    assert all(module.training for module in model.modules())


def test_an_error_inside_merged_restores_the_layers(zoo):
    model = adapted(zoo, "chronos2")
    with pytest.raises(ZeroDivisionError), merged(model):
        raise ZeroDivisionError
    assert all(model.network.get_submodule(layer.name) is layer.wrapped for layer in model.adapter.layers)


@pytest.mark.parametrize("name", [name for name, entry in ZOO.items() if entry.forecasts])
def test_a_merged_model_forecasts_as_one_of_the_summed_weights(zoo, name):
    model = adapted(zoo, name).eval()
    plain = summed(zoo, name, model).eval()
    batch = batch_of(plain, name)
    request = ForecastRequest(prediction_length=HORIZON, quantile_levels=LEVELS, num_samples=3)
    with torch.inference_mode(), merged(model):
        found = model.forecast(batch, request).quantiles
    with torch.inference_mode():
        expected = plain.forecast(batch, request).quantiles
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, equal_nan=True)


# Facts and adapter folders


def test_an_adapter_that_learned_nothing_raises_the_alarm(zoo, name):
    model = adapted(zoo, name, learned=False)
    found = adapters.adapter_facts(model)["adapter"]
    assert found["idle_layers"] == found["layers"] == len(model.adapter.layers)
    assert "has learned nothing: B is zero in all" in found["alarm"]


def test_one_layer_that_learned_is_enough_for_no_alarm(zoo, name):
    model = adapted(zoo, name, learned=False)
    with torch.no_grad():
        model.adapter.layers[-1].up[0, 0] = 1e-20
    found = adapters.adapter_facts(model)["adapter"]
    assert found["alarm"] is None and found["idle_layers"] == found["layers"] - 1


def test_parameters_are_counted_on_meta_as_on_the_cpu(zoo, name):
    section = build_section(family(name).config(), {"family": name, **ZOO[name].section, **_parts(zoo, name)})
    model = family(name).build(section, context_length=24, prediction_length=6, seed=0, device="meta")
    adapt(model, SMALL, 0)
    assert all(p.is_meta for p in model.parameters())
    assert adapters.parameter_counts(model) == adapters.parameter_counts(adapted(zoo, name))
    assert re.search(r"rank 2, alpha 6 in \d+ layers .*: [\d,]+ of [\d,]+ parameters", adapters.describe_adapter(model))


def _parts(zoo, name: str) -> dict[str, str]:
    return {key: zoo._part(part) for key, part in ZOO[name].parts.items()}


@pytest.mark.parametrize("head", [False, True])
def test_peft_opens_the_folder_with_its_base_and_computes_the_same(zoo, name, tmp_path, head):
    from peft import PeftModel

    model = adapted(zoo, name, AdapterConfig(rank=2, alpha=6, train_head=head))
    if head:
        with torch.no_grad():
            for key in model.adapter.heads:
                for parameter in model.network.get_submodule(key).parameters(recurse=False):
                    parameter += 0.1
    write_adapter(tmp_path, model)
    opened = PeftModel.from_pretrained(zoo.built(name).network, str(tmp_path)).merge_and_unload()
    with merged(model):
        expected = model.network.state_dict()
        for key, value in opened.state_dict().items():
            torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-6)


def test_a_head_alone_is_a_folder_that_peft_opens(zoo, tmp_path):
    from peft import PeftModel

    model = adapted(zoo, "chronos2", AdapterConfig(rank=0, train_head=True))
    with torch.no_grad():
        model.network.output_patch_embedding.output_layer.weight += 1
    write_adapter(tmp_path, model)
    opened = PeftModel.from_pretrained(zoo.built("chronos2").network, str(tmp_path)).merge_and_unload()
    expected = model.network.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in opened.state_dict().items())


def test_what_is_written_are_plain_matrices_under_plain_names(zoo, name, tmp_path):
    model = adapted(zoo, name)
    for block in model.blocks():
        block.compile(backend="eager")
    write_adapter(tmp_path, model)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    linear = {f"base_model.model.{layer.name}" for layer in model.adapter.layers}
    assert tensors.keys() == {f"{layer}.lora_{x}.weight" for layer in linear for x in "AB"}
    assert all(value.ndim == 2 and value.numel() and value.dtype == torch.float32 for value in tensors.values())


def test_the_config_that_is_written_says_what_peft_needs(zoo, tmp_path):
    model = zoo.built("chronos2")
    (tmp_path / "base" / "release").mkdir(parents=True)
    model.save_release(tmp_path / "base" / "release")
    made = {"model": {"model_id": str(tmp_path / "base"), "revision": None}}
    adapt(model, AdapterConfig(rank=3, alpha=5, dropout=0.25), 0, made)
    (tmp_path / "adapter").mkdir()
    write_adapter(tmp_path / "adapter", model)
    found = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert found["peft_type"] == "LORA" and found["inference_mode"] is True
    assert (found["r"], found["lora_alpha"], found["lora_dropout"], found["bias"]) == (3, 5, 0.25, "none")
    assert sorted(found["target_modules"]) == sorted(type(model).adapter_targets)
    assert Path(found["base_model_name_or_path"]) == tmp_path / "base" / "release"
    assert found["auto_mapping"] == {"base_model_class": "Chronos2Model", "parent_library": "chronos.chronos2.model"}
