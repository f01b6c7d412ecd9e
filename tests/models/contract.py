"""Every entry that reads a model's weights, called on a sharded model while its weights are whole, and after gather().

Training calls the network that is split; all of these read weights without it. prepare() needs a run's source: the
runs of families in layouts call it.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from tests.models.zoo import HORIZON, ZOO, Zoo, windows_of

from foretrain.adapters.layers import AdapterConfig, adapt, merged
from foretrain.data.windows import Windows, stack_windows
from foretrain.distributed.world import World
from foretrain.models.base import Embeds, Forecaster, Streams, Trainable
from foretrain.models.request import ForecastRequest
from foretrain.training.parallel import parallelize
from foretrain.training.settings import TrainingConfig

REQUEST = ForecastRequest(prediction_length=HORIZON, quantile_levels=(0.1, 0.5, 0.9), seed=5)


def windows(name: str, cut: int = 0) -> Windows:
    """Return windows that a family trains on; cut: newest steps of their contexts that are left out."""
    entry = ZOO[name]
    kind = next(kind for kind, facts in entry.kinds.items() if facts.trains and facts.even)
    drawn = windows_of(name, kind, 3)
    if cut:
        drawn = [
            replace(
                window,
                context=window.context[:, :-cut],
                context_times=None if window.context_times is None else window.context_times[:-cut],
            )
            for window in drawn
        ]
    return stack_windows(drawn, HORIZON)


def entries(model: Trainable, name: str) -> dict[str, Callable[[], Any]]:
    """Return the entries of a model by name, each as a call without arguments that returns numbers."""
    batch = model.collate(windows(name))
    found: dict[str, Callable[[], Any]] = {
        "forward": lambda: model(batch).total,
        "validation_losses": lambda: [loss.total for loss in model.validation_losses(batch).values()],
        "save_release": lambda: _released(model),
    }
    if model.predicts_values:
        found["predict"] = lambda: [x for x in vars(model.predict(batch)).values() if isinstance(x, torch.Tensor)]
    if hasattr(model, "tokens"):
        found["tokens"] = lambda: model.tokens(batch)[:2]  # type: ignore[operator]
    if isinstance(model, Forecaster):
        found["forecast"] = lambda: model.forecast(batch, REQUEST).quantiles
    if isinstance(model, Embeds):
        found["embed"] = lambda: list(model.embed(batch))
    if isinstance(model, Streams):
        found["stream"] = lambda: _streamed(model, name)
    return found


def _released(model: Trainable) -> list[torch.Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        model.save_release(Path(folder))
        return [tensor for _, tensor in sorted(load_file(Path(folder) / "model.safetensors").items())]


def _streamed(model: Streams, name: str) -> torch.Tensor:
    """Follow windows: two steps are appended, which a cache of keys and values takes up."""
    stream = model.stream(windows(name, cut=2))
    stream.append(windows(name), counts=[2, 2, 2])
    return stream.forecast(REQUEST).quantiles


def numbers(result: Any) -> list[np.ndarray]:
    """Return the arrays of a result."""
    if isinstance(result, (list, tuple)):
        return [array for part in result for array in numbers(part)]
    return [] if result is None else [np.asarray(result.detach() if isinstance(result, torch.Tensor) else result)]


def check_contract(zoo: Zoo, name: str, kind: str, world: World) -> list[str]:
    """Return what is wrong with a family's entries on a model that is split over two processes; [] = nothing.

    The processes call each entry different numbers of times; then both train a step, as the next collective is theirs.
    """
    problems: list[str] = []
    models = [zoo.built(name) for _ in range(2)]
    for model in models:
        if kind == "adapter":
            adapt(model, AdapterConfig(rank=2), seed=1)
            for layer in model.adapter.layers:  # type: ignore[union-attr]
                torch.nn.init.constant_(layer.up, 0.01)
    plain, split = models
    expected = _results(plain, name)
    parallel = parallelize(split, world, TrainingConfig(max_steps=1, parallel="fsdp"))
    if not any(hasattr(p, "to_local") for p in split.parameters()):
        return ["no parameter is split"]
    for times in (1 + world.rank, 2 - world.rank):
        with parallel.unsharded():
            for _ in range(times):
                problems += _differences("unsharded", _results(split, name), expected)
        problems += _step(parallel.network, split, plain, name)
    parallel.gather()
    problems += _differences("gathered", _results(split, name), expected)
    return problems


def _results(model: Trainable, name: str) -> dict[str, list[np.ndarray]]:
    """Call every entry as validation does."""
    model.eval()
    with torch.no_grad(), merged(model), contextlib.redirect_stdout(io.StringIO()):
        found = {}
        for entry, call in entries(model, name).items():
            torch.manual_seed(2)
            found[entry] = numbers(call())
    model.train()
    return found


def _differences(place: str, found: dict[str, list[np.ndarray]], expected: dict[str, list[np.ndarray]]) -> list[str]:
    return [
        f"{place}: {entry}"
        for entry, arrays in expected.items()
        if not all(map(lambda a, b: np.array_equal(a, b, equal_nan=True), found[entry], arrays))
    ]


def _step(network: torch.nn.Module, split: Trainable, plain: Trainable, name: str) -> list[str]:
    """Run forward and backward on both models and compare their gradients; each process has all windows."""
    batch, wrong = split.collate(windows(name)), []
    for model in (network, plain):
        torch.manual_seed(3)
        model(batch).total.backward()
    for key, parameter in split.named_parameters():
        other = plain.get_parameter(key)
        if not parameter.requires_grad:
            continue
        if other.grad is None or parameter.grad is None:
            wrong += [key] if (other.grad is None) != (parameter.grad is None) else []
            continue
        gradient: Any = parameter.grad
        if not torch.allclose(gradient.full_tensor(), other.grad, rtol=1e-5, atol=1e-6):
            wrong.append(f"gradient of {key}")
        parameter.grad = other.grad = None
    return wrong
