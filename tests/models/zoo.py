"""Small models of every family, and windows of every kind that they take, for suites that run over all families.

A new family adds one entry to ZOO.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foretrain.config import build as build_section
from foretrain.data.windows import Window
from foretrain.models import FAMILIES, family
from foretrain.models.base import Batch, Trainable

CONTEXT, HORIZON = 24, 6
MINUTE = 60_000_000  # microseconds
CANDLE = ("open", "high", "low", "close", "volume", "amount")
Make = Callable[[np.random.Generator, int], Window]  # draws and the number of the window in its batch


@dataclass(frozen=True)
class Kind:
    """Windows of one kind; each has a future for every row, as an evaluator has it."""

    make: Make
    trains: bool = True  # the family has a loss for them
    even: bool = False  # all of them have full length and no missing values


@dataclass(frozen=True)
class Entry:
    """A family's model and windows for the suites."""

    section: dict[str, Any]  # `model:` of a model of some thousand parameters, without dropout
    kinds: Mapping[str, Kind]
    dropout: tuple[str, ...]  # keys of the section that are dropout rates
    learning_rate: float  # of Adam, at which it overfits a single batch in a few dozen steps
    forecasts: bool = True
    samples: bool = False  # forecasts are sampled
    candles: bool = False  # needs the columns of a candle and accepts no others
    parts: dict[str, str] = field(default_factory=dict)  # key of the section: family whose release it names
    # names in validation_losses that are not sums over windows (the codebook entropy belongs to a micro-batch)
    of_micro_batches: frozenset[str] = frozenset()


def series(rows: int, *, past: int = 0, known: int = 0, shorter: int = 0, holes: float = 0.0, more: int = 0) -> Make:
    """Random walks; the window with number i has i * `shorter` steps fewer and i % 3 * `more` rows more."""

    def make(rng: np.random.Generator, i: int) -> Window:
        steps = CONTEXT - shorter * i
        values = rng.standard_normal((rows + i % 3 * more, steps + HORIZON)).cumsum(1).astype(np.float32)
        if holes:
            values[rng.random(values.shape) < holes] = np.nan
            values[0, :9] = np.nan
        return Window(values[:, :steps], len(values) - past - known, past, values[:, steps:])

    return make


def candles(
    *columns: tuple[str, ...],
    past: int = 0,
    shorter: int = 0,
    holes: float = 0.0,
    times: bool = True,
    named: bool = True,
) -> Make:
    """5-minute candles around a random walk; the window with number i takes the columns at i modulo their number."""

    def make(rng: np.random.Generator, i: int) -> Window:
        steps, chosen = CONTEXT - shorter * i, columns[i % len(columns)]
        total = steps + HORIZON
        close = 100 + rng.standard_normal(total).cumsum()
        opened, edge = close + rng.normal(0, 0.2, total), rng.uniform(0.1, 0.5, total)
        volume = rng.uniform(1e5, 1e6, total)
        bars = [
            opened,
            np.maximum(opened, close) + edge,
            np.minimum(opened, close) - edge,
            close,
            volume,
            volume * close,
        ]
        values = np.array([bars[CANDLE.index(name)] for name in chosen], np.float32)
        if holes:
            values[rng.random(values.shape) < holes] = np.nan
            values[0, :5] = np.nan
        clock = (28_487_460 + 5 * (i * 100 + np.arange(total))) * MINUTE  # from 2024-02-29 23:00
        return Window(
            values[:, :steps],
            len(chosen) - past,
            past,
            values[:, steps:],
            context_times=clock[:steps] if times else None,
            future_times=clock[steps:] if times else None,
            names=chosen if named else (),
        )

    return make


CANDLES = {
    "candles": Kind(candles(CANDLE), even=True),
    "prices only": Kind(candles(CANDLE[:4]), even=True),
    "close with past covariates": Kind(candles(("close", "open", "high", "low"), past=3), trains=False),
    "ragged": Kind(candles(CANDLE, CANDLE[:4], CANDLE[:5], shorter=3)),
    "missing": Kind(candles(CANDLE, holes=0.15)),
    "no times": Kind(candles(CANDLE, times=False, named=False), even=True),
}
GENERAL = {
    "univariate": Kind(series(1), even=True),
    "multivariate": Kind(series(3), even=True),
    "past covariate": Kind(series(2, past=1)),
    "known covariate": Kind(series(2, known=1, shorter=5)),
    "ragged": Kind(series(1, shorter=3, more=1)),
    "missing": Kind(series(2, holes=0.3)),
}
# of families that leave covariates out, so that none of them reaches a forecast
TARGETS_ONLY = {"covariates left out" if "known" in name else name: kind for name, kind in GENERAL.items()}
ZOO = {
    "chronos2": Entry(
        section={"random_init": True, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 2,
                 "patch_size": 4, "quantiles": [0.1, 0.5, 0.9], "initializer_factor": 1.0, "dropout_rate": 0.0},
        kinds=GENERAL,
        dropout=("dropout_rate",),
        learning_rate=1e-2,
    ),
    "kronos": Entry(
        section={"random_init": True, "d_model": 16, "n_heads": 2, "ff_dim": 32, "n_layers": 2, "ffn_dropout_p": 0.0,
                 "attn_dropout_p": 0.0, "resid_dropout_p": 0.0, "token_dropout_p": 0.0},
        kinds=CANDLES,
        dropout=("ffn_dropout_p", "attn_dropout_p", "resid_dropout_p", "token_dropout_p"),
        learning_rate=1e-2,
        samples=True,
        candles=True,
        parts={"tokenizer": "kronos_tokenizer"},
    ),
    "kronos_tokenizer": Entry(
        section={"random_init": True, "d_model": 16, "n_heads": 2, "ff_dim": 32, "n_enc_layers": 2, "n_dec_layers": 3,
                 "s1_bits": 4, "s2_bits": 4},
        kinds={name: kind for name, kind in CANDLES.items() if kind.trains},
        dropout=("ffn_dropout_p", "attn_dropout_p", "resid_dropout_p"),
        learning_rate=1e-2,
        forecasts=False,
        candles=True,
        of_micro_batches=frozenset({"loss", "quantiser_loss", "codebook_entropy"}),
    ),
    "linear": Entry(
        section={"random_init": True, "patch_size": 4, "d_model": 8, "trend_kernel": 5},
        kinds=TARGETS_ONLY,
        dropout=(),
        learning_rate=1e-2,
    ),
    # with the floor of new models; golden tests hold that of published ones
    "toto": Entry(
        section={"random_init": True, "patch_size": 3, "embed_dim": 16, "num_layers": 3, "num_heads": 2,
                 "mlp_hidden_dim": 32, "dropout": 0.0, "spacewise_every_n_layers": 3, "k_components": 2,
                 "variate_labels": True, "scale_floor": "relative"},
        kinds=GENERAL,
        dropout=("dropout",),
        learning_rate=1e-2,
        samples=True,
    ),
    "toto2": Entry(
        section={"random_init": True, "patch_size": 4, "d_model": 16, "num_heads": 2, "num_layers": 3, "d_ff": 24,
                 "layer_group_size": 3, "scale_floor": "relative"},
        kinds=GENERAL,
        dropout=(),
        learning_rate=3e-2,
    ),
}  # fmt: skip
assert ZOO.keys() == FAMILIES.keys()


def kinds_of(*, trains: bool = False, forecasts: bool = False, even: bool = False) -> list[tuple[str, str]]:
    """Return (family, kind) of all windows with these properties."""
    return [
        (name, kind)
        for name, entry in ZOO.items()
        for kind, facts in entry.kinds.items()
        if (facts.trains or not trains) and (entry.forecasts or not forecasts) and (facts.even or not even)
    ]


def windows_of(name: str, kind: str, count: int = 4, seed: int = 0) -> list[Window]:
    """Draw windows of one of a family's kinds."""
    entry = ZOO[name]
    rng = np.random.default_rng([list(entry.kinds).index(kind), seed])
    return [replace(entry.kinds[kind].make(rng, i), item_id=f"{kind}{i}", key=i) for i in range(count)]


@torch.no_grad()
def tokens_up_to_cutoff(model: Trainable, batch: Batch) -> list[torch.Tensor]:
    """Return each window's tokens up to its cutoff, for families with tokens and batches that they can train on."""
    if not hasattr(model, "tokens") or "future_target" not in batch:
        return []
    first, second, _ = model.tokens(batch)  # type: ignore[operator]
    longest = batch["context"].shape[1]
    lengths = batch["lengths"].tolist() if "lengths" in batch else [longest] * len(first)
    return [ids[b, :length] for ids in (first, second) for b, length in enumerate(lengths)]


class Zoo:
    """Builds small models; the releases that they need are stored in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shared = cache(lambda name: self.built(name).eval())  # tests must not change it

    def built(self, name: str, seed: int = 0, **changes: Any) -> Trainable:
        """Build a model of the family, in training mode."""
        chosen, entry = family(name), ZOO[name]
        parts = {key: self._part(part) for key, part in entry.parts.items()}
        section = build_section(chosen.config(), {"family": name, **entry.section, **parts, **changes})
        return chosen.build(section, context_length=CONTEXT, prediction_length=HORIZON, seed=seed)

    def _part(self, name: str) -> str:
        folder = self.folder / name
        if not folder.exists():
            folder.mkdir(parents=True)
            self.built(name).save_release(folder)
        return str(folder)
