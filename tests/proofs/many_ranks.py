"""What each of up to 512 ranks trains on, in one process: no window twice, all in the order of one rank, equal work.

    python tests/proofs/many_ranks.py [--sizes 1 2 7 64 512] [--only TEXT]

Every rank has a source and a loader of its own, as its process would have. A run's first half is loaded by the ranks of
another size (a resume), and what a round of ranks loads, in the order of the ranks, is compared with what one rank
alone loads, bit by bit: windows, their keys and places and, with Kronos, the tensors that its loader makes. Idle
micro-batches count for nothing. Work is the windows and the padded tokens (steps x rows, padding included) of a rank.
"wait" is how much longer a step takes than with equal work: the sum over steps of the most that a rank has, over the
mean. tests/training/test_many_ranks.py holds a short version.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tests.models.zoo import CANDLE, Zoo

from foretrain.config import build, read_yaml
from foretrain.data.config import DataConfig
from foretrain.data.permutation import derive, permute
from foretrain.data.source import TrainingSource
from foretrain.data.store import Corpus
from foretrain.data.synthetic.generated import AnySource, GeneratedSource
from foretrain.data.windows import Windows
from foretrain.distributed.world import World
from foretrain.models.base import Trainable
from foretrain.training.loader import BatchLoader, PreparedBatch, plan_of
from foretrain.training.settings import StepPlan, TrainingConfig

ROOT = Path(__file__).parents[2]
SIZES = (1, 2, 7, 64, 512)
DEFAULT = "default micro-batches"


@dataclass(frozen=True)
class Case:
    """A kind of runs."""

    name: str
    data: dict[str, Any]
    training: dict[str, Any]
    corpora: Sequence[Corpus] = ()
    model: Trainable | None = None  # whose loader's tensors are compared as well

    def loader(self, rank: int, size: int) -> BatchLoader:
        """Return the loader of a rank, with a source of its own."""
        config = build(DataConfig, {**self.data, "corpora": [{"path": corpus.name} for corpus in self.corpora]})
        source: AnySource
        source = GeneratedSource(config, 3) if config.generated else TrainingSource(config, 3, list(self.corpora))
        return BatchLoader(self.model, source, self.settings, World(rank=rank, size=size))  # type: ignore[arg-type]

    @property
    def settings(self) -> TrainingConfig:
        """The section `training`."""
        return TrainingConfig(**self.training)


@dataclass(frozen=True)
class Part:
    """A micro-batch that a rank loaded."""

    step: int
    rank: int
    units: tuple[int, int]  # first, and number
    windows: tuple[bytes, ...]  # a hash of each, in order
    places: tuple[tuple[int, ...], ...]  # corpus, series, cutoff of each
    tokens: int


@dataclass(frozen=True)
class Work:
    """What the ranks of a run had to do."""

    windows: np.ndarray  # (steps, ranks)
    tokens: np.ndarray  # (steps, ranks)

    @staticmethod
    def spread(work: np.ndarray) -> float:
        """Return the most minus the least that a rank had in all steps, over the mean."""
        total = work.sum(0)
        return float((total.max() - total.min()) / total.mean())

    @staticmethod
    def wait(work: np.ndarray) -> float:
        """Return how much longer the steps take than with equal work."""
        return float(work.max(1).sum() / work.mean(1).sum() - 1)


def cases(folder: Path, batch: int, steps: int, series: int) -> Iterator[Case]:
    """Yield the kinds of runs: `batch` windows or micro-batches a step, over all ranks."""
    lengths = {"context_length": 24, "prediction_length": 6, "min_context": 4, "stride": 1}
    epoch = {**lengths, "sampling": "epoch"}
    walks, short = ragged("walks", series), ragged("short", series, 2, 40)
    windows = {"batch_size": 2 * batch, "micro_batch_size": 2, "prefetch": 0}
    yield Case("windows at random", lengths | {"stride": None}, windows | {"max_steps": steps}, (walks, short))
    # the last step is a short one
    yield Case("windows of epochs", epoch, windows | {"epochs": 1.3}, (ragged("one", batch // 4),))
    yield Case(DEFAULT, epoch, {"max_steps": steps, "batch_size": 2 * batch}, (walks,))
    budget = {
        "length_buckets": [8, 12], "horizon_buckets": [3], "max_tokens_per_batch": 720, "micro_batches_per_step": batch,
    }  # fmt: skip
    few = {"max_steps": steps, "token_budget": budget}
    yield Case("token budget", epoch | {"min_prediction_length": 2}, few, (walks, short))
    generated = {
        "generators": [{"kind": "arma"}, {"kind": "shapes"}], "max_windows": 4, "max_tokens": 160,
        "micro_batches_per_step": batch,
    }  # fmt: skip
    yield Case("generated", lengths | {"generated": generated, "stride": None, "min_context": None}, {"max_steps": 2})
    yield Case("Kronos", epoch | {"with_times": True}, windows | {"max_steps": 2}, (candles("candles", series),),
               model=Zoo(folder).shared("kronos"))  # fmt: skip


def ragged(name: str, count: int, rows: int = 1, most: int = 60) -> Corpus:
    """Random walks of 20 to `most` steps, with missing values."""
    rng = np.random.default_rng(len(name))
    items = []
    for k in range(count):
        values = rng.standard_normal((rows, int(rng.integers(20, most + 1)))).cumsum(1).astype(np.float32)
        values[rng.random(values.shape) < 0.05] = np.nan
        items.append((f"{k}", values, None))
    return Corpus.from_arrays(name, items, [f"v{k}" for k in range(rows)])


def candles(name: str, count: int) -> Corpus:
    """Candles around random walks, with their times."""
    rng, items = np.random.default_rng(1), []
    for k in range(count):
        steps = int(rng.integers(30, 61))
        close = 100 + rng.standard_normal(steps).cumsum()
        values = np.stack([close, close + 1, close - 1, close, close * 10, close * 1000]).astype(np.float32)
        items.append((f"{k}", values, (1000 * k + np.arange(steps)) * 3_600_000_000))
    return Corpus.from_arrays(name, items, list(CANDLE), time="regular", freq="h")


def loaded(case: Case, size: int, plan: StepPlan, first: int, end: int) -> Iterator[Part]:
    """Yield what the ranks load in steps first .. end - 1, round by round, each round in the order of the ranks."""
    loaders = [case.loader(rank, size) for rank in range(size)]
    for step in range(first, end):
        for parts in zip(*(plan.for_rank(step, rank, size) for rank in range(size)), strict=True):
            for rank, micro_batch in enumerate(parts):
                assert micro_batch.last == parts[0].last  # or a rank would wait for gradients for ever
                if micro_batch.idle:
                    continue
                windows = loaders[rank].windows(micro_batch)
                prepared = loaders[rank].prepare(micro_batch) if case.model is not None else None
                yield part_of(step, rank, (micro_batch.first, micro_batch.count), windows, prepared)


def part_of(
    step: int, rank: int, units: tuple[int, int], windows: Windows, prepared: PreparedBatch | None = None
) -> Part:
    """Return a micro-batch as hashes. Windows at its end that are padding have none."""
    real = len(windows) - windows.num_padding_windows
    assert windows.source is not None
    tensors = hashlib.sha256()
    if prepared is not None:
        for name, tensor in sorted(prepared.batch.items()):
            tensors.update(name.encode() + tensor.numpy().tobytes())
    # with tensors a micro-batch is equal as a whole
    more = tensors.digest() if prepared is not None else b""
    begins = np.searchsorted(windows.window, np.arange(real + 1))
    hashes = []
    for n in range(real):
        rows = slice(begins[n], begins[n + 1])
        held = [windows.context[rows], windows.future[rows], windows.role[rows], windows.key[n], windows.source[n]]
        if windows.context_times is not None and windows.future_times is not None:
            held += [windows.context_times[n], windows.future_times[n]]
        hashes.append(hashlib.blake2b(b"".join(part.tobytes() for part in held) + more, digest_size=16).digest())
    tokens = windows.context.size + windows.future.size
    places = tuple(tuple(place) for place in windows.source[:real].tolist())
    return Part(step, rank, units, tuple(hashes), places, tokens)


def run(case: Case, size: int, before: int, plan: StepPlan) -> list[Part]:
    """Return what a run loads whose first half was loaded by `before` ranks."""
    half = plan.steps // 2
    return [*loaded(case, before, plan, 0, half), *loaded(case, size, plan, half, plan.steps)]


def plan_for(case: Case, size: int) -> StepPlan:
    """Return the plan of a run that begins on a number of ranks."""
    return plan_of(case.loader(0, 1).stream, case.settings, size)


def work_of(parts: Sequence[Part], size: int, first: int, end: int) -> Work:
    """Return what each rank had to do in steps first .. end - 1."""
    windows, tokens = np.zeros((end - first, size), np.int64), np.zeros((end - first, size), np.int64)
    for part in parts:
        if first <= part.step < end:
            windows[part.step - first, part.rank] += len(part.windows)
            tokens[part.step - first, part.rank] += part.tokens
    return Work(windows, tokens)


def check(case: Case, size: int, before: int) -> tuple[int, Work]:
    """Compare a run with that of one rank. Returns its windows, and the work of its second half without a short step.

    The size of micro-batches is that of its first half, as after a resume.
    """
    plan = plan_for(case, before)
    parts, one = run(case, size, before, plan), list(loaded(case, 1, plan, 0, plan.steps))
    assert [hashed for part in parts for hashed in part.windows] == [hashed for part in one for hashed in part.windows]
    numbers = [part.units[0] + n for part in parts for n in range(part.units[1])]
    assert numbers == list(range(plan.total))  # none twice, none left out: so no two ranks have one in common
    if case.data.get("sampling") == "epoch":  # then no window comes twice in the first epoch
        epoch = case.loader(0, 1).stream.epoch_length
        units = [
            (part.units[0] + n * (part.units[1] > 1), place) for part in parts for n, place in enumerate(part.places)
        ]
        places = [place for unit, place in units if unit < epoch]
        assert len(set(places)) == len(places) >= min(plan.total, epoch)
    short = plan.total % plan.batch_size != 0  # the last step, in which ranks may idle
    return len(numbers), work_of(parts, size, plan.steps // 2, plan.steps - short)


def print_row(name: str, ranks: int, before: int, units: int, work: Work) -> None:
    """Print what the ranks of a run had to do."""
    windows, tokens = work.windows.sum(0), work.tokens.sum(0)
    print(
        f"{name:<26} {ranks:>5} {before:>6} {units:>7,} {f'{windows.min():,}-{windows.max():,}':>17} "
        f"{Work.spread(work.windows):>7.2%} {f'{tokens.min():,}-{tokens.max():,}':>24} "
        f"{Work.spread(work.tokens):>7.2%} {Work.wait(work.tokens):>7.2%}",
        flush=True,
    )


def large_budgets(ranks: int, steps: int) -> Iterator[tuple[str, Work]]:
    """Yield the work of micro-batches as large as those of a GPU, of which the shapes alone are drawn."""
    rng = np.random.default_rng(0)
    lengths = np.clip(np.exp(rng.normal(6, 1, 3000)), 60, 6000).astype(int)  # 60 to 6,000 steps, half of them below 403
    corpus = Corpus.from_arrays("many", [(f"{k}", np.zeros((1, n), np.float32), None) for k, n in enumerate(lengths)],
                                ["x"])  # fmt: skip
    tree = {"corpora": [{"path": "many"}], "context_length": 2048, "prediction_length": 64, "min_context": 16,
            "sampling": "epoch", "stride": 1, "min_prediction_length": 8}  # fmt: skip
    source = TrainingSource(build(DataConfig, tree), 0, [corpus])
    buckets = source.in_buckets((128, 256, 512, 1024), (16, 32), 65536)
    first = np.cumsum([0, *(bucket.micro_batches for bucket in buckets.buckets)])
    for each in (1, 4):  # micro-batches of a rank in a step
        shape = (steps, each, ranks)
        chosen = permute(derive(0), np.arange(np.prod(shape)) % first[-1], int(first[-1]))
        found = np.array([(b.micro_batch, b.micro_batch * (b.context_length + b.prediction_length) * b.variates)
                          for b in buckets.buckets])[np.searchsorted(first, chosen, side="right") - 1]  # fmt: skip
        work = found.reshape(*shape, 2).sum(1)
        yield f"budget of 65,536, {each} a rank", Work(work[..., 0], work[..., 1])
    config = build(DataConfig, read_yaml(ROOT / "configs/pretrain/tiny.yaml")["data"])
    stream = GeneratedSource(config, 0).stream
    for each in (1, 4):
        shapes = [stream._opened(m)[2] for m in range(steps * each * ranks)]
        found = np.array([(stream.size(s), stream.size(s) * (s.context + s.horizon)
                           * stream.settings.layouts[s.layout].rows) for s in shapes])  # fmt: skip
        work = found.reshape(steps, each, ranks, 2).sum(1)
        yield f"pretrain/tiny, {each} a rank", Work(work[..., 0], work[..., 1])


def main() -> None:
    """Check every case and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--batch", type=int, default=512, help="micro-batches of a step")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--series", type=int, default=200)
    parser.add_argument("--only", default="", metavar="TEXT")
    args = parser.parse_args()
    print(
        f"{'case':<26} {'ranks':>5} {'before':>6} {'units':>7} {'windows of a rank':>17} {'spread':>7} "
        f"{'tokens of a rank':>24} {'spread':>7} {'wait':>7}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(Path(folder), args.batch, args.steps, args.series):
            if args.only not in case.name:
                continue
            fresh = [(size, size) for size in args.sizes] if case.name == DEFAULT else []
            for before, size in [*fresh, *zip([args.sizes[-1], *args.sizes], args.sizes, strict=False)]:
                print_row(case.name, size, before, *check(case, size, before))
    for name, work in large_budgets(args.sizes[-1], 64):
        if args.only in name:
            print_row(name, args.sizes[-1], args.sizes[-1], work.windows.size, work)


if __name__ == "__main__":
    main()
