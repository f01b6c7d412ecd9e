"""Score zero-shot models on panels of public series, beside seasonal naive and classical methods.

    python -m benchmarks.panels [MODEL ...] --data FOLDER [--classical ets,theta] [--group short] [--json FILE]

MODEL is what `foretrain.load` takes. FOLDER holds the files that benchmarks/panels.yaml names. WQL is the mean over the
levels .1 ... .9 of 2 * pinball losses summed over a set, divided by the sum of |truth|; MASE the mean over series of
absolute errors of the median divided by the mean seasonal difference of the history. Both are shown relative to
seasonal naive, as geometric means over sets. The reference's quantiles are normal with sigma = sqrt(mean((x[t] -
x[t - season])**2)) * sqrt(floor(step / season) + 1), as in statsforecast; `naive-point` is the same without intervals.
ets and theta are statsforecast's AutoETS and AutoTheta (pip install statsforecast); --cache keeps their forecasts. A
series that they cannot be fitted to gets the reference's forecast; the number of forecasts equal to it is printed.
--ask N forecasts N steps and cuts, instead of the horizon; --option KEY=VALUE is a forecast option of the models.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

from benchmarks import harness

import numpy as np  # isort: skip  (after the harness, which sets the threads)
import pandas as pd
import yaml

from foretrain.cli.options import forecast_settings

LEVELS = tuple(k / 10 for k in range(1, 10))
REFERENCE = "seasonal-naive"
PANELS = Path(__file__).with_name("panels.yaml")
MOST_SERIES = 400  # of a set; drawn with seed 0
FEWEST_WINDOWS = 5


@dataclass(frozen=True)
class Panel:
    """The windows of one set."""

    name: str
    frequency: str
    season: int
    horizon: int
    histories: list[np.ndarray]  # (T,) each
    truths: np.ndarray  # (N, H)


@dataclass(frozen=True)
class Score:
    """One forecaster on one set."""

    wql: float
    mase: float
    coverage: float  # share of values between the .1 and .9 quantiles


Forecaster = Callable[[Panel], np.ndarray]  # (N, H, 9)


def main() -> None:
    """Score every forecaster on every set and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="releases, run folders or hub ids")
    parser.add_argument("--data", type=Path, required=True, help="folder with the files of the panels")
    parser.add_argument("--panels", type=Path, default=PANELS)
    parser.add_argument("--group", choices=("short", "long", "all"), default="short")
    parser.add_argument("--classical", default="", help="comma-separated: ets, theta")
    parser.add_argument("--cache", type=Path, help="folder that keeps the forecasts of classical methods")
    parser.add_argument("--ask", type=int, help="steps to forecast, of which the horizon is scored")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="a forecast option; repeat")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    args = parser.parse_args()
    panels = read_panels(args.panels, args.data, args.group)
    count = sum(len(panel.truths) for panel in panels)
    print(f"{harness.describe('cpu')}; {harness.commit()}; {len(panels)} sets, {count:,} windows")
    forecasters: dict[str, Forecaster] = {REFERENCE: reference, "naive-point": point_reference}
    for name in filter(None, args.classical.split(",")):
        forecasters[name] = cached(classical(name), name, args.cache)
    for model in args.models:
        forecasters[model] = of_model(model, args.ask, forecast_settings(args.option))
    scores = {name: {panel.name: timed(name, panel, f) for panel in panels} for name, f in forecasters.items()}
    show(scores, panels)
    if args.json:
        facts = {
            "machine": harness.describe("cpu"),
            "commit": harness.commit(),
            "group": args.group,
            "weights": {model: weights_hash(model) for model in args.models},
            "relative": {name: relative(scores, name, panels) for name in scores},
            "sets": {n: {s: vars(score) for s, score in found.items()} for n, found in scores.items()},
        }
        args.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


# the panels


def read_panels(file: Path, folder: Path, group: str) -> list[Panel]:
    """Return the sets of a group that have enough windows."""
    specs = yaml.safe_load(file.read_text(encoding="utf-8"))
    chosen = [spec for name, found in specs.items() if group in ("all", name) for spec in found]
    panels = [read_panel(spec, folder) for spec in chosen]
    return [panel for panel in panels if len(panel.truths) >= FEWEST_WINDOWS]


def read_panel(spec: dict[str, Any], folder: Path) -> Panel:
    """Cut the windows of a set, newest first; missing values are left out before."""
    horizon, season = spec["horizon"], spec["season"]
    series = [values[np.isfinite(values)] for values in read_series(spec, folder)]
    least = max(horizon + max(2 * season, 4), horizon + spec.get("min_history", 0))
    series = [values for values in series if len(values) >= least]
    if len(series) > MOST_SERIES:
        kept = np.random.default_rng(0).choice(len(series), MOST_SERIES, replace=False)
        series = [series[k] for k in kept]
    histories, truths = [], []
    for values in series:
        for number in range(spec.get("windows", 1)):
            end = len(values) - number * spec.get("stride", 0)
            if end < least:
                break
            histories.append(values[: end - horizon])
            truths.append(values[end - horizon : end])
    return Panel(spec["name"], spec["frequency"], season, horizon, histories, np.array(truths).reshape(-1, horizon))


def read_series(spec: dict[str, Any], folder: Path) -> list[np.ndarray]:
    """Return the series of a set: the items of a long table, or the columns of a wide one."""
    path = folder / spec["file"]
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
        for column, value in spec.get("where", {}).items():
            table = table[table[column] == value]
        order = "timestamp" if "timestamp" in table else "t"
        table = table.sort_values(["item_id", order], kind="stable")
        return [part.to_numpy(np.float64) for _, part in table.groupby("item_id", sort=False, observed=True)["target"]]
    table = pd.read_csv(path) if spec.get("header", True) else pd.read_csv(path, header=None)
    return [table[column].to_numpy(np.float64) for column in spec.get("columns", list(table.columns))]


# the forecasters


def reference(panel: Panel) -> np.ndarray:
    """Return the quantiles of seasonal naive with normal intervals."""
    normal = np.array([NormalDist().inv_cdf(level) for level in LEVELS])
    steps = np.arange(panel.horizon)
    growth = np.sqrt(steps // panel.season + 1.0)
    out = np.empty((len(panel.truths), panel.horizon, len(LEVELS)))
    for k, values in enumerate(panel.histories):
        season = values[len(values) - panel.season + steps % panel.season]
        sigma = np.sqrt(np.mean((values[panel.season :] - values[: -panel.season]) ** 2))
        out[k] = season[:, None] + sigma * growth[:, None] * normal
    return out


def point_reference(panel: Panel) -> np.ndarray:
    """Return seasonal naive without intervals: all quantiles are the point."""
    return np.repeat(reference(panel)[:, :, 4:5], len(LEVELS), axis=2)


def of_model(name: str, ask: int | None = None, options: Mapping[str, Any] | None = None) -> Forecaster:
    """Return a loaded model as a forecaster of `ask` steps, if they are more than the horizon."""
    import foretrain

    predictor = foretrain.load(name)

    def forecast(panel: Panel) -> np.ndarray:
        steps = max(ask or panel.horizon, panel.horizon)
        histories = [values.astype(np.float32) for values in panel.histories]
        found = predictor.forecast(histories, steps, LEVELS, **(options or {}))
        return np.sort(np.stack([values[0, : panel.horizon] for values in found]), axis=2)

    return forecast


def weights_hash(name: str) -> str:
    """Return the hash of a model's release, by which its scores are found."""
    from foretrain.models.hub import release_hash, resolve

    return release_hash(resolve(name, offline=True))


def classical(name: str) -> Forecaster:
    """Return a method of statsforecast as a forecaster."""
    from statsforecast import models

    kinds = {"ets": models.AutoETS, "theta": models.AutoTheta}
    if name not in kinds:
        raise SystemExit(f"--classical {name}: choose {', '.join(kinds)}")
    spread = [80, 60, 40, 20]  # central intervals, whose ends are the levels .1 .2 .3 .4 and .9 .8 .7 .6

    def forecast(panel: Panel) -> np.ndarray:
        fallback, out = reference(panel), np.empty((len(panel.truths), panel.horizon, len(LEVELS)))
        for k, values in enumerate(panel.histories):
            try:
                found = kinds[name](season_length=panel.season).forecast(values, panel.horizon, level=spread)
                columns = [*(f"lo-{level}" for level in spread), "mean", *(f"hi-{level}" for level in spread[::-1])]
                out[k] = np.stack([found[column] for column in columns], axis=1)
            except Exception:  # any: statsforecast raises many kinds for series that it cannot be fitted to
                out[k] = fallback[k]
            if not np.isfinite(out[k]).all():
                out[k] = fallback[k]
        return np.sort(out, axis=2)

    return forecast


def cached(forecaster: Forecaster, name: str, folder: Path | None) -> Forecaster:
    """Return a forecaster that keeps its forecasts in a folder."""
    if folder is None:
        return forecaster

    def forecast(panel: Panel) -> np.ndarray:
        data = b"".join(values.tobytes() for values in panel.histories)
        place = folder / f"{name}-{panel.name}-{panel.horizon}-{hashlib.sha256(data).hexdigest()[:16]}.npy"
        if not place.exists():
            folder.mkdir(parents=True, exist_ok=True)
            np.save(place, forecaster(panel))
        return np.load(place)

    return forecast


# the scores


def timed(name: str, panel: Panel, forecaster: Forecaster) -> Score:
    """Forecast a set and score it."""
    start = time.perf_counter()
    quantiles = forecaster(panel)
    spent = time.perf_counter() - start
    same = 0 if name == REFERENCE else int((quantiles == reference(panel)).all(axis=(1, 2)).sum())
    told = f", {same} of {len(quantiles)} forecasts equal the reference's" if same else ""
    print(f"{name} on {panel.name}: {spent:.1f} s{told}", flush=True)
    return score(panel, quantiles)


def score(panel: Panel, quantiles: np.ndarray) -> Score:
    """Return the scores of quantiles (N, H, 9)."""
    error = panel.truths[:, :, None] - quantiles
    levels = np.array(LEVELS)
    pinball = np.maximum(levels * error, (levels - 1.0) * error)
    wql = float((2.0 * pinball).sum(axis=(0, 1)).mean() / np.abs(panel.truths).sum())
    scales = np.array([np.abs(v[panel.season :] - v[: -panel.season]).mean() for v in panel.histories])
    usable = scales > 0
    absolute = np.abs(error[:, :, 4]).mean(axis=1)
    inside = (panel.truths >= quantiles[:, :, 0]) & (panel.truths <= quantiles[:, :, -1])
    return Score(wql, float((absolute[usable] / scales[usable]).mean()), float(inside.mean()))


def relative(scores: dict[str, dict[str, Score]], name: str, panels: list[Panel]) -> dict[str, float]:
    """Return geometric means over sets of WQL and MASE relative to the reference, and the pooled coverage."""

    def mean(metric: str) -> float:
        ratios = [getattr(scores[name][p.name], metric) / getattr(scores[REFERENCE][p.name], metric) for p in panels]
        return float(np.exp(np.log(ratios).mean()))

    sizes = np.array([panel.truths.size for panel in panels])
    coverage = np.array([scores[name][panel.name].coverage for panel in panels])
    return {"wql": mean("wql"), "mase": mean("mase"), "coverage": float((coverage * sizes).sum() / sizes.sum())}


def show(scores: dict[str, dict[str, Score]], panels: list[Panel]) -> None:
    """Print the relative WQL by set and by frequency, and the means."""
    names = list(scores)
    width = max(20, *(len(panel.name) + 1 for panel in panels))
    print("\nWQL relative to seasonal naive\n" + " " * width + "".join(f"{name[-18:]:>20}" for name in names))
    for panel in panels:
        row = [scores[name][panel.name].wql / scores[REFERENCE][panel.name].wql for name in names]
        print(f"{panel.name:<{width}}" + "".join(f"{value:>20.3f}" for value in row))
    for frequency in dict.fromkeys(panel.frequency for panel in panels):
        held = [panel for panel in panels if panel.frequency == frequency]
        row = [relative(scores, name, held)["wql"] for name in names]
        print(f"{'all ' + frequency:<{width}}" + "".join(f"{value:>20.3f}" for value in row))
    for metric, label in (("wql", "WQL"), ("mase", "MASE"), ("coverage", "80 % coverage")):
        row = [relative(scores, name, panels)[metric] for name in names]
        print(f"{label:<{width}}" + "".join(f"{value:>20.3f}" for value in row))


if __name__ == "__main__":
    main()
