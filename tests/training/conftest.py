"""A model and a source that train in seconds, with uneven loss weights that reveal a wrong average."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from foretrain.config import Section
from foretrain.data.windows import TARGET, Windows
from foretrain.distributed.world import World
from foretrain.models.base import Batch, Loss, ParameterRole, Trainable, TrainingPrediction
from foretrain.training.optimizer import OptimizerConfig
from foretrain.training.schedule import ScheduleConfig
from foretrain.training.settings import TrainingConfig
from foretrain.training.trainer import Trainer

CONTEXT, HORIZON, WIDTH = 12, 4, 16


class Block(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.runs = 0

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            self.runs += 1
        return x + self.dropout(torch.tanh(self.inner(self.norm(x))))


class Toy(Trainable):
    """Two blocks between two projections; the loss counts observed futures only, so that weights are uneven."""

    family = "toy"

    def __init__(self, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Linear(CONTEXT, WIDTH)
        self.body = nn.ModuleList([Block(dropout), Block(dropout)])
        self.last = nn.Linear(WIDTH, HORIZON)

    def collate(self, windows: Windows) -> Batch:
        return {"context": torch.from_numpy(windows.context), "future": torch.from_numpy(windows.future)}

    def native_loss(self, batch: Batch) -> Loss:
        prediction = self.predict(batch)
        error = torch.where(prediction.observed, prediction.point - prediction.target, 0.0)
        return Loss((error**2).sum(), prediction.observed.sum().float())

    def predict(self, batch: Batch) -> TrainingPrediction:
        x, future = self.first(batch["context"]), batch["future"]
        for block in self.body:
            x = block(x)
        zero, last = torch.zeros(len(x), 1), batch["context"][:, -1:]
        return TrainingPrediction(
            torch.nan_to_num(future), ~torch.isnan(future), self.last(x).float(), zero, zero + 1, last
        )

    def parameter_groups(self) -> dict[str, ParameterRole]:
        return {
            name: ParameterRole("matrix" if p.dim() > 1 else "vector", 0.5 if name.startswith("last") else 1.0)
            for name, p in self.named_parameters()
        }

    def blocks(self) -> list[nn.Module]:
        return list(self.body)

    def save_release(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        from safetensors.torch import save_file

        state = dict(self.state_dict()) if state is None else state
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"toy": True}))

    def flops_per_window(self, context_length: int, prediction_length: int, variates: int = 1) -> float:
        return 2.0 * variates * WIDTH * (context_length + 2 * WIDTH + prediction_length)


class Waves:
    """A source whose window n depends on (seed, n) alone; a third of the futures are missing, unevenly over windows."""

    fingerprint = "waves-1"

    def __init__(self, seed: int = 0, poison: dict[int, float] | None = None, epoch_length: int = 50) -> None:
        self.seed, self.poison, self.epoch_length = seed, poison or {}, epoch_length
        self.asked: list[tuple[int, int]] = []

    def windows(self, first: int, count: int) -> Windows:
        self.asked.append((first, count))
        rows = [self._window(n) for n in range(first, first + count)]
        values = np.stack(rows).astype(np.float32)
        return Windows(
            context=np.ascontiguousarray(values[:, :CONTEXT]),
            future=np.ascontiguousarray(values[:, CONTEXT:]),
            window=np.arange(count),
            role=np.full(count, TARGET, np.int8),
            key=np.arange(first, first + count, dtype=np.uint64),
            source=np.stack([np.zeros(count), np.arange(first, first + count), np.full(count, CONTEXT)], 1).astype(int),
        )

    def _window(self, n: int) -> np.ndarray:
        draw = np.random.default_rng((self.seed, n))
        values = np.sin(np.arange(CONTEXT + HORIZON) * draw.uniform(0.2, 1.5) + draw.uniform(0, 6))
        values[CONTEXT:][draw.random(HORIZON) < (n % 3) / 3] = np.nan
        if n in self.poison:
            values[0] = self.poison[n]
        return values


class ToyRun(Section):
    """The config of a toy's run."""

    training: TrainingConfig
    optimizer: OptimizerConfig


class Kit:
    """Helpers for tests and for the scripts that they start."""

    Model, Source, Optimizer, Schedule = Toy, Waves, OptimizerConfig, ScheduleConfig

    @staticmethod
    def config(**settings: Any) -> TrainingConfig:
        defaults = {"best_metric": "loss", "batch_size": 8, "log_every": 1, "tensorboard": False, "checkpoint_every": 5}
        if "epochs" not in settings:
            defaults["max_steps"] = 12
        return TrainingConfig(**{**defaults, **settings})

    @staticmethod
    def trainer(out: Path, *, model: Any = None, source: Any = None, optimizer: Any = None, **rest: Any) -> Trainer:
        """Build a trainer; keywords that Trainer lacks are training settings."""
        names = (
            "resume",
            "evaluate",
            "evaluators",
            "on_validation",
            "world",
            "console",
            "facts",
            "seed",
            "units",
            "sinks",
        )
        own = {name: rest.pop(name) for name in names if name in rest}
        config = Kit.config(**rest)
        optimizer = optimizer or OptimizerConfig(learning_rate=1e-2)
        tree = {"training": config.model_dump(mode="json"), "optimizer": optimizer.model_dump(mode="json")}
        own = {"seed": 1, "world": World(), "console": Console(file=io.StringIO(), width=400), **own}
        return Trainer(
            model or Toy(),
            source or Waves(),
            config,
            optimizer,
            output_dir=out,
            resolved_config=tree,
            schema=ToyRun,
            **own,
        )

    @staticmethod
    def lines(out: Path, kind: str = "train") -> list[dict[str, Any]]:
        records = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        return [record for record in records if record["kind"] == kind]

    @staticmethod
    def losses(out: Path) -> list[tuple[int, float]]:
        return [(record["step"], record["loss"]) for record in Kit.lines(out)]

    @staticmethod
    def release(out: Path) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        return load_file(out / "release" / "model.safetensors")

    @staticmethod
    def steps(out: Path) -> list[int]:
        """Return the steps of the retained checkpoints."""
        return sorted(int(path.name.removeprefix("step-")) for path in (out / "checkpoints").glob("step-*"))


@pytest.fixture(scope="session")
def toy() -> type[Kit]:
    torch.set_num_threads(1)
    return Kit
