"""Releases on disk: upstream's files, key by key, and what a random start is."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from foretrain.errors import ModelError
from foretrain.models.kronos.config import (
    PREDICTOR_PRESETS,
    TOKENIZER_PRESETS,
    KronosConfig,
    TokenizerConfig,
)
from foretrain.models.kronos.model import KronosNetwork, sinusoid
from foretrain.models.kronos.tokenizer import TokenizerNetwork

RECORDED = {
    "tokenizer": TokenizerNetwork.read_release,
    "tokenizer_s5_3": TokenizerNetwork.read_release,
    "predictor_te": KronosNetwork.read_release,
    "predictor_fixed_te": KronosNetwork.read_release,
    "predictor_s5_3": KronosNetwork.read_release,
}
# The largest published model has no released weights, hence no preset.
LARGE = {**PREDICTOR_PRESETS["base"], "n_layers": 18, "d_model": 1664, "n_heads": 32, "ff_dim": 3072}
PUBLISHED = {  # configuration, exact number of parameters, bytes of the published config.json where they are known
    "mini": (KronosConfig(**PREDICTOR_PRESETS["mini"]), 4_108_032, None),
    "small": (KronosConfig(**PREDICTOR_PRESETS["small"]), 24_741_376, 228),
    "base": (KronosConfig(**PREDICTOR_PRESETS["base"]), 102_310_592, 228),
    "large": (KronosConfig(**LARGE), 499_246_976, None),
    "tokenizer base": (TokenizerConfig(**TOKENIZER_PRESETS["base"]), 3_958_042, 301),
    "tokenizer 2k": (TokenizerConfig(**TOKENIZER_PRESETS["2k"]), 3_958_042, None),
}


def network_of(config: TokenizerConfig | KronosConfig, device: str = "cpu") -> TokenizerNetwork | KronosNetwork:
    kind = TokenizerNetwork if isinstance(config, TokenizerConfig) else KronosNetwork
    return kind.empty(config, device)


def linear(name: str, inner: int, outer: int) -> dict[str, list]:
    return {f"{name}.weight": [[outer, inner], "float32"], f"{name}.bias": [[outer], "float32"]}


def attention(name: str, width: int, heads: int) -> dict[str, list]:
    found = {f"{name}.rotary.inv_freq": [[width // heads // 2], "float32"]}
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        found |= linear(f"{name}.{part}", width, width)
    return found


def block(name: str, width: int, heads: int, inner: int) -> dict[str, list]:
    norms = {f"{name}.norm{k}.weight": [[width], "float32"] for k in (1, 2)}
    into = {f"{name}.ffn.{part}.weight": [[inner, width], "float32"] for part in ("w1", "w3")}
    out = {f"{name}.ffn.w2.weight": [[width, inner], "float32"]}
    return norms | into | out | attention(f"{name}.self_attn", width, heads)


def tokenizer_table(c: TokenizerConfig) -> dict[str, list]:
    """Keys of upstream's tokenizer; its stacks have one block fewer than the configuration says."""
    bits = c.s1_bits + c.s2_bits
    found = linear("embed", c.d_in, c.d_model) | linear("head", c.d_model, c.d_in)
    for stack, count in (("encoder", c.n_enc_layers), ("decoder", c.n_dec_layers)):
        for k in range(count - 1):
            found |= block(f"{stack}.{k}", c.d_model, c.n_heads, c.ff_dim)
    found |= linear("quant_embed", c.d_model, bits) | linear("post_quant_embed", bits, c.d_model)
    found |= linear("post_quant_embed_pre", c.s1_bits, c.d_model)
    found |= {"tokenizer.bsq.basis": [[bits], "int64"], "tokenizer.bsq.group_basis": [[c.group_size], "int64"]}
    return found


def predictor_table(c: KronosConfig) -> dict[str, list]:
    """Keys of upstream's predictor; its dependency layer has four heads whatever n_heads is."""
    first, second, width = 2**c.s1_bits, 2**c.s2_bits, c.d_model
    found = {
        "embedding.emb_s1.weight": [[first, width], "float32"],
        "embedding.emb_s2.weight": [[second, width], "float32"],
        "norm.weight": [[width], "float32"],
        "dep_layer.norm.weight": [[width], "float32"],
    }
    found |= linear("embedding.fusion_proj", 2 * width, width)
    table = "weight" if c.learn_te else "emb.weight"
    for part, rows in (("minute", 60), ("hour", 24), ("weekday", 7), ("day", 32), ("month", 13)):
        found[f"time_emb.{part}_embed.{table}"] = [[rows, width], "float32"]
    for k in range(c.n_layers):
        found |= block(f"transformer.{k}", width, c.n_heads, c.ff_dim)
    found |= attention("dep_layer.cross_attn", width, 4)
    return found | linear("head.proj_s1", width, first) | linear("head.proj_s2", width, second)


def described(state: dict[str, torch.Tensor]) -> dict[str, list]:
    return {key: [list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in state.items()}


@pytest.mark.golden
@pytest.mark.parametrize("name", RECORDED)
def test_keys_shapes_and_types_are_the_recorded_ones(recorded, name):
    keys = json.loads((recorded / name / "keys.json").read_text())
    assert described(RECORDED[name](recorded / name).state_dict()) == keys


@pytest.mark.golden
@pytest.mark.parametrize("name", RECORDED)
def test_the_tables_of_these_tests_are_upstreams(recorded, name):
    config = RECORDED[name](recorded / name).config
    table = tokenizer_table(config) if isinstance(config, TokenizerConfig) else predictor_table(config)
    assert table == json.loads((recorded / name / "keys.json").read_text())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_upstreams_keys_and_the_published_number_of_parameters(name):
    config, count, _ = PUBLISHED[name]
    network = network_of(config, "meta")
    table = tokenizer_table(config) if isinstance(config, TokenizerConfig) else predictor_table(config)
    assert described(network.state_dict()) == table
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize("name", [name for name, (_, _, size) in PUBLISHED.items() if size])
def test_our_config_json_of_a_published_size_has_the_published_number_of_bytes(name, tmp_path):
    config, _, size = PUBLISHED[name]
    network_of(config, "meta").write_release(tmp_path, state={})
    assert (tmp_path / "config.json").stat().st_size == size


@pytest.mark.golden
@pytest.mark.parametrize("name", RECORDED)
def test_a_release_read_and_written_again_is_upstreams(recorded, name, tmp_path):
    RECORDED[name](recorded / name).write_release(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == (recorded / name / "config.json").read_bytes()
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path, recorded / name))
    assert described(ours) == described(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_what_upstream_does_not_know_is_written_where_it_differs_and_read_back(kit, tmp_path):
    model = kit.predictor(clip=3.0, max_context=64)
    model.network.write_release(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    assert (raw["clip"], raw["max_context"]) == (3.0, 64)
    assert KronosNetwork.read_release(tmp_path).config == model.network.config


def test_keys_of_a_newer_upstream_survive(kit, tmp_path):
    kit.tokenizer().network.write_release(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "later": [1]}))
    network = TokenizerNetwork.read_release(tmp_path)
    (tmp_path / "again").mkdir()
    network.write_release(tmp_path / "again")
    assert json.loads((tmp_path / "again/config.json").read_text()) == json.loads(path.read_text())


def test_weights_of_another_architecture_are_refused(kit, tmp_path):
    kit.predictor().network.write_release(tmp_path)
    with pytest.raises(ModelError, match=r"lacks transformer.1"):
        KronosNetwork.read_release(tmp_path, replace(kit.predictor().config, n_layers=2))


def test_a_random_predictor_is_initialised_as_upstreams(kit):
    network = kit.predictor(d_model=128, ff_dim=256, n_layers=2).network
    state = {key: value.detach() for key, value in network.named_parameters() if "norm" not in key}
    for key, value in state.items():
        if key.endswith("bias"):
            assert not value.any(), key
            continue
        table = "emb_s" in key or "time_emb" in key
        std = 128**-0.5 if table else (2 / sum(value.shape)) ** 0.5
        assert float(value.std()) == pytest.approx(std, rel=0.1), key
    assert all((value == 1).all() for key, value in network.named_parameters() if "norm" in key)


def test_a_random_tokenizer_is_initialised_as_torch_does(kit):
    network = kit.tokenizer(d_model=128, ff_dim=256).network
    for key, value in network.named_parameters():
        if "norm" in key:
            assert (value == 1).all()
            continue
        fan_in = network.get_submodule(key.rpartition(".")[0]).in_features
        bound = fan_in**-0.5
        assert float(value.detach().abs().max()) <= bound, key
        if value.numel() > 500:
            assert float(value.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.1), key


def test_fixed_time_tables_start_as_sines_and_cosines_and_stay_frozen(kit):
    model = kit.predictor(learn_te=False)
    for name, rows in (("minute", 60), ("month", 13)):
        table = model.network.get_parameter(f"time_emb.{name}_embed.emb.weight")
        assert torch.equal(table, sinusoid(rows, 16)) and not table.requires_grad
    assert not any("time_emb" in key for key in model.parameter_groups())


def test_initialising_is_a_function_of_the_seed_alone(kit):
    config = kit.predictor().config
    made = []
    for drawn in (0, 100):
        network = network_of(config)
        torch.rand(drawn)
        network.initialise(5)
        made.append(torch.nn.utils.parameters_to_vector(network.parameters()))
    assert torch.equal(*made)
