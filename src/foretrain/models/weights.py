"""Reading and writing the model.safetensors of a release."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from foretrain.atomic import replacing_file
from foretrain.errors import ModelError
from foretrain.reading import Unreadable, read_object


def read_weights(folder: Path, network: nn.Module) -> None:
    """Load a release's weights into a network on the CPU. Raises ModelError as read_tensors and fill_network do."""
    fill_network(network, read_tensors(folder), folder)


def fill_network(network: nn.Module, found: Mapping[str, Tensor], folder: Path) -> None:
    """Copy tensors into a network on the CPU by name; `folder` names their source in errors.

    Raises ModelError if names or shapes differ from the network's, or if values are not finite; the network is then
    unchanged.
    """
    check_shapes(network, found, folder)
    for name, tensor in found.items():
        if not tensor.isfinite().all():
            raise ModelError(
                f"{folder}: {name} holds values that are not finite, so nothing can be computed: the file is "
                "damaged, or its training diverged. Restore it, or export an earlier checkpoint."
            )
    for name, tensor in network.state_dict().items():
        tensor.copy_(found[name])


def check_shapes(network: nn.Module, found: Mapping[str, Tensor], folder: Path) -> None:
    """Raise ModelError if the names or shapes of tensors differ from a network's, which may be on "meta"."""
    expected = network.state_dict()
    missing = sorted(expected.keys() - found.keys())
    unknown = sorted(found.keys() - expected.keys())
    if missing or unknown:
        facts = [f"lacks {_some(missing)}" if missing else "", f"has unknown {_some(unknown)}" if unknown else ""]
        raise ModelError(f"{folder}: the weights do not fit config.json: {', '.join(filter(None, facts))}.")
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            raise ModelError(
                f"{folder}: {name} has shape {tuple(found[name].shape)}, config.json needs {tuple(tensor.shape)}."
            )


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read the weights of a release by name, on the CPU, from one file or from several with an index.

    Raises ModelError if files are missing or damaged.
    """
    index = folder / "model.safetensors.index.json"
    try:
        files = [folder / "model.safetensors"]
        if not files[0].exists() and index.exists():
            files = [folder / name for name in _names_in(index)]
        weights: dict[str, Tensor] = {}
        for file in files:
            if not file.is_file():
                raise ModelError(f"{file}: no such file; a release holds config.json and model.safetensors.")
            with safe_open(file, framework="pt") as tensors:
                weights |= {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        return weights
    except (SafetensorError, Unreadable, OSError, RuntimeError) as error:  # RuntimeError: torch maps the file again
        raise ModelError(f"{folder}: cannot read the weights ({error}); the file is damaged or incomplete.") from None


def _names_in(index: Path) -> list[str]:
    """Return the names of the files in an index of weights. Raises Unreadable."""
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise Unreadable("weight_map of the index names no files")
    return sorted({Path(name).name for name in names.values()})


def write_weights(weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write model.safetensors into an existing folder. Raises OSError if the disk refuses it."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    path = folder / "model.safetensors"
    with disk_errors(path):
        save_file(plain, path, metadata={"format": "pt"})
        share(path)


def share(path: Path) -> None:
    """Give a file the mode of other new files: safetensors writes it so that no other user can read it."""
    mask = os.umask(0o077)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


@contextmanager
def replacing_tensors(path: Path) -> Iterator[Path]:
    """Yield a scratch file for safetensors to write, which replaces `path` when the block ends. Raises OSError.

    safetensors writes under a random name beside it first, which the next write could not delete after a kill.
    """
    with replacing_file(path, in_folder=True) as scratch, disk_errors(path):
        yield scratch
        share(scratch)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the write errors of safetensors into OSError; safetensors gives their number in its message only."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
