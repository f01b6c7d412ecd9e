"""Training steps on series of mixed lengths: batches by length under a token budget against plain padded ones.

    python -m benchmarks.token_budget [--quick] [--only TEXT] [--json FILE] [--device DEVICE]

Both sides run forward and backward over the same windows of one epoch: Chronos-2 small with random weights and without
dropout. Plain batches are padded to context 512 + horizon 64, as many windows in each as the budget of steps allows at
that size; the others come from buckets of context 128, 256 and 512 and horizon 20, 32 and 64. Compared before timing:
the epoch's loss, summed over all windows. Plain batches are the reference.

Planning has no reference: measured are the time of sorting ten million windows into buckets and the growth of peak
memory, each in a new process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from benchmarks import harness

import numpy as np  # isort: skip  (after the harness, which sets the threads)
import torch

from foretrain.config import build
from foretrain.data.buckets import Buckets
from foretrain.data.config import DataConfig
from foretrain.data.sampling import Pool, SamplingPlan
from foretrain.data.source import TrainingSource
from foretrain.data.splits import Selection
from foretrain.data.store import Corpus
from foretrain.data.windows import Windows
from foretrain.models import family
from foretrain.models.base import Trainable, move

CONTEXT, HORIZON = 512, 64
BUDGET = 16 * (CONTEXT + HORIZON)  # steps of a micro-batch
WINDOWS = 10_000_000
CASES = {
    "lengths 60 to 1,000, log-uniform": 0.0,
    "lengths 60 to 200, one in ten up to 1,000": 0.9,
}  # fraction of short series


def main() -> None:
    """Run the cases selected on the command line."""
    parser = harness.parser(__doc__ or "")
    parser.add_argument("--probe", nargs=2, metavar=("UNIT", "SERIES"), help="(internal) print one figure of planning")
    args = parser.parse_args()
    if args.probe:
        print(planning(args.probe[0], int(args.probe[1])))
        return
    torch.set_num_threads(harness.THREADS)
    results = []
    for lengths, short in CASES.items():
        name = f"Chronos-2 small, {lengths}"
        if args.only is None or args.only in name:
            results.append(case(name, small().to(args.device), source(short, 32), args))
    for series in (WINDOWS, WINDOWS // 100):
        for unit, label in (("s", ""), ("bytes", ", memory")):
            name = f"plan {WINDOWS:,} windows of {series:,} series{label}"
            if args.only is None or args.only in name:
                probe = ["--probe", unit, str(series)]
                runs = [
                    harness.subprocess_figure("benchmarks.token_budget", probe) for _ in range(1 if args.quick else 3)
                ]
                results.append(harness.result(name, min(runs), None, unit=unit))
    harness.finish(results, args.json)


def planning(unit: str, count: int) -> float:
    """Return seconds, or growth of peak memory in bytes, of sorting WINDOWS windows of `count` series."""
    per_series = WINDOWS // count
    stride = 7 if per_series > 1 else 600
    newest = 32 + (per_series - 1) * stride + np.random.default_rng(0).integers(0, stride, count)
    modes = {"epoch": True, "by_length": False, "stride": stride}
    plan = SamplingPlan([newest + 16], [1.0], seed=0, reserved=0, min_context=32, min_prediction_length=16, **modes)
    assert plan.epoch_length == WINDOWS
    pools = [Pool(cast(Any, None), Selection((0,)), np.arange(count), 1.0)]  # planning does not read values

    def action() -> None:
        sizes: dict[str, Any] = {"lengths": (128, 256, 512), "horizons": (20, 32, 64), "max_tokens": 262_144}
        assert Buckets(plan, cast(Any, None), pools, seed=0, fingerprint="", **sizes).epoch_length

    if unit == "bytes":
        return harness.peak_growth(action)
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def small() -> Trainable:
    """Return Chronos-2 small with random weights."""
    chronos2 = family("chronos2")
    section = build(
        chronos2.config(), {"family": "chronos2", "random_init": True, "preset": "small", "dropout_rate": 0.0}
    )
    return chronos2.build(section, context_length=CONTEXT, prediction_length=HORIZON, seed=0)


def source(short: float, count: int) -> TrainingSource:
    """Return windows 64 steps apart, with futures of at least 16 steps, of random walks of 60 to 1,000 steps."""
    rng = np.random.default_rng(0)
    items = []
    for k in range(count):
        longest = 200 if rng.random() < short else 1000
        steps = int(np.exp(rng.uniform(np.log(60), np.log(longest))))
        items.append((f"{k}", rng.standard_normal((1, steps)).cumsum(1).astype(np.float32), None))
    tree = {
        "corpora": [{"path": "mixed"}], "context_length": CONTEXT, "prediction_length": HORIZON, "min_context": 32,
        "min_prediction_length": 16, "stride": 64, "sampling": "epoch", "validation_steps": 0, "test_steps": 0,
    }  # fmt: skip
    return TrainingSource(build(DataConfig, tree), 0, [Corpus.from_arrays("mixed", items, ["value"])])


def case(name: str, model: Trainable, data: TrainingSource, args: Any) -> harness.Result:
    """Time an epoch of both sides, alternating."""
    buckets, device = data.in_buckets((128, 256, 512), (20, 32, 64), BUDGET), torch.device(args.device)

    def plain() -> Iterator[Windows]:
        size = BUDGET // (CONTEXT + HORIZON)
        for first in range(0, data.epoch_length, size):
            yield data.windows(first, min(size, data.epoch_length - first))

    def by_length() -> Iterator[Windows]:
        return (buckets.windows(number) for number in range(buckets.epoch_length))

    def epoch(batches: Callable[[], Iterable[Windows]]) -> Callable[[], None]:
        def action() -> None:
            for windows in batches():
                model(move(model.collate(windows), device)).total.backward()
            model.zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return action

    equal = apart(*(summed(model, batches(), device) for batches in (by_length, plain)))
    model.train()
    line = harness.compare(
        name, epoch(by_length), epoch(plain), equal=equal, alternations=1 if args.quick else 5, device=args.device
    )
    assert line.reference_s is not None
    observed = sum(int((~np.isnan(part)).sum()) for w in plain() for part in (w.context, w.future))
    for side, batches, seconds in (("by length", by_length, line.ours_s), ("plain", plain, line.reference_s)):
        padded = sum(w.context.size + w.future.size for w in batches())
        print(
            f"    {side}: {data.epoch_length / seconds:,.1f} windows a second; {observed / padded:.0%} of the steps in "
            f"its batches are observed, {observed / seconds:,.0f} of them a second"
        )
    return line


@torch.no_grad()
def summed(model: Trainable, batches: Iterable[Windows], device: torch.device) -> tuple[float, float]:
    """Return the loss and weight of all batches, in eval mode."""
    model.eval()
    losses = [model(move(model.collate(windows), device)) for windows in batches]
    return sum(loss.total.double().item() for loss in losses), sum(loss.weight.double().item() for loss in losses)


def apart(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Return the larger of the two relative differences."""
    return max(abs(a - b) / abs(b) for a, b in zip(one, other, strict=True))


if __name__ == "__main__":
    main()
