"""Reading and writing model.safetensors, for any family."""

from __future__ import annotations

import errno
import json
import os
import resource

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from foretrain.errors import ModelError
from foretrain.models.weights import read_weights, replacing_tensors, write_weights


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4, bias=False))
    made.register_buffer("count", torch.tensor([seed, 7]))
    return made


def same(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_weights_and_buffers_are_restored(tmp_path):
    write_weights(network(1).state_dict(), tmp_path)
    target = network(2)
    read_weights(tmp_path, target)
    assert same(target, network(1)) and not same(target, network(2))
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_parameters_stay_trainable_and_the_same_objects(tmp_path):
    write_weights(network(1).state_dict(), tmp_path)
    target = network(2)
    held = list(target.parameters())
    read_weights(tmp_path, target)
    assert all(a is b and a.requires_grad for a, b in zip(held, target.parameters(), strict=True))


def test_half_precision_is_read_into_the_networks_own_type(tmp_path):
    write_weights(network(1).bfloat16().state_dict(), tmp_path)
    target = network(2)
    read_weights(tmp_path, target)
    assert target[0].weight.dtype == torch.float32
    assert torch.equal(target[0].weight, network(1)[0].weight.bfloat16().float())


def test_parameters_and_views_are_written_as_plain_tensors(tmp_path):
    made = network(1)
    write_weights(
        {**dict(made.named_parameters()), "1.weight": made[1].weight.T.contiguous().T, "count": made.count}, tmp_path
    )
    target = network(2)
    read_weights(tmp_path, target)
    assert same(target, made)


def test_several_files_are_read_through_their_index(tmp_path):
    state = network(1).state_dict()
    files = {"a.safetensors": ["0.weight", "count"], "b.safetensors": ["0.bias", "1.weight"]}
    for file, names in files.items():
        save_file({name: state[name] for name in names}, tmp_path / file)
    index = {"weight_map": {name: file for file, names in files.items() for name in names}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    target = network(2)
    read_weights(tmp_path, target)
    assert same(target, network(1))


def test_an_index_cannot_point_outside_its_folder(tmp_path):
    inside = tmp_path / "release"
    inside.mkdir()
    save_file(network(1).state_dict(), tmp_path / "outside.safetensors")
    index = {"weight_map": dict.fromkeys(network().state_dict(), "../outside.safetensors")}
    (inside / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"release/outside.safetensors: no such file"):
        read_weights(inside, network())


def damage(folder, how: str) -> None:
    path = folder / "model.safetensors"
    state = network(1).state_dict()
    changes = {
        "absent": path.unlink,
        "truncated": lambda: path.write_bytes(path.read_bytes()[:-9]),
        "text": lambda: path.write_bytes(b"not safetensors at all"),
        "empty": lambda: path.write_bytes(b""),
        "missing key": lambda: save_file({k: v for k, v in state.items() if k != "0.bias"}, path),
        "unknown keys": lambda: save_file(state | {f"extra{k}": torch.zeros(1) for k in range(5)}, path),
        "other shape": lambda: save_file(state | {"0.bias": torch.zeros(3)}, path),
        "index without a map": lambda: (path.unlink(), (folder / f"{path.name}.index.json").write_text("{}")),
        "index that is no JSON": lambda: (path.unlink(), (folder / f"{path.name}.index.json").write_text("{")),
        "a part missing": lambda: (
            path.unlink(),
            (folder / f"{path.name}.index.json").write_text('{"weight_map": {"0.bias": "part.safetensors"}}'),
        ),
    }
    changes[how]()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("absent", "no such file"),
        ("truncated", "damaged or incomplete"),
        ("text", "damaged or incomplete"),
        ("empty", "damaged or incomplete"),
        ("missing key", "lacks 0.bias"),
        ("unknown keys", "has unknown extra0, extra1, extra2 and 2 more"),
        ("other shape", r"0.bias has shape \(3,\), config.json needs \(2,\)"),
        ("index without a map", "damaged or incomplete"),
        ("index that is no JSON", "damaged or incomplete"),
        ("a part missing", r"part.safetensors: no such file"),
    ],
)
def test_damaged_weights_are_refused_in_one_line_and_change_nothing(tmp_path, how, said):
    write_weights(network(1).state_dict(), tmp_path)
    damage(tmp_path, how)
    target = network(2)
    with pytest.raises(ModelError, match=said) as error:
        read_weights(tmp_path, target)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    assert same(target, network(2))


def test_values_that_are_not_finite_are_refused(tmp_path):
    broken = network(1)
    with torch.no_grad():
        broken[1].weight[0, 0] = torch.nan
    write_weights(broken.state_dict(), tmp_path)
    target = network(2)
    with pytest.raises(ModelError, match=r"1\.weight holds values that are not finite"):
        read_weights(tmp_path, target)
    assert same(target, network(2))


def test_a_full_disk_raises_oserror(tmp_path):
    """The kernel's limit on file sizes stands for the full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            write_weights({"weight": torch.zeros(1000)}, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.errno == errno.EFBIG


def test_other_users_may_read_weights_if_the_mask_of_new_files_lets_them(tmp_path):
    for mask, mode in ((0o022, 0o644), (0o077, 0o600)):
        before = os.umask(mask)
        try:
            write_weights(network().state_dict(), tmp_path)
        finally:
            os.umask(before)
        assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == mode
        (tmp_path / "model.safetensors").unlink()


@pytest.mark.parametrize("names", [None, [], {}, 3, {"a": 1}, {"a": None}])
def test_an_index_that_names_no_files_is_refused_in_one_line(tmp_path, names):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(ModelError, match="weight_map of the index names no files"):
        read_weights(tmp_path, network())


def test_tensors_replace_a_file_and_the_next_write_deletes_what_a_kill_of_safetensors_left(tmp_path):
    path = tmp_path / "tokens.safetensors"
    with replacing_tensors(path) as scratch:
        save_file({"a": torch.ones(2)}, scratch)
        assert list(tmp_path.iterdir()) == [scratch.parent]
    scratch.parent.mkdir()
    (scratch.parent / ".tmpAbC123").touch()
    with replacing_tensors(path) as scratch:
        save_file({"a": torch.zeros(2)}, scratch)
    with safe_open(path, framework="pt") as tensors:
        assert not tensors.get_tensor("a").any()
    mask = os.umask(0o077)
    os.umask(mask)
    assert list(tmp_path.iterdir()) == [path] and path.stat().st_mode & 0o777 == 0o666 & ~mask
