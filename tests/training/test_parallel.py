"""Activation checkpointing by kind, and how many processes share a model."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from foretrain.distributed.world import World
from foretrain.errors import ConfigError
from foretrain.training.parallel import parallelize, shards, unwrap


class Counted(TorchDispatchMode):
    """Counts products of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.products = self.others = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.products += 1
        else:
            self.others += 1
        return func(*args, **(kwargs or {}))


def counted(toy, kind: str) -> Counted:
    model = toy.Model()
    parallelize(model, World(), toy.config(activation_checkpointing=kind))
    with Counted() as mode:
        model(model.collate(toy.Source().windows(0, 4))).total.backward()
    unwrap(model)
    return mode


def test_selective_checkpointing_repeats_all_of_a_block_but_its_products(toy):
    off, selective, full = (counted(toy, kind) for kind in ("off", "selective", "full"))
    assert selective.products == off.products
    assert full.products == off.products + 2  # one in each block
    assert selective.others > off.others


def test_selective_checkpointing_changes_no_loss(toy, tmp_path):
    for kind in ("off", "selective"):
        toy.trainer(tmp_path / kind, model=toy.Model(dropout=0.2), activation_checkpointing=kind).fit()
    assert toy.losses(tmp_path / "selective") == toy.losses(tmp_path / "off")


@pytest.mark.parametrize(
    ("settings", "size", "expected"),
    [
        ({}, 4, 1),
        ({"parallel": "fsdp"}, 1, 1),
        ({"parallel": "fsdp2"}, 4, 4),
        ({"parallel": "hsdp", "shard_size": 2}, 4, 2),
        ({"parallel": "hsdp"}, 4, 4),
    ],
)
def test_the_processes_that_share_a_copy_follow_from_the_config(toy, settings, size, expected):
    assert shards(toy.config(**settings), toy.Model(), World(size=size)) == expected


def test_a_node_s_processes_that_do_not_divide_those_of_the_run_are_refused(toy):
    with pytest.raises(ConfigError, match=r"hsdp: 3 \(of a node\) does not divide the 4 processes"):
        shards(toy.config(parallel="hsdp"), toy.Model(), World(size=4, local_size=3))
