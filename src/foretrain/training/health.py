"""The health of a run as a pure function of its metrics.jsonl: a report that is printed while the run trains, and the
same one made later from the same lines.

A report at step N knows the lines up to the newest training line that is not after N. Losses are means over the steps
of a line; the newest RECENT lines are looked at more closely.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from foretrain.atomic import write_json
from foretrain.errors import ConfigError
from foretrain.printing import duration
from foretrain.training.journal import read_journal
from foretrain.training.line_stats import merged, quantile

RECENT = 40  # lines
FAST, SLOW = 10, 50  # half-lives of the two moving averages of the loss, in steps of log_every
EXPLOSION = 10.0  # a norm so many times the median of the lines' means before it
_BEFORE = 10  # lines that the median is of
SHOWN_ALARMS = 5  # the newest
_BARS = "▁▂▃▄▅▆▇█"
_NOT_METRICS = ("step", "kind", "epoch", "time", "best", "evaluator", "state", "score", "seconds")

Record = dict[str, Any]
T = TypeVar("T")


def write_health(output_dir: Path, step: int) -> tuple[dict[str, Any], str]:
    """Write health.json of a run folder, of its lines up to a step; return the report and its text."""
    report = health(read_journal(output_dir / "metrics.jsonl"), step)
    write_json(output_dir / "health.json", report)
    return report, render(report)


def health(records: Iterable[Record], step: int | None = None, *, of: str = "metrics.jsonl") -> dict[str, Any]:
    """Return the report on a run at a step (None: at its end) as JSON data; what its lines do not tell is None.

    of: the name of their file. Raises ConfigError if no training line is there up to that step.
    """
    starts, lines, latest = _read(records, step)
    if not lines:
        where = "" if step is None else f" up to step {step:,}"
        raise ConfigError(f"{of}: has no training line{where}, so there is nothing to report on.")
    start = starts[-1] if starts else {}
    return {
        "step": lines[-1]["step"],
        "total_steps": start.get("total_steps"),
        "epoch": lines[-1].get("epoch"),
        "lines": len(lines),
        "starts": len(starts),
        "processes": start.get("processes"),
        "loss": _loss(lines, start),
        "gradients": _gradients(lines, start),
        "learning_rate": _learning_rate(lines),
        "memory": _memory(lines),
        "throughput": _throughput(lines, start),
        "ranks": _ranks(lines),
        "data": _data(lines, start),
        "validation": latest.get("validation"),
        "evaluators": latest.get("evaluation", {}),
        "alarms": latest.get("alarms", []),
    }


def step_times(records: Iterable[Record]) -> dict[str, float | None]:
    """Return mean, standard deviation, p50 and p95 (within 5%) of the seconds of all steps, without validations and
    checkpoints; None of what a line, as of an older version, does not tell."""
    _, lines, _ = _read(records, None)
    found: dict[str, float | None] = dict.fromkeys(f"step_s_{name}" for name in ("mean", "std", "p50", "p95"))
    seconds, steps = _seconds(lines), sum(line["steps"] for line in lines)
    if not lines or not all(line.get("steps_per_s") for line in lines):
        return found
    found["step_s_mean"] = mean = seconds / steps
    if all(line.get("step_s_std") is not None for line in lines):
        squares = (line["steps"] * (line["step_s_std"] ** 2 + (1 / line["steps_per_s"] - mean) ** 2) for line in lines)
        found["step_s_std"] = math.sqrt(math.fsum(squares) / steps)
    if all("step_s_bins" in line for line in lines):
        histogram = merged(line["step_s_bins"] for line in lines)
        found |= {"step_s_p50": quantile(histogram, 0.5), "step_s_p95": quantile(histogram, 0.95)}
    return found


def _read(records: Iterable[Record], step: int | None) -> tuple[list[Record], list[Record], dict[str, Any]]:
    """Return starts, training lines, and latest: validation and evaluations before the newest line, all alarms."""
    starts, lines, latest = list[Record](), list[Record](), dict[str, Any]()
    pending: list[Record] = []
    for record in records:
        if step is not None and record["step"] > step:
            break
        if record.get("kind") == "alarm":  # it follows its line at once
            latest.setdefault("alarms", []).append({name: record.get(name) for name in ("step", "code", "text")})
            continue
        if record.get("kind") != "train":
            pending.append(record)
            continue
        steps = record.get("steps") or record["step"] - (lines[-1]["step"] if lines else 0)
        lines.append({**record, "steps": steps})  # an older version wrote no number of steps
        for other in pending:  # those after the newest training line are not known to a report at its step
            if other.get("kind") == "start":
                starts.append(other)
            elif other.get("kind") == "validation":
                latest["validation"] = _metrics(other) | {"best": other.get("best")}
            elif other.get("kind") == "evaluation":
                facts = {name: other.get(name) for name in ("state", "score", "best")}
                latest.setdefault("evaluation", {})[str(other.get("evaluator"))] = _metrics(other) | facts
        pending.clear()
    return starts, lines, latest


def _metrics(record: Record) -> dict[str, Any]:
    values = {name: value for name, value in record.items() if isinstance(value, int | float | None)}
    return {"step": record["step"], "metrics": {n: v for n, v in values.items() if n not in _NOT_METRICS}}


def _loss(lines: Sequence[Record], start: Record) -> dict[str, Any]:
    """Return averages, slope and spread of the loss; the slope is that of a least-squares line over RECENT lines.

    Its error is that of independent residuals, so `trend` needs two of it. spread: the residuals' deviation.
    """
    known = [(line["step"], _mean_loss(line), line["steps"]) for line in lines]
    known = [(step, loss, steps) for step, loss, steps in known if loss is not None]
    values = [loss for _, loss, _ in known]
    period = start.get("log_every") or max((steps for *_, steps in known), default=1)
    slope, error, spread = _fit([(step, loss) for step, loss, _ in known][-RECENT:])
    lowest = min(known, key=lambda one: one[1], default=None)
    smallest = [line["loss_min"] for line in lines if line.get("loss_min") is not None]
    largest = [line["loss_max"] for line in lines[-RECENT:] if line.get("loss_max") is not None]
    return {
        "newest": values[-1] if values else None,
        "fast": _moving(known, FAST * period),
        "slow": _moving(known, SLOW * period),
        "half_lives": [FAST * period, SLOW * period],
        "lowest_line": None if lowest is None else {"step": lowest[0], "loss": lowest[1]},
        "lowest_step": min(smallest, default=None),
        "recent_highest_step": max(largest, default=None),
        "slope_per_1000_steps": slope,
        "slope_error": error,
        "spread": spread,
        "trend": _trend(slope, error),
        "recent": values[-RECENT:],
    }


def _mean_loss(line: Record) -> float | None:
    """Return the mean loss of a line's steps; that of its newest step, in files that older versions wrote."""
    return line["loss_mean"] if "loss_mean" in line else line.get("loss")


def _moving(known: Sequence[tuple[int, float, int]], half_life: float) -> float | None:
    return next(reversed(averages(known, half_life)), None)


def averages(known: Sequence[tuple[int, float, int]], half_life: float) -> list[float]:
    """Return the moving average at each (step, loss, steps of its line): weights halve every half_life steps."""
    found, total, weight = [], 0.0, 0.0
    for _, loss, steps in known:
        kept = 0.5 ** (steps / half_life)
        total, weight = total * kept + loss * (1 - kept), weight * kept + (1 - kept)
        found.append(total / weight)
    return found


def _fit(points: Sequence[tuple[int, float]]) -> tuple[float | None, float | None, float | None]:
    """Return slope per 1,000 steps, its standard error, and the deviation of the residuals; None of too few points."""
    count = len(points)
    if count < 3:
        return None, None, None
    x = [step / 1000 for step, _ in points]
    y = [value for _, value in points]
    middle, mean = math.fsum(x) / count, math.fsum(y) / count
    width = math.fsum((a - middle) ** 2 for a in x)
    slope = math.fsum((a - middle) * (b - mean) for a, b in zip(x, y, strict=True)) / width
    rest = math.fsum((b - mean - slope * (a - middle)) ** 2 for a, b in zip(x, y, strict=True)) / (count - 2)
    return slope, math.sqrt(rest / width), math.sqrt(rest)


def _trend(slope: float | None, error: float | None) -> str:
    if slope is None or error is None:
        return "too few lines to tell"
    if abs(slope) <= 2 * error:
        return "flat within its noise"
    return "falling" if slope < 0 else "RISING"


def _gradients(lines: Sequence[Record], start: Record) -> dict[str, Any]:
    """Return norms before clipping, of RECENT lines, and the steps of lines whose largest norm is an EXPLOSION."""
    recent = lines[-RECENT:]
    histogram = merged(line.get("grad_norm_bins") or {} for line in recent)
    largest = [line.get("grad_norm_max", line.get("grad_norm")) for line in recent]
    return {
        "newest": lines[-1].get("grad_norm"),
        "mean": _weighted(recent, "grad_norm_mean", "grad_norm"),
        "p95": quantile(histogram, 0.95),
        "max": max((value for value in largest if value is not None), default=None),
        "clip_norm": start.get("clip_norm"),
        "clipped_share": _weighted(recent, "clipped_share"),
        "clipped_share_of_run": _weighted(lines, "clipped_share"),
        "explosions": [line["step"] for line, before in _with_before(lines) if _explodes(line, before)],
        "left_out_steps": sum(line.get("left_out_steps") or 0 for line in lines),
        "bad_batches": lines[-1].get("bad_batches"),
        "recent": [line.get("grad_norm_mean", line.get("grad_norm")) for line in recent],
    }


def _with_before(lines: Sequence[Record]) -> Iterator[tuple[Record, Sequence[Record]]]:
    return ((line, lines[max(0, k - _BEFORE) : k]) for k, line in enumerate(lines))


def _explodes(line: Record, before: Sequence[Record]) -> bool:
    means = sorted(mean for one in before if (mean := one.get("grad_norm_mean")) is not None)
    largest = line.get("grad_norm_max")
    return bool(means) and largest is not None and largest > EXPLOSION * means[len(means) // 2]


def _learning_rate(lines: Sequence[Record]) -> dict[str, Any]:
    rates = [line["lr"] for line in lines if line.get("lr") is not None]
    return {
        "newest": rates[-1] if rates else None,
        "highest": max(rates, default=None),
        "course": thinned(rates, RECENT),
    }


def _memory(lines: Sequence[Record]) -> dict[str, Any]:
    used = [line["memory_gb"] for line in lines if line.get("memory_gb") is not None]
    return {
        "used_gb": lines[-1].get("memory_gb"),
        "highest_gb": max(used, default=None),
        "total_gb": lines[-1].get("memory_total_gb"),
    }


def _throughput(lines: Sequence[Record], start: Record) -> dict[str, Any]:
    """Return rates of RECENT lines, p50 and p95 of their steps (within 5%), and the time trained and to go."""
    recent = lines[-RECENT:]
    seconds, steps = _seconds(recent), sum(line["steps"] for line in _rated(recent))
    histogram = merged(line.get("step_s_bins") or {} for line in recent)
    rate = steps / seconds if seconds else lines[-1].get("steps_per_s")
    total = start.get("total_steps")
    return {
        "steps_per_s": rate,
        "series_per_s": _weighted(recent, "windows_per_s", by_time=True),
        "step_s_mean": seconds / steps if steps else None,
        "step_s_p50": quantile(histogram, 0.5),
        "step_s_p95": quantile(histogram, 0.95),
        "mfu": _weighted(recent, "mfu", by_time=True),
        "trained_s": _seconds(lines) or None,
        "left_s": (total - lines[-1]["step"]) / rate if total is not None and rate else None,
    }


def _ranks(lines: Sequence[Record]) -> dict[str, Any] | None:
    """Return which rank computes and waits longest, how often in RECENT lines, and the seconds of a step of that."""
    recent = lines[-RECENT:]
    found = {}
    for what, others in (("slowest", "median"), ("waiting", None)):
        named = [line for line in recent if line.get(f"{what}_rank") is not None]
        if not named:
            continue
        counts = [line[f"{what}_rank"] for line in named]
        rank = max(sorted(set(counts)), key=counts.count)
        chosen = [line for line in named if line[f"{what}_rank"] == rank]
        found[what] = {
            "rank": rank,
            "share_of_lines": counts.count(rank) / len(named),
            "step_s": _weighted(chosen, f"{what}_rank_s"),
            "median_step_s": _weighted(chosen, f"{others}_rank_s") if others else None,
        }
    return found or None


def _data(lines: Sequence[Record], start: Record) -> dict[str, Any]:
    return {
        "wait_share": _weighted(lines[-RECENT:], "data_share", by_time=True),
        "wait_s_of_run": math.fsum(line.get("data_wait_s") or 0.0 for line in lines),
        "series": start.get("series"),
        "short_series": start.get("short_series"),
        "batch_size": start.get("batch_size"),
        "unit": start.get("unit"),
    }


def _seconds(lines: Sequence[Record]) -> float:
    """Return the seconds of the steps of lines, without pauses for validations and checkpoints."""
    return math.fsum(line["steps"] / line["steps_per_s"] for line in _rated(lines))


def _rated(lines: Sequence[Record]) -> list[Record]:
    """Return the lines that tell a rate: not those whose every step was under a profiler."""
    return [line for line in lines if line.get("steps_per_s")]


def _weighted(lines: Sequence[Record], name: str, instead: str = "", *, by_time: bool = False) -> float | None:
    """Return the mean of a figure of lines, weighted by their steps or their seconds; None if none has it."""
    total = weight = 0.0
    for line in lines:
        value = line.get(name, line.get(instead))
        if value is None:
            continue
        size = line["steps"]
        size = size / line["steps_per_s"] if by_time and line.get("steps_per_s") else size
        total, weight = total + value * size, weight + size
    return total / weight if weight else None


def thinned(values: Sequence[T], count: int) -> list[T]:
    """Return at most `count` of the values, evenly spread, the last one among them."""
    if len(values) <= count:
        return list(values)
    return [values[round(k * (len(values) - 1) / (count - 1))] for k in range(count)]


# the text


def render(report: Mapping[str, Any]) -> str:
    """Return a report as text in a box; "-" for what is not known."""
    total = "" if report["total_steps"] is None else f" of {report['total_steps']:,} ({_done(report)})"
    head = f"health at step {report['step']:,}{total}"
    if report["starts"] > 1:
        head += f", started {report['starts']} times"
    rows = [(f"ALARM {one['step']:,}", f"{one['code']}: {one['text']}") for one in report["alarms"][-SHOWN_ALARMS:]]
    rows += [row for part in (_loss_rows, _gradient_rows, _other_rows, _score_rows) for row in part(report)]
    label = max(len(name) for name, _ in rows)
    lines = [head, *(f"{name:{label}}  {text}" for name, text in rows)]
    wide = max(len(line) for line in lines)
    frame = [f"│ {line:{wide}} │" for line in lines]
    rule = "─" * (wide + 2)
    return "\n".join([f"┌{rule}┐", frame[0], f"├{rule}┤", *frame[1:], f"└{rule}┘"])


def sparkline(values: Sequence[float | None]) -> str:
    """Return values as bars between their lowest and highest; a blank for None."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return ""
    low, high = min(known), max(known)
    step = (high - low) / (len(_BARS) - 1) or 1.0
    return "".join(
        _BARS[round((value - low) / step)] if value is not None and math.isfinite(value) else " " for value in values
    )


def bar(share: float, width: int = 20) -> str:
    """Return a share as a bar."""
    filled = min(max(round(share * width), 0), width)
    return "█" * filled + "░" * (width - filled)


def _loss_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    loss = report["loss"]
    fast, slow = loss["half_lives"]
    lowest = loss["lowest_line"]
    low = "" if lowest is None else f", lowest line {_figure(lowest['loss'])} at step {lowest['step']:,}"
    slope = "-"
    if loss["slope_per_1000_steps"] is not None:
        slope = f"{loss['slope_per_1000_steps']:+.4g} ± {loss['slope_error']:.2g} per 1,000 steps"
    return [
        ("loss", f"{_figure(loss['newest'])}{low}, highest recent step {_figure(loss['recent_highest_step'])}"),
        ("", sparkline(loss["recent"])),
        (
            "averages",
            f"fast {_figure(loss['fast'])}, slow {_figure(loss['slow'])} (half-lives {fast:,}, {slow:,} steps)",
        ),
        ("trend", f"{loss['trend']}: {slope}, spread {_figure(loss['spread'])}"),
    ]


def _gradient_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    found, rate = report["gradients"], report["learning_rate"]
    clip = "not clipped" if report["starts"] else f"clipped {_percent(found['clipped_share'])} of the steps"
    if found["clip_norm"] is not None:
        clip = f"clipped at {found['clip_norm']:g}: {_percent(found['clipped_share'])} of the steps"
    steps = found["explosions"]
    newest = f", the last near step {steps[-1]:,}" if steps else ""
    lost = [f"{found['left_out_steps']:,} steps changed nothing"] if found["left_out_steps"] else []
    lost += [f"{found['bad_batches']:,} bad batches"] if found["bad_batches"] else []
    return [
        (
            "gradients",
            f"norm mean {_figure(found['mean'])}, p95 {_figure(found['p95'])}, max {_figure(found['max'])}; {clip}",
        ),
        ("", sparkline(found["recent"])),
        ("explosions", f"{len(steps):,} lines with a norm over {EXPLOSION:g} x the usual{newest}"),
        *([("lost", ", ".join(lost))] if lost else []),
        (
            "rate",
            f"{_figure(rate['newest'], '.2e')}, highest {_figure(rate['highest'], '.2e')}  {sparkline(rate['course'])}",
        ),
    ]


def _other_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    memory, speed, data = report["memory"], report["throughput"], report["data"]
    used = f"{_figure(memory['used_gb'], '.1f')} of {_figure(memory['total_gb'], '.0f')} GB"
    if memory["used_gb"] is not None and memory["total_gb"]:
        used = f"{bar(memory['used_gb'] / memory['total_gb'])} {used}, highest {_figure(memory['highest_gb'], '.1f')}"
    mfu = "" if speed["mfu"] is None else f", mfu {_percent(speed['mfu'])}"
    steps = ", ".join(f"{name} {seconds_text(speed[f'step_s_{name}'])}" for name in ("mean", "p50", "p95"))
    short = f" ({data['short_series']:,} too short, left out)" if data["short_series"] else ""
    series = "" if data["series"] is None else f", {data['series']:,} series{short}"
    rows = [
        ("memory", used),
        (
            "speed",
            f"{_figure(speed['steps_per_s'], '.3g')} step/s, {_figure(speed['series_per_s'], ',.0f')} series/s{mfu}",
        ),
        ("step", steps),
        ("time", f"{_time(speed['trained_s'])} trained, {_time(speed['left_s'])} to go"),
        ("data", f"{_percent(data['wait_share'])} of the time is waited for data{series}"),
    ]
    for what, text in (("slowest", "computes"), ("waiting", "waits for data")):
        if one := (report["ranks"] or {}).get(what):
            beside = "" if one["median_step_s"] is None else f", the middle rank {seconds_text(one['median_step_s'])}"
            how = f"rank {one['rank']} {text} longest in {_percent(one['share_of_lines'])} of the lines"
            rows.append((what, f"{how}: {seconds_text(one['step_s'])} a step{beside}"))
    return rows


def _score_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows, found = [], report["validation"]
    if found is not None:
        best = ", the best so far" if found["best"] else ""
        rows.append(("validation", f"at step {found['step']:,}{best}: {_scores(found['metrics'])}"))
    for name, one in report["evaluators"].items():
        best = ", among the best" if one["best"] else ""
        state = "" if one["state"] in (None, "done") else f", {one['state']}"
        metrics = {key.rpartition("/")[2]: value for key, value in one["metrics"].items() if f"/{name}/" in key}
        rows.append((name, f"at step {one['step']:,}{state}{best}: {_scores(metrics or one['metrics'])}"))
    return rows


def _scores(metrics: Mapping[str, Any]) -> str:
    shown = [f"{name.removeprefix('val_')} {_figure(value)}" for name, value in list(metrics.items())[:4]]
    return ", ".join(shown) + (", ..." if len(metrics) > len(shown) else "")


def _done(report: Mapping[str, Any]) -> str:
    return _percent(report["step"] / report["total_steps"]) if report["total_steps"] else "-"


def _figure(value: float | None, form: str = ".4g") -> str:
    return "-" if value is None else format(value, form)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"


def seconds_text(value: float | None) -> str:
    """Return the seconds of a step in words; "-" for None."""
    return "-" if value is None else f"{1000 * value:.3g} ms" if value < 1 else f"{value:.3g} s"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else duration(seconds)
