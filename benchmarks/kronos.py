"""Kronos: generation against the plain algorithm, training with the tokenizer in the loop against cached tokens.

    python -m benchmarks.kronos [--against plain] [--quick] [--only TEXT] [--json FILE] [--device cuda]

The plain algorithm is upstream's, written here with our modules: the context is repeated for every sample and
tokenised, and each new bar runs the whole window again, both heads on all of its rows. Both sides go from windows of
candles to sampled candles, with random weights of the published sizes. Before timing, the tokens of a greedy forecast
and those of the timed, drawn one must be identical ("equal to" is the largest difference of the candles, in prices of
about 100). In mode rolling the two are compared up to the bar at which the window is full.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import harness

import torch  # isort: skip  (after the harness, which sets the threads)
import numpy as np
from torch import Tensor

from foretrain.config import build as build_section
from foretrain.data.config import DataConfig
from foretrain.data.source import TrainingSource
from foretrain.data.windows import Window, stack_windows
from foretrain.forecasting.predictor import Predictor
from foretrain.models.base import Batch, move
from foretrain.models.kronos import generate as generation
from foretrain.models.kronos import trainable
from foretrain.models.kronos.config import KronosModelConfig, KronosTokenizerModelConfig
from foretrain.models.kronos.forecaster import Kronos
from foretrain.models.kronos.options import KronosOptions
from foretrain.models.kronos.sampling import TokenSampler, uniform_draws

torch.set_num_threads(harness.THREADS)

MINUTES = 5 * 60_000_000  # microseconds between bars
SEED = 7


@dataclass(frozen=True)
class Forecasting:
    """A forecasting case: lengths of the series, horizon in bars, number of samples."""

    name: str
    lengths: tuple[int, ...]
    horizon: int
    samples: int
    preset: str = "small"
    mode: str = "exact"
    alternations: int = 3


@dataclass(frozen=True)
class Training:
    """A training case: steps on windows of 64 + 30 bars, as in the stock preset."""

    name: str
    preset: str
    batch: int = 16
    steps: int = 4


FORECASTING = [
    Forecasting("forecast small ctx400 H24 1 sample", (400,), 24, 1),
    Forecasting("forecast small ctx400 H24 5 samples", (400,), 24, 5),
    Forecasting("forecast small ctx 250, 300, 350, 400, H24 1 sample", (250, 300, 350, 400), 24, 1),
    Forecasting("forecast small ctx512 H120 exact", (512,), 120, 1),
    Forecasting("forecast small ctx512 H120 rolling", (512,), 120, 1, mode="rolling"),
]
TRAINING = [Training("train mini 64+30 batch 16", "mini"), Training("train small 64+30 batch 16", "small")]


def model_of(preset: str, folder: Path, **changes: object) -> Kronos:
    """Return a model and its tokenizer of the published sizes with random weights."""
    lengths = {"context_length": 64, "prediction_length": 30, "seed": 0}
    if not (folder / "config.json").exists():
        trainable.KronosTokenizer.build(KronosTokenizerModelConfig(random_init=True), **lengths).save_release(folder)
    section = {"random_init": True, "preset": preset, "tokenizer": str(folder), "max_context": 512, **changes}
    return Kronos.build(build_section(KronosModelConfig, section), **lengths).eval()


def windows_of(lengths: tuple[int, ...]) -> list[Window]:
    """Return random walks of five-minute candles."""
    rng = np.random.default_rng(0)
    found = []
    for k, length in enumerate(lengths):
        close = 100 * np.exp(0.001 * rng.standard_normal(length).cumsum())
        spread = np.abs(rng.standard_normal((2, length))) * 0.05
        bars = [close + 0.02, close + spread[0] + 0.05, close - spread[1] - 0.05, close, 1e4 * rng.random(length)]
        times = 1_600_000_000_000_000 + MINUTES * np.arange(length + 120)
        found.append(
            Window(
                np.stack(bars).astype(np.float32),
                5,
                context_times=times[:length],
                future_times=times[length:],
                item_id=str(k),
                key=k,
                names=("open", "high", "low", "close", "volume"),
            )
        )
    return found


@torch.inference_mode()
def plain(model: Kronos, windows: list[Window], case: Forecasting, options: KronosOptions) -> tuple[Tensor, ...]:
    """Return s1, s2 (N, S, H) and candles (N, S, H, 6), series by series, running the whole window for every bar."""
    device = next(model.parameters()).device
    parts = []
    for window in windows:
        batch = move(model.collate(stack_windows([window], case.horizon)), device)
        parts.append(_plain_one(model, batch, case, options))
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def _plain_one(model: Kronos, batch: Batch, case: Forecasting, options: KronosOptions) -> tuple[Tensor, ...]:
    network, tokenizer, limit = model.network, model.tokenizer, model.config.max_context
    samples, bars = case.samples, batch["context"].repeat(case.samples, 1, 1)
    stamps = torch.cat((batch["context_stamps"], batch["future_stamps"]), 1).expand(samples, -1, -1)
    numbers = uniform_draws(SEED, batch["key"], range(samples), case.horizon).to(bars.device)
    choose = TokenSampler(options, None if options.greedy else numbers, samples)
    s1, s2 = tokenizer.pair(bars)
    known = bars.shape[1]
    for step in range(case.horizon):
        first = max(0, known + step - limit)
        stamp = stamps[:, first : known + step]
        logits, hidden = network.decode_s1(s1[:, first:], s2[:, first:], stamp)
        next1 = choose(logits[:, -1][None], step, 0)[0]
        next2 = choose(network.decode_s2(hidden, next1[:, None])[:, -1][None], step, 1)[0]
        s1, s2 = torch.cat((s1, next1[:, None]), 1), torch.cat((s2, next2[:, None]), 1)
    decoded = tokenizer.decode([s1[:, -limit:], s2[:, -limit:]], half=True)[:, -case.horizon :]
    candles = decoded * batch["scale"] + batch["loc"]
    return s1[None, :, known:], s2[None, :, known:], candles[None]


def forecasting_case(case: Forecasting, folder: Path, against: str | None, quick: bool, device: str) -> harness.Result:
    """Compare the tokens of both sides, then time one case."""
    model = model_of(case.preset, folder).to(device)
    predictor, windows = Predictor(model), windows_of(case.lengths)
    options = KronosOptions(mode=case.mode)  # type: ignore[arg-type]

    def ours() -> object:
        return predictor.forecast(windows, case.horizon, num_samples=case.samples, seed=SEED, mode=case.mode)

    alternations = 1 if quick else case.alternations
    if against is None:
        return harness.compare(case.name, ours, None, alternations=alternations, device=device)
    greedy = KronosOptions(mode=case.mode, top_k=1)  # type: ignore[arg-type]
    equal = max(
        equality(model, windows, replace(case, samples=1), greedy),
        equality(model, windows, case, options),
    )

    def reference() -> object:
        return plain(model, windows, case, options)

    # the comparison has warmed both sides up, and a plain run takes half a minute where windows are recomputed
    return harness.compare(
        case.name, ours, reference, equal=equal, alternations=alternations, device=device, warm_up=False
    )


def equality(model: Kronos, windows: list[Window], case: Forecasting, options: KronosOptions) -> float:
    """Return the largest difference of the candles; exit if a token differs."""
    device = next(model.parameters()).device
    batch = move(model.collate(stack_windows(windows, case.horizon)), device)
    prompt = generation.CandlePrompt(
        batch["context"], batch["key"], batch.get("lengths"), batch["context_stamps"], batch["future_stamps"]
    )
    found = generation.generate(
        model.network, model.tokenizer, prompt, case.horizon, num_samples=case.samples, seed=SEED, options=options
    )
    s1, s2, candles = plain(model, windows, case, options)
    steps = case.horizon
    if options.mode == "rolling":  # the same algorithm only until the window is full
        steps = max(0, model.config.max_context - max(case.lengths)) + 1
    if not (
        torch.equal(found.s1[..., :steps], s1[..., :steps]) and torch.equal(found.s2[..., :steps], s2[..., :steps])
    ):
        raise SystemExit(f"{case.name}: the tokens differ from the plain algorithm's")
    if steps < case.horizon:
        return 0.0
    ours = found.bars * batch["scale"][:, None, None] + batch["loc"][:, None, None]
    return float((ours - candles)[..., :4].abs().max())


def training_case(case: Training, folder: Path, against: str | None, quick: bool, device: str) -> harness.Result:
    """Time steps with cached tokens (ours) against steps that tokenise in the loop (plain)."""
    data = {"kind": "ohlcv", "num_series": 4, "length": 400, "seed": 0}
    config = {"corpora": [{"synthetic": data}], "context_length": 64, "prediction_length": 30, "sampling": "epoch",
              "stride": 4, "with_times": True}  # fmt: skip
    source = TrainingSource(build_section(DataConfig, config), seed=0)
    cached, loop = (model_of(case.preset, folder, token_cache=cache).to(device).train() for cache in (True, False))
    with tempfile.TemporaryDirectory() as scratch:
        cached.prepare(source, Path(scratch))
    first = cached.eval()(move(cached.collate(source.windows(0, case.batch)), torch.device(device)))
    second = loop.eval()(move(loop.collate(source.windows(0, case.batch)), torch.device(device)))
    equal = abs(first.total.item() / second.total.item() - 1)
    sides = [steps_of(model.train(), source, case, device) for model in (cached, loop)]
    alternations = 1 if quick else 5
    return harness.compare(
        f"{case.name}, {case.steps} steps",
        sides[0],
        sides[1] if against else None,
        equal=equal,
        alternations=alternations,
        device=device,
    )


def steps_of(model: Kronos, source: TrainingSource, case: Training, device: str):
    """Return a function that runs a few optimizer steps from windows."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-5, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def action() -> None:
        for step in range(case.steps):
            windows = source.windows(step * case.batch, case.batch)
            loss = model(move(model.collate(windows), torch.device(device)))
            (loss.total / loss.weight).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 3.0)
            optimizer.step()
            optimizer.zero_grad()
        if device != "cpu":
            torch.cuda.synchronize()

    return action


def main() -> None:
    """Run the cases selected on the command line."""
    args = harness.parser(__doc__ or "", ("plain",)).parse_args()
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        arguments = Path(scratch), args.against, args.quick, args.device
        for case in FORECASTING:
            if args.only is None or args.only in case.name:
                results.append(forecasting_case(case, *arguments))
        for case in TRAINING:
            if args.only is None or args.only in case.name:
                results.append(training_case(case, *arguments))
    harness.finish(results, args.json)


if __name__ == "__main__":
    main()
