"""Network and ReleaseModel, the base classes of families: initialisation, files, and the model of a network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from foretrain.config import build
from foretrain.errors import ModelError
from foretrain.models.architecture import Architecture, Whole, section_of
from foretrain.models.base import ForecastOptions, Loss
from foretrain.models.release import Network, ReleaseModel, check_size


@dataclass(frozen=True)
class StackConfig(Architecture):
    title = "stack of layers"
    signature = ("depth",)

    depth: Whole = 2


class StackSection(section_of(StackConfig, ("depth",))):
    family: Literal["stack"] = "stack"


class StackNetwork(Network):
    architecture = StackConfig

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Embedding(3, 4)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(config.depth))
        self.head = nn.Linear(4, 1)

    def initialise(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    @classmethod
    def own_names(cls, tensors):
        return {name.removeprefix("stack."): tensor for name, tensor in tensors.items()}

    @staticmethod
    def published_name(name):
        return f"stack.{name}"


class Stack(ReleaseModel):
    family = "stack"
    network_class, section = StackNetwork, StackSection
    block_lists = ("layers",)
    head_parts = (".head.",)
    embedding_parts = (".table.",)

    def collate(self, windows):
        return {}

    def native_loss(self, batch):
        return Loss(torch.zeros(()), torch.zeros(()))

    def flops_per_window(self, context_length, prediction_length, variates=1):
        return 0.0


def built(device: str = "cpu", seed: int = 0, **keys) -> Stack:
    section = build(StackSection, keys or {"random_init": True})
    return Stack.build(section, context_length=8, prediction_length=2, seed=seed, device=device)


def test_roles_and_blocks_follow_from_the_declared_names():
    model = built()
    roles = {name: role.role for name, role in model.parameter_groups().items()}
    assert roles["network.table.weight"] == "embedding" and roles["network.head.weight"] == "head"
    assert roles["network.layers.0.weight"] == "matrix" and roles["network.head.bias"] == "vector"
    assert model.blocks() == list(model.network.layers)


def test_a_release_is_read_back_under_upstreams_names(tmp_path):
    model = built(random_init=True, depth=3)
    model.save_release(tmp_path)
    assert all(name.startswith("stack.") for name in load_file(tmp_path / "model.safetensors"))
    assert json.loads((tmp_path / "config.json").read_text()) == {"depth": 3}
    loaded = Stack.load(tmp_path)
    assert not loaded.training and loaded.config == model.config
    again = built(model_id=str(tmp_path), seed=1)
    for other in (loaded, again):
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert again.parents["model"] and not model.parents


def test_a_release_is_built_on_meta_without_memory(tmp_path):
    built().save_release(tmp_path)
    for keys in ({}, {"model_id": str(tmp_path)}):
        assert all(parameter.is_meta for parameter in built("meta", **keys).parameters())


def test_other_folders_and_parts_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="has no depth, so this is not a stack of layers"):
        Stack.load(tmp_path)
    with pytest.raises(ModelError, match="a stack of layers has no tokenizer; leave it out"):
        Stack.load(tmp_path, tokenizer="x")


def test_the_record_of_a_family_follows_from_the_declarations_of_the_class():
    family = Stack.as_family(needs="columns")
    assert family.name == "stack" and family.config() is StackSection and family.needs == "columns"
    assert issubclass(family.options(), ForecastOptions) and family.matches({"depth": 1})


def test_a_network_that_no_memory_holds_is_refused_before_it_is_built():
    with pytest.raises(ModelError, match="depth is 1099511627776, must be at most 1,048,576"):
        StackConfig(depth=2**40)
    outline = nn.Linear(2**22, 2**22, device="meta")
    with pytest.raises(ModelError, match="stack of layers: its weights would take 65,536 GiB, and this machine has"):
        check_size(outline, "stack of layers")


def test_weights_of_other_shapes_are_refused_before_memory_is_taken(tmp_path, monkeypatch):
    StackNetwork.empty(StackConfig()).write_release(tmp_path)
    (tmp_path / "config.json").write_text('{"depth": 3}')
    monkeypatch.setattr("foretrain.models.release.check_size", lambda outline, title: pytest.fail("was built"))
    with pytest.raises(ModelError, match=r"lacks layers\.2"):
        StackNetwork.read_release(tmp_path)
