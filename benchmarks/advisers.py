"""Best value against trials: an adviser with SCRIPTED answers, TPE, GP and random, on three cheap surrogates.

    python -m benchmarks.advisers --json benchmarks/results/advisers.json --page docs/results/advisers.md \\
        --picture docs/img/advisers.png

No language model is asked: a local server of the protocol plays a fixed script, a coordinate descent that knows no more
than what a request says (space, scales, trials). So the adviser's line shows the whole way of a proposal, from the
history that is sent to the value that a trial draws, and how such a script does. It says nothing about any model.

Surrogates have noise, and all but Branin have their optimum somewhere else in each repeat. A sampler sees noisy values;
what counts is the excess of the noise-free value over the optimum, at the trial whose noisy value is the lowest.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import harness

import numpy as np  # isort: skip  (after the harness, which sets the threads)
import optuna
from tests.tuning.adviser.fake_server import FakeServer, Reply, suggest

from foretrain.config import build
from foretrain.tuning.adviser.adviser import Adviser
from foretrain.tuning.adviser.config import AdviserConfig
from foretrain.tuning.adviser.fill import refill
from foretrain.tuning.config import TuneConfig
from foretrain.tuning.space import Candidate, SearchSpace

SAMPLERS = ("adviser (scripted)", "tpe", "random", "gp")
SHOWN = (10, 20, 40)  # trials after which the table has a column
Truth = Callable[[Candidate], float]


@dataclass(frozen=True)
class Surrogate:
    """An objective to minimise. truth: of a random generator, the noise-free excess over the optimum, 0 or more."""

    name: str
    space: dict[str, dict[str, Any]]
    truth: Callable[[np.random.Generator], Truth]
    noise: float


def _number(low: float, high: float, kind: str = "float", **more: Any) -> dict[str, Any]:
    return {"kind": kind, "low": low, "high": high, **more}


def _training(random: np.random.Generator) -> Truth:
    """A bowl in the logarithms of learning rate, weight decay and batch size, whose best rate grows with the batch."""
    rate, decay, batch = random.uniform(-4, -2), random.uniform(-4, -1), random.uniform(4, 7)

    def excess(given: Candidate) -> float:
        size = math.log2(given["batch"])  # type: ignore[arg-type]
        x = math.log10(given["rate"]) - rate - 0.15 * (size - batch)  # type: ignore[arg-type]
        y = math.log10(given["decay"]) - decay  # type: ignore[arg-type]
        return 0.06 * x * x * (3.0 if x > 0 else 1.0) + 0.01 * y * y + 0.01 * (size - batch) ** 2

    return excess


def _method(random: np.random.Generator) -> Truth:
    """Full fine-tuning, low-rank layers or the head alone, each with a rate of its own; ranks of low-rank layers."""
    floors = dict(zip(("full", "lora", "head"), random.permutation([0.0, 0.03, 0.1]), strict=True))
    rates = {name: random.uniform(-4.5, -2.5) for name in floors}
    rank = random.uniform(2, 5)

    def excess(given: Candidate) -> float:
        name = str(given["method"])
        found = floors[name] + 0.05 * (math.log10(given[f"{name}.rate"]) - rates[name]) ** 2  # type: ignore[arg-type]
        return found + (0.01 * (math.log2(given["lora.rank"]) - rank) ** 2 if name == "lora" else 0.0)  # type: ignore

    return excess


def _branin(random: np.random.Generator) -> Truth:
    def excess(given: Candidate) -> float:
        x, y = float(given["x"]), float(given["y"])  # type: ignore[arg-type]
        bent = (y - 5.1 / (4 * math.pi**2) * x * x + 5 / math.pi * x - 6) ** 2
        return bent + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10 - 0.397887

    return excess


_RATE = _number(1e-6, 1e-1, log=True)
SURROGATES = (
    Surrogate(
        "training: rate, decay, batch",
        {
            "rate": _RATE,
            "decay": _number(1e-6, 1.0, log=True),
            "batch": _number(8, 512, "int", log=True),
        },
        _training,
        noise=0.01,
    ),
    Surrogate(
        "conditional: method and its own keys",
        {
            "method": {"kind": "categorical", "choices": ["full", "lora", "head"]},
            **{f"{name}.rate": _RATE | {"when": {"method": [name]}} for name in ("full", "lora", "head")},
            "lora.rank": _number(2, 64, "int", log=True, when={"method": ["lora"]}),
        },
        _method,
        noise=0.01,
    ),
    Surrogate("Branin", {"x": _number(-5.0, 10.0), "y": _number(0.0, 15.0)}, _branin, noise=0.5),
)


# the script


def descend(body: dict[str, Any]) -> Reply:
    """Answer a request by steps from the best trial along one key after the other, shorter from round to round."""
    form = body["response_format"]["json_schema"]["schema"]["properties"]["suggestions"]
    text = body["messages"][1]["content"]
    logs = {line.split(":")[0] for line in _section(text, "Scales:") if line.endswith("logarithmic")}
    trials = [json.loads(line) for line in _section(text, "Trials so far, one a line:") if line != "none"]
    done = sorted((one for one in trials if one["state"] == "complete"), key=lambda one: one["values"][0])
    schema, reach = form["items"]["properties"], 0.3 * 0.93 ** len(trials)
    random = np.random.default_rng(len(trials))
    middle = {key: _moved(node, None, 0.5, key in logs) for key, node in schema.items()}
    best = middle | (done[0]["params"] if done else {})
    keys, found = list(schema), []
    for place in range(form["minItems"]):
        number = len(trials) + place
        key = keys[number // 2 % len(keys)]
        step = (1 if number % 2 else -1) * reach * random.uniform(0.5, 1.5)
        found.append(best | {key: _moved(schema[key], best[key], step, key in logs)})
    return suggest(*found)


def _section(text: str, head: str) -> list[str]:
    part = text.partition(f"{head}\n")[2].partition("\n\n")[0]
    return part.splitlines() if part else []


def _moved(node: dict[str, Any], value: Any, step: float, log: bool) -> Any:
    """Return a value moved by a share of its range; from the lower end without a value."""
    node = node["anyOf"][0] if "anyOf" in node else node
    if "enum" in node:
        place = node["enum"].index(value) if value is not None else 0
        return node["enum"][(place + (1 if value is not None else 0)) % len(node["enum"])]
    low, high = node["minimum"], node["maximum"]
    start = low if value is None else value
    moved = start * (high / low) ** step if log else start + step * (high - low)
    moved = min(max(moved, low), high)
    return round(moved) if node["type"] == "integer" else moved


# the comparison


def main() -> None:
    """Run all repeats; print and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--trials", type=int, default=max(SHOWN))
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the table there as Markdown")
    parser.add_argument("--picture", type=Path, metavar="FILE")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # TPE's groups
    found: dict[str, dict[str, Any]] = {surrogate.name: {} for surrogate in SURROGATES}
    for sampler in SAMPLERS:
        for surrogate in SURROGATES:
            start = time.process_time()
            curves = curves_of(surrogate, sampler, args.repeats, args.trials)
            found[surrogate.name][sampler] = curves
            last = "does not search conditional spaces" if curves is None else f"{np.median(curves, axis=0)[-1]:.4f}"
            print(f"{sampler:<20} {surrogate.name:<40} {last}  ({time.process_time() - start:.0f} CPU s)", flush=True)
    facts = {
        "machine": harness.describe("cpu"), "commit": harness.commit(), "optuna": optuna.__version__,
        "answers": "scripted, by benchmarks.advisers.descend; no language model", "excess": found,
    }  # fmt: skip
    if args.json:
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in facts.items())
        args.json.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    if args.page:
        args.page.write_text(page(facts, args.repeats), encoding="utf-8")
    if args.picture:
        draw(found, args.picture)


def curves_of(surrogate: Surrogate, sampler: str, repeats: int, trials: int) -> list[list[float]] | None:
    """Return the excess of the chosen trial after each trial (repeats, trials); None where the sampler cannot."""
    tree = {"output_dir": "unused", "run": "debug", "space": surrogate.space}
    space = SearchSpace(build(TuneConfig, tree).space)
    if sampler == "gp" and space.is_conditional:
        return None
    return [one_study(surrogate, space, sampler, seed, trials) for seed in range(repeats)]


def one_study(surrogate: Surrogate, space: SearchSpace, sampler: str, seed: int, trials: int) -> list[float]:
    """Return the excess of the chosen trial after each trial of a study."""
    truth, noise = surrogate.truth(np.random.default_rng(seed)), np.random.default_rng([seed, 1])
    excesses: list[float] = []

    def noisy(candidate: Candidate) -> float:
        excesses.append(truth(candidate))
        return excesses[-1] + surrogate.noise * noise.standard_normal()

    values = searched(space, sampler, seed, trials, noisy)
    best = [int(np.argmin(values[: count + 1])) for count in range(trials)]
    return [excesses[number] for number in best]


def searched(
    space: SearchSpace, sampler: str, seed: int, trials: int, value: Callable[[Candidate], float], startup: int = 10
) -> list[float]:
    """Return the values of the trials of one study; startup: random ones before TPE and GP begin."""
    study = optuna.create_study(sampler=_sampler(sampler, seed, startup))
    found: list[float] = []
    with tempfile.TemporaryDirectory() as folder, FakeServer([descend] * trials) as server:
        adviser = None
        if sampler == SAMPLERS[0]:
            config = AdviserConfig(model="script", base_url=server.url, api_key_env=None)
            adviser = Adviser(config, space, [("val_wql", "minimize")], Path(folder))
        for number in range(trials):
            if adviser is not None:
                refill(study, adviser, trials - number)
            trial = study.ask()
            found.append(value(space.suggest(trial)))
            study.tell(trial, found[-1])
        if server.faults:
            raise SystemExit(f"requests that a strict server refuses: {server.faults}")
    return found


def _sampler(name: str, seed: int, startup: int) -> optuna.samplers.BaseSampler:
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if name == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, group=True)


def page(facts: dict[str, Any], repeats: int) -> str:
    """Return the table in Markdown."""
    first = next(iter(facts["excess"].values()))
    heads = " | ".join(f"{count} trials" for count in SHOWN if count <= len(first["tpe"][0]))
    shown = [count for count in SHOWN if count <= len(first["tpe"][0])]
    lines = [
        "# Adviser, TPE, GP and random on surrogates", "",
        "```",
        "python -m benchmarks.advisers --json benchmarks/results/advisers.json --page docs/results/advisers.md \\",
        "  --picture docs/img/advisers.png",
        "```", "",
        "**No language model answered.** A local server played a script: a coordinate descent that reads the request's",
        "space, scales and trials. The first line of each surrogate shows how that script does; of a model it says",
        "nothing. Figures are the excess of the chosen trial over the optimum, without noise: median (quartiles) of",
        f"{repeats} repeats; lower is better. A repeat moves the optimum (not Branin's), and has one noise for all.",
        "",
        "The script begins in the middle of each range, where the first two surrogates have their optima about; others",
        "begin with the same ten random trials. On the conditional surrogate it often moves a key that has no meaning,",
        "and so repeats itself: after three answers of repeats alone it is asked no more, and TPE goes on.", "",
        f"| surrogate | sampler | {heads} | lower than tpe's at the end |",
        "|---|---|" + "---|" * (len(shown) + 1),
    ]  # fmt: skip
    for name, samplers in facts["excess"].items():
        for sampler, curves in samplers.items():
            if curves is None:
                cells = ["not run: it takes no conditional space", *[""] * len(shown)]
            else:
                quartiles = np.percentile(curves, [25, 50, 75], axis=0)
                cells = [f"{m:.3g} ({low:.2g}..{high:.2g})" for low, m, high in quartiles[:, [n - 1 for n in shown]].T]
                wins = sum(a[-1] < b[-1] for a, b in zip(curves, samplers["tpe"], strict=True))
                cells.append("" if sampler == "tpe" else f"{wins} of {repeats}")
            lines.append(f"| {name} | {sampler} | " + " | ".join(cells) + " |")
    lines += ["", "![Median excess against trials](../img/advisers.png)", "", f"Optuna {facts['optuna']}.", ""]
    return "\n".join(lines)


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw medians and quartiles against trials."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(4.2 * len(found), 3.4), layout="constrained")
    for axis, (name, samplers) in zip(axes, found.items(), strict=True):
        for number, (sampler, curves) in enumerate(samplers.items()):
            if curves is None:
                continue
            low, middle, high = np.percentile(curves, [25, 50, 75], axis=0)
            count = np.arange(1, len(middle) + 1)
            axis.plot(count, middle, color=f"C{number}", label=sampler)
            axis.fill_between(count, low, high, color=f"C{number}", alpha=0.12, linewidth=0)
        axis.set(title=name, xlabel="trials", yscale="log")
    axes[0].set_ylabel("excess over the optimum")
    axes[0].legend()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
