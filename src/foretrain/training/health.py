"""The health of a run as a pure function of its metrics.jsonl: a report that is printed while the run trains, and the
same one made later from the same lines.

A report at step N knows the lines up to the newest training line that is not after N. Losses are means over the steps
of a line; the newest RECENT lines are looked at more closely.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from foretrain.errors import ConfigError
from foretrain.printing import duration
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


def health(records: Iterable[Record], step: int | None = None, *, of: str = "metrics.jsonl") -> dict[str, Any]:
    """Return the report on a run at a step (None: at its end) as JSON data; what its lines do not tell is None.

    of: the name of their file. Raises ConfigError if no training line is there up to that step.
    """
    found = Health()
    for record in records:
        if step is not None and record["step"] > step:
            break
        found.see(record)
    if not found.lines:
        where = "" if step is None else f" up to step {step:,}"
        raise ConfigError(f"{of}: has no training line{where}, so there is nothing to report on.")
    return found.report()


class Health:
    """What the records of a run come to so far. It keeps few of them, so a report of a long run costs no more."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.lines = 0
        self._starts, self._start = 0, Record()
        self._recent: deque[Record] = deque(maxlen=RECENT)
        self._losses: deque[tuple[int, float]] = deque(maxlen=RECENT)  # (step, mean of its line)
        self._fast, self._slow = Average(), Average()
        self._period = 1  # steps of a line
        self._lowest: tuple[float, int] | None = None  # (mean of a line, step)
        self._lowest_step: float | None = None
        self._explosions: list[int] = []
        self._rates: list[float] = []
        self._clipped = self._clipped_of = 0.0  # share x steps, steps
        self._left_out = 0
        self._seconds = self._wait = 0.0
        self._memory: float | None = None
        self._latest: dict[str, Any] = {"validation": None, "evaluation": {}, "alarms": []}
        self._pending: list[Record] = []  # since the newest training line, so not known to a report at its step
        for record in records:
            self.see(record)

    def see(self, record: Record) -> None:
        """Take the next record of metrics.jsonl."""
        kind = record.get("kind")
        if kind == "alarm":  # it follows its line at once
            self._latest["alarms"].append({name: record.get(name) for name in ("step", "code", "text")})
        elif kind != "train":
            self._pending.append(record)
        else:
            for other in self._pending:
                self._see_other(other)
            self._pending.clear()
            self._see_line(with_steps(record, self._recent[-1] if self._recent else None))

    def _see_other(self, record: Record) -> None:
        kind = record.get("kind")
        if kind == "start":
            self._starts, self._start = self._starts + 1, record
        elif kind == "validation":
            self._latest["validation"] = _metrics(record) | {"best": record.get("best")}
        elif kind == "evaluation":
            facts = {name: record.get(name) for name in ("state", "score", "best")}
            self._latest["evaluation"][str(record.get("evaluator"))] = _metrics(record) | facts

    def _see_line(self, line: Record) -> None:
        steps = line["steps"]
        self._period = self._start.get("log_every") or max(self._period, steps)
        if (loss := _mean_loss(line)) is not None:
            self._losses.append((line["step"], loss))
            self._fast.add(loss, steps, FAST * self._period)
            self._slow.add(loss, steps, SLOW * self._period)
            self._lowest = min(self._lowest or (loss, line["step"]), (loss, line["step"]))
        if (smallest := line.get("loss_min")) is not None:
            self._lowest_step = smallest if self._lowest_step is None else min(self._lowest_step, smallest)
        if _explodes(line, list(self._recent)[-_BEFORE:]):
            self._explosions.append(line["step"])
        if line.get("lr") is not None:
            self._rates.append(line["lr"])
        if (share := line.get("clipped_share")) is not None:
            self._clipped, self._clipped_of = self._clipped + share * steps, self._clipped_of + steps
        if (memory := line.get("memory_gb")) is not None:
            self._memory = memory if self._memory is None else max(self._memory, memory)
        self._left_out += line.get("left_out_steps") or 0
        self._seconds += _seconds([line])
        self._wait += line.get("data_wait_s") or 0.0
        self._recent.append(line)
        self.lines += 1

    def report(self) -> dict[str, Any]:
        """Return the report, of one training line or more."""
        lines, start = list(self._recent), self._start
        return {
            "step": lines[-1]["step"],
            "total_steps": start.get("total_steps"),
            "epoch": lines[-1].get("epoch"),
            "lines": self.lines,
            "starts": self._starts,
            "processes": start.get("processes"),
            "loss": self._loss(lines),
            "gradients": self._gradients(lines),
            "learning_rate": {
                "newest": self._rates[-1] if self._rates else None,
                "highest": max(self._rates, default=None),
                "course": thinned(self._rates, RECENT),
            },
            "memory": {
                "used_gb": lines[-1].get("memory_gb"),
                "highest_gb": self._memory,
                "total_gb": lines[-1].get("memory_total_gb"),
                "gpu_busy_share": _weighted(lines, "gpu_busy_share"),
            },
            "throughput": self._throughput(lines),
            "ranks": _ranks(lines),
            "data": {
                "wait_share": _weighted(lines, "data_share", by_time=True),
                "wait_s_of_run": self._wait,
                **{name: start.get(name) for name in ("series", "short_series", "batch_size", "unit")},
            },
            "validation": self._latest["validation"],
            "evaluators": dict(self._latest["evaluation"]),
            "alarms": list(self._latest["alarms"]),
        }

    def _loss(self, lines: Sequence[Record]) -> dict[str, Any]:
        """Return averages, slope and spread of the loss; the slope is that of a least-squares line over RECENT lines.

        Its error is that of independent residuals, so `trend` needs two of it. spread: the residuals' deviation.
        """
        slope, error, spread = _fit(self._losses)
        values = [loss for _, loss in self._losses]
        largest = [line["loss_max"] for line in lines if line.get("loss_max") is not None]
        lowest = None if self._lowest is None else {"step": self._lowest[1], "loss": self._lowest[0]}
        return {
            "newest": values[-1] if values else None,
            "fast": self._fast.value,
            "slow": self._slow.value,
            "half_lives": [FAST * self._period, SLOW * self._period],
            "lowest_line": lowest,
            "lowest_step": self._lowest_step,
            "recent_highest_step": max(largest, default=None),
            "slope_per_1000_steps": slope,
            "slope_error": error,
            "spread": spread,
            "trend": _trend(slope, error),
            "recent": values,
        }

    def _gradients(self, lines: Sequence[Record]) -> dict[str, Any]:
        """Return norms before clipping, and the steps of lines whose largest norm is an EXPLOSION."""
        histogram = merged(line.get("grad_norm_bins") or {} for line in lines)
        largest = [line.get("grad_norm_max", line.get("grad_norm")) for line in lines]
        return {
            "newest": lines[-1].get("grad_norm"),
            "mean": _weighted(lines, "grad_norm_mean", "grad_norm"),
            "p95": quantile(histogram, 0.95),
            "max": max((value for value in largest if value is not None), default=None),
            "clip_norm": self._start.get("clip_norm"),
            "clipped_share": _weighted(lines, "clipped_share"),
            "clipped_share_of_run": self._clipped / self._clipped_of if self._clipped_of else None,
            "explosions": list(self._explosions),
            "left_out_steps": self._left_out,
            "bad_batches": lines[-1].get("bad_batches"),
            "recent": [line.get("grad_norm_mean", line.get("grad_norm")) for line in lines],
        }

    def _throughput(self, lines: Sequence[Record]) -> dict[str, Any]:
        """Return rates, p50 and p95 of the steps (within 5%), and the time trained and to go."""
        seconds, steps = _seconds(lines), sum(line["steps"] for line in _rated(lines))
        histogram = merged(line.get("step_s_bins") or {} for line in lines)
        rate = steps / seconds if seconds else lines[-1].get("steps_per_s")
        total = self._start.get("total_steps")
        return {
            "steps_per_s": rate,
            "series_per_s": _weighted(lines, "windows_per_s", by_time=True),
            "step_s_mean": seconds / steps if steps else None,
            "step_s_p50": quantile(histogram, 0.5),
            "step_s_p95": quantile(histogram, 0.95),
            "mfu": _weighted(lines, "mfu", by_time=True),
            "trained_s": self._seconds or None,
            "left_s": (total - lines[-1]["step"]) / rate if total is not None and rate else None,
        }


class Average:
    """A moving average whose weights halve every so many steps."""

    def __init__(self) -> None:
        self._total = self._weight = 0.0

    def add(self, value: float, steps: int, half_life: float) -> None:
        """Take the mean of some steps."""
        kept = 0.5 ** (steps / half_life)
        self._total = self._total * kept + value * (1 - kept)
        self._weight = self._weight * kept + (1 - kept)

    @property
    def value(self) -> float | None:
        """The average; None of nothing."""
        return self._total / self._weight if self._weight else None


def with_steps(line: Record, before: Record | None) -> Record:
    """Return a training line with its number of steps, which an older version did not write."""
    return {**line, "steps": line.get("steps") or line["step"] - (before["step"] if before else 0)}


def _metrics(record: Record) -> dict[str, Any]:
    values = {name: value for name, value in record.items() if isinstance(value, int | float | None)}
    return {"step": record["step"], "metrics": {n: v for n, v in values.items() if n not in _NOT_METRICS}}


def _mean_loss(line: Record) -> float | None:
    """Return the mean loss of a line's steps; that of its newest step, in files that older versions wrote."""
    return line["loss_mean"] if "loss_mean" in line else line.get("loss")


def averages(known: Sequence[tuple[int, float, int]], half_life: float) -> list[float]:
    """Return the moving average at each (step, loss, steps of its line): weights halve every half_life steps."""
    found, average = list[float](), Average()
    for _, loss, steps in known:
        average.add(loss, steps, half_life)
        found.append(average.value or 0.0)
    return found


def _fit(points: Collection[tuple[int, float]]) -> tuple[float | None, float | None, float | None]:
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


def _explodes(line: Record, before: Sequence[Record]) -> bool:
    means = sorted(mean for one in before if (mean := one.get("grad_norm_mean")) is not None)
    largest = line.get("grad_norm_max")
    return bool(means) and largest is not None and largest > EXPLOSION * means[len(means) // 2]


def _ranks(lines: Sequence[Record]) -> dict[str, Any] | None:
    """Return which rank computes and waits longest, in how many of the lines, and the seconds of a step of that."""
    found = {}
    for what, others in (("slowest", "median"), ("waiting", None)):
        named = [line for line in lines if line.get(f"{what}_rank") is not None]
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
    if memory["gpu_busy_share"] is not None:
        used += f"; the GPU is busy {_percent(memory['gpu_busy_share'])} of the time"
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
