"""Builders shared by the tests of this folder."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pytest
import torch

from foretrain.data.store import Corpus
from foretrain.data.windows import TARGET
from foretrain.evaluation.scored import Scored
from foretrain.models.base import Columns, Family, Forecast, Forecaster, ForecastOptions, Loss, ParameterRole, Trainable
from foretrain.models.memory import Phase
from foretrain.notes import Code, Tally

LEVELS = tuple(round(0.1 * k, 1) for k in range(1, 10))


@pytest.fixture(scope="session")
def levels():
    return LEVELS


@pytest.fixture(scope="session")
def make_scored():
    """Builder of a Scored from the truth (N, H) and quantiles (N, H, 9) or a point forecast (N, H) for all levels."""

    def build(target, forecast, *, last=None, seasonal_error=None, item=None, price=False, stride=None, **more):
        target = np.asarray(target, np.float64)
        forecast = np.asarray(forecast, np.float64)
        rows, horizon = target.shape
        if forecast.ndim == 2:
            forecast = np.repeat(forecast[:, :, None], len(LEVELS), 2)
        item = np.arange(rows) if item is None else np.asarray(item)
        items = tuple(f"item-{k}" for k in range(int(item.max()) + 1))
        fields = {
            "target": target,
            "quantiles": forecast,
            "levels": LEVELS,
            "last": np.ones(rows) if last is None else np.asarray(last, np.float64),
            "seasonal_error": np.ones(rows) if seasonal_error is None else np.asarray(seasonal_error, np.float64),
            "item": item,
            "items": items,
            "unit": tuple(f"{name} currency" if price else "value" for name in items),
            "price": np.full(rows, price),
            "cutoff": np.zeros(rows, np.int64),
            "rank": np.zeros(rows, np.int64),
            "start": np.zeros(rows, np.int64),
            "end": np.zeros(rows, np.int64),
            "stride": stride or horizon,
        }
        return Scored(**{**fields, **more})

    return build


class Persistence(Forecaster):
    """The last observed value plus a bias, with a fixed normal spread; repeats the truth if it gets it."""

    family = "persistence"
    max_context_length = 64
    bucket_length = 16

    def __init__(self, bias: float = 0.0, noise: float = 0.0) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.tensor(bias))
        self.noise = noise
        self.seen: list[int] = []  # number of rows of each batch

    def collate(self, windows):
        rows = windows.role == TARGET
        context = windows.context[rows]
        observed = np.isfinite(context)
        newest = context.shape[1] - 1 - observed[:, ::-1].argmax(1)
        last = np.where(observed.any(1), context[np.arange(len(context)), newest], 0.0)
        key = windows.key[windows.window[rows]].astype(np.int64)
        future = torch.from_numpy(windows.future[rows])
        return {"last": torch.from_numpy(last.astype(np.float32)), "future": future, "key": torch.from_numpy(key)}

    def native_loss(self, batch):
        observed = torch.isfinite(batch["future"])
        error = (batch["future"] - batch["last"][:, None] - self.bias).abs()
        return Loss(torch.where(observed, error, 0.0).sum(), observed.sum())

    def forecast(self, batch, request):
        self.seen.append(len(batch["last"]))
        spread = torch.tensor([NormalDist().inv_cdf(level) for level in request.quantile_levels])
        wobble = self.noise * torch.sin(batch["key"].double()).float()  # of the window, not of the batch
        point = (batch["last"] + self.bias + wobble)[:, None].expand(-1, request.prediction_length)
        point = torch.where(torch.isfinite(batch["future"]), batch["future"], point)
        return Forecast(point[:, :, None] + spread, tuple(request.quantile_levels))

    def parameter_groups(self):
        return {"bias": ParameterRole("vector")}

    def blocks(self):
        return []

    def save_release(self, folder, state=None):
        raise NotImplementedError

    def memory_phases(self, size, request):
        return [Phase(size.rows * size.steps * 32)]

    def flops_per_window(self, context_length, prediction_length, variates=1):
        return 0.0


@pytest.fixture(scope="session")
def persistence():
    """The class Persistence: a forecaster that needs no training."""
    return Persistence


CANDLE = ("open", "high", "low", "close")


@dataclass(frozen=True)
class CandleOptions(ForecastOptions):
    """Sampling options of Candles."""

    temperature: float = 1.0


class Candles(Persistence):
    """Samples paths around the last value, seeded by the window; requires whole candles; has two validation losses."""

    family = "candles"
    validation_names = ("loss", "width")

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__(bias)
        self.asked: list[dict] = []  # what every forecast was asked for
        self.rows: list[tuple[tuple[str, ...], int, bool]] = []  # a window's names, targets, and whether it is stamped

    def collate(self, windows):
        batch = super().collate(windows)
        targets = np.bincount(windows.window[windows.role == TARGET])
        assert all(set(CANDLE) <= set(names) for names in windows.names)
        stamped = windows.context_times is not None
        self.rows += [(names, int(count), stamped) for names, count in zip(windows.names, targets, strict=True)]
        return {**batch, "windows": torch.tensor(len(windows.key))}

    def validation_losses(self, batch):
        observed = torch.isfinite(batch["future"])
        width = torch.where(observed, batch["future"] ** 2, 0.0).sum()
        return {"loss": self(batch), "width": Loss(width, 2 * observed.sum())}

    def forecast(self, batch, request):
        seed, count, levels = request.seed, request.num_samples, request.quantile_levels
        self.asked.append({"num_samples": count, "seed": seed, "options": request.options or None})
        spread = request.options_of(CandleOptions).temperature
        draws = torch.stack([_draws(int(key), seed, count or 20, request.prediction_length) for key in batch["key"]])
        samples = batch["last"][:, None, None] + self.bias + spread * draws
        quantiles = samples.quantile(torch.tensor(levels), dim=1).permute(1, 2, 0)
        counts = {"repaired candles": int(batch["windows"])}
        notes = (Tally(Code.CANDLES_REPAIRED, "{repaired candles:,} repaired candles", counts),)
        return Forecast(quantiles, tuple(levels), samples, samples.mean(1), notes)


def _draws(key: int, seed: int, samples: int, horizon: int) -> torch.Tensor:
    """Return random walks (S, H) of a window, the same in any batch."""
    paths = [
        np.random.default_rng([key % 2**64, seed, k]).standard_normal(horizon).cumsum().astype(np.float32)
        for k in range(samples)
    ]
    return torch.from_numpy(np.stack(paths))


class Reconstruction(Trainable):
    """A Trainable that makes no forecasts."""

    family = "reconstruction"
    validation_names = ("loss", "reconstruction_mse")
    native_loss, collate = Persistence.native_loss, Persistence.collate
    parameter_groups, blocks = Persistence.parameter_groups, Persistence.blocks
    save_release, flops_per_window = Persistence.save_release, Persistence.flops_per_window

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.tensor(0.0))

    def validation_losses(self, batch):
        return {"loss": self(batch), "reconstruction_mse": Loss(torch.tensor(6.0), torch.tensor(4.0))}


def choose_candle(names):
    """Choose the family's columns: whole candles, of which the close is scored."""
    if not set(CANDLE) <= set(names):
        return None
    return Columns(tuple(name for name in (*CANDLE, "volume") if name in names), ("close",))


def _unused(*arguments, **parts):
    raise NotImplementedError


CANDLES = Family(
    name="candles",
    config=_unused,
    options=lambda: CandleOptions,
    build=_unused,
    matches=lambda raw: False,
    load=_unused,
    columns=choose_candle,
)


@pytest.fixture(scope="session")
def candles():
    """The class Candles: a forecaster of whole candles that draws sample paths."""
    return Candles


@pytest.fixture(scope="session")
def candle_family():
    """The family of Candles, with forecast options and a choice of columns."""
    return CANDLES


@pytest.fixture(scope="session")
def reconstruction():
    """The class Reconstruction: a trainable that makes no forecasts."""
    return Reconstruction


def make_bars(items: int = 3, rows: int = 160, *, with_times: bool = True) -> Corpus:
    """Hourly candles of different currencies: random walks around 10, 100, 1000, ..."""
    rng = np.random.default_rng(3)
    series = []
    for k in range(items):
        close = 10.0 ** (k + 1) * np.exp(0.01 * rng.standard_normal(rows).cumsum())
        opening = np.concatenate([close[:1], close[:-1]])
        high, low = np.maximum(opening, close) * 1.002, np.minimum(opening, close) * 0.998
        times = (np.arange(rows) * 3_600_000_000).astype(np.int64) if with_times else None
        series.append((f"bar-{k}", np.stack([opening, high, low, close]).astype(np.float32), times))
    calendar = {"freq": "h", "time": "regular"} if with_times else {}
    return Corpus.from_arrays("bars", series, list(CANDLE), price_columns=CANDLE, **calendar)


@pytest.fixture(scope="session")
def bars():
    """Builder of small corpora of candles."""
    return make_bars


def make_hourly(
    items: int = 6, rows: int = 200, *, price: bool = False, seed: int = 0, provenance: str = "real"
) -> Corpus:
    """Hourly random walks of different lengths with gaps; prices if requested."""
    rng = np.random.default_rng(seed)
    series = []
    for k in range(items):
        count = rows - 7 * k
        values = 100.0 + rng.standard_normal(count).cumsum()
        values[rng.random(count) < 0.05] = np.nan
        # all end at the same hour
        times = (np.arange(rows - count, rows) * 3_600_000_000).astype(np.int64)
        series.append((f"item-{k}", values[None].astype(np.float32), times))
    return Corpus.from_arrays(
        "walks",
        series,
        ["close"],
        freq="h",
        time="regular",
        price_columns=("close",) if price else (),
        provenance={"kind": provenance, "sources": [], "command": None},
    )


@pytest.fixture(scope="session")
def hourly():
    """Builder of small hourly corpora."""
    return make_hourly
