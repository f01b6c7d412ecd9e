"""Do covariates help a model, and does it help to forecast the rows of a group together?

    python -m benchmarks.covariates MODEL [--data FOLDER] [--groups 600] [--seed 1000] [--json FILE]

MODEL is what `foretrain.load` takes. It forecasts the same windows twice: with covariates and without on generated
groups of one target, one past and two known covariates, and on the public series of benchmarks/covariates.yaml, whose
files FOLDER holds; the targets of generated groups of three together, and each alone. Groups are drawn by the defaults
of a mixture with a seed of their own; their targets are divided by the deviation of their history, so that all count
alike. WQL is over the levels .1 ... .9. The verdict is evaluation/significance.py's on absolute errors divided by the
denominator of MASE: over forecast origins, or over groups where each has one origin.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import harness

import numpy as np  # isort: skip  (after the harness, which sets the threads)
import pandas as pd
import yaml

from foretrain.data.synthetic.mixture import BLOCK, Layout, Lengths, Mixture, draw_block
from foretrain.data.synthetic.multivariate import KINDS
from foretrain.data.windows import NO_TIME
from foretrain.evaluation import metrics
from foretrain.evaluation.scored import Scored, seasonal_errors
from foretrain.evaluation.significance import CLUSTERS, Draws, compare

LEVELS = tuple(k / 10 for k in range(1, 10))
HISTORY, HORIZON = 288, 32  # steps of generated groups
METRICS = ("wql", "mase", "coverage_80_share")


@dataclass(frozen=True)
class Case:
    """Windows that are forecast in two ways; a row is one target of one window."""

    name: str
    full: list[dict[str, Any]]  # inputs with covariates, or with all targets
    bare: list[dict[str, Any]]  # inputs without, or with one target each
    truth: np.ndarray  # (R, H)
    seasonal_error: np.ndarray  # (R,)
    item: np.ndarray  # (R,) series, or group
    rank: np.ndarray  # (R,) 0 = the newest window of its series
    stride: int
    kind: np.ndarray | None = None  # (R,) of generated groups, place in KINDS

    def scored(self, forecasts: Sequence[np.ndarray]) -> Scored:
        """Return the forecasts (targets, H, Q) of all windows beside the truth."""
        count = len(self.truth)
        return Scored(
            target=self.truth,
            quantiles=np.sort(np.concatenate(forecasts).astype(np.float64), axis=2),
            levels=LEVELS,
            last=np.full(count, np.nan),
            seasonal_error=self.seasonal_error,
            item=self.item,
            items=tuple(map(str, range(int(self.item.max()) + 1))),
            unit=("",) * (int(self.item.max()) + 1),
            price=np.zeros(count, bool),
            cutoff=np.zeros(count, np.int64),
            rank=self.rank,
            start=np.full(count, NO_TIME),
            end=np.full(count, NO_TIME),
            stride=self.stride,
        )


def main() -> None:
    """Score every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a release, a run folder or a hub id")
    parser.add_argument("--data", type=Path, help="folder with the files of the public series")
    parser.add_argument("--sets", type=Path, default=Path(__file__).with_name("covariates.yaml"))
    parser.add_argument("--groups", type=int, default=600, help="generated groups of each layout (default 600)")
    parser.add_argument("--seed", type=int, default=1000, help="of the generated groups; no training may have used it")
    parser.add_argument("--context", type=int, default=512, help="newest steps that the model reads (default 512)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    args = parser.parse_args()
    cases = [generated(args.groups, args.seed), together(args.groups, args.seed + 1)]
    if args.data is not None:
        specs = yaml.safe_load(args.sets.read_text(encoding="utf-8"))
        cases += [public(spec, args.data, args.context) for spec in specs]
    print(f"{harness.describe('cpu')}; {harness.commit()}; {args.model}")
    found = table(args.model, cases, args.context)
    if args.json:
        facts = {"machine": harness.describe("cpu"), "commit": harness.commit(), "model": args.model, "cases": found}
        args.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


# the windows


def generated(count: int, seed: int) -> Case:
    """Return generated groups with covariates, and without."""
    values, kind = groups(Layout(targets=1, past=1, known=2), count, seed)
    past, known = values[:, :, :HISTORY], values[:, 2:, HISTORY:]
    full = [
        {
            "target": rows[0],
            "past_covariates": {"past": rows[1], "first": rows[2], "second": rows[3]},
            "future_covariates": {"first": ahead[0], "second": ahead[1]},
        }
        for rows, ahead in zip(past, known, strict=True)
    ]
    bare = [{"target": rows[0]} for rows in past]
    return one_origin("generated, covariates", full, bare, values[:, :1], kind)


def together(count: int, seed: int) -> Case:
    """Return generated groups of three targets, together and one by one."""
    values, kind = groups(Layout(targets=3), count, seed)
    past = values[:, :, :HISTORY]
    full = [{"target": rows} for rows in past]
    bare = [{"target": row} for rows in past for row in rows]
    return one_origin("generated, three targets", full, bare, values, kind)


def groups(layout: Layout, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return groups (N, V, T) whose rows are divided by the deviation of their history, and their kinds (N,)."""
    length = HISTORY + HORIZON
    mixture = Mixture(layout=layout, missing=0.0, seed=seed, lengths=(Lengths(shortest=length, longest=length),))
    blocks = [draw_block(mixture, number) for number in range(-(-count // BLOCK))]
    values = np.concatenate([block.values for block in blocks])[:count]
    kind = np.concatenate([block.generator for block in blocks])[:count]
    spread = values[:, :, :HISTORY].std(axis=2, keepdims=True)
    moving = (spread[:, : layout.targets] > 0).all(axis=(1, 2))  # a constant history has no denominator of MASE
    return (values / np.where(spread > 0, spread, 1.0))[moving], kind[moving]


def one_origin(name: str, full: list[dict], bare: list[dict], targets: np.ndarray, kind: np.ndarray) -> Case:
    """Return the case of groups with targets (N, V, T) and one window each."""
    count, variates, _ = targets.shape
    errors = np.stack([seasonal_errors(rows, [HISTORY], 1)[0] for rows in targets])
    item = np.repeat(np.arange(count), variates)
    truth = targets[:, :, HISTORY:].reshape(-1, HORIZON).astype(np.float64)
    rank = np.zeros(len(item), np.int64)
    return Case(name, full, bare, truth, errors.reshape(-1), item, rank, HORIZON, np.repeat(kind, variates))


def public(spec: dict[str, Any], folder: Path, context: int) -> Case:
    """Return the windows of public series with covariates, and without."""
    frame = pd.read_csv(folder / spec["file"])
    parts = [part for _, part in frame.groupby(spec["item"], sort=False)] if "item" in spec else [frame]
    horizon, full, bare, truth, errors, item, rank = spec["horizon"], [], [], [], [], [], []
    for number, part in enumerate(parts):
        target = part[spec["target"]].to_numpy(np.float64)
        known = {name: part[name].to_numpy(np.float64) for name in spec["known"]}
        for k in range(spec["windows"]):
            end = len(target) - k * spec["stride"]
            cutoff = end - horizon
            if cutoff < 4 * spec["season"]:
                break
            first = max(0, cutoff - context)
            bare.append({"target": target[first:cutoff].astype(np.float32)})
            before = {name: values[first:cutoff].astype(np.float32) for name, values in known.items()}
            ahead = {name: values[cutoff:end].astype(np.float32) for name, values in known.items()}
            full.append(bare[-1] | {"past_covariates": before, "future_covariates": ahead})
            truth.append(target[cutoff:end])
            errors.append(seasonal_errors(target[None], [cutoff], spec["season"])[0, 0])
            item.append(number)
            rank.append(k)
    return Case(
        spec["name"], full, bare, np.array(truth), np.array(errors), np.array(item), np.array(rank), spec["stride"]
    )


# the scores


def table(model: str, cases: list[Case], context: int) -> list[dict[str, Any]]:
    """Print a line a case, and for generated groups one a kind; return the figures."""
    import foretrain

    predictor = foretrain.load(model)
    found = []
    print(f"\n{'':<26}{'rows':>7}{'WQL alone':>11}{'with':>9}{'ratio':>8}{'MASE':>9}{'with':>9}{'ratio':>8}  verdict")
    for case in cases:
        horizon = case.truth.shape[1]
        with_more, without = (
            case.scored(predictor.forecast(inputs, horizon, LEVELS, context_length=context))
            for inputs in (case.full, case.bare)
        )
        found.append(line(case.name, with_more, without, case.kind is not None))
        for number, kind in enumerate(KINDS if case.kind is not None else ()):
            rows = np.flatnonzero(case.kind == number)
            if rows.size:
                found.append(line(f"  {kind}", with_more.take(rows), without.take(rows), True))
    return found


def line(name: str, with_more: Scored, without: Scored, by_group: bool) -> dict[str, Any]:
    """Print and return the figures of one set."""
    ours, theirs = metrics.pooled(with_more), metrics.pooled(without)
    verdict = compare(with_more, without, "without", Draws(CLUSTERS, with_more.item) if by_group else None).verdict
    text = f"{name:<26}{len(without):>7,}"
    for metric, width in (("wql", 11), ("mase", 9)):
        alone, beside = theirs[metric], ours[metric]
        text += f"{alone:>{width}.3f}{beside:>9.3f}{beside / alone:>8.3f}"
    print(f"{text}  {verdict}", flush=True)
    scores = {"with": {m: ours[m] for m in METRICS}, "without": {m: theirs[m] for m in METRICS}}
    return {"set": name.strip(), "rows": len(without), **scores, "verdict": verdict}


if __name__ == "__main__":
    main()
