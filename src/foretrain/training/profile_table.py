"""The one-page table of a profile."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

_MEANING = {
    "data": "waiting for the loader",
    "copy": "to the device",
    "forward": "",
    "backward": "",
    "exchange": "with other ranks, as far as no pass hides it",
    "optimizer": "with clipping",
    "average": "of weights",
    "rest": "between these: the host's own work, logs",
}
_OWN = ("data", "copy", "forward", "backward")  # what a rank does before it waits for others
_WIDEST = 60  # characters of an operator's name


def table(found: Mapping[str, Any]) -> str:
    """Return profile.json's content as text."""
    return "\n".join([*_parts(found), "", *_ranks(found), *_operators(found), "", *_flops(found)])


def _parts(found: Mapping[str, Any]) -> list[str]:
    first, last = found["steps"]
    ranks = f"{found['processes']:,} process{'es' * (found['processes'] > 1)}"
    lines = [
        f"profile of steps {first:,} to {last:,} on {found['device']}: {ranks}, {found['threads']} "
        f"thread{'s' * (found['threads'] > 1)}, {found['dtype']}, torch {found['torch']}",
        f"{'part':12}{'ms a step':>10}{'share':>8}{'p95 ms':>10}",
    ]
    own = found["ranks"][0]
    step = own["step"]["mean_s"]
    for part, times in own.items():
        share = f"{100 * times['mean_s'] / step:.1f}%"
        meaning = f"  {_MEANING[part]}" if _MEANING.get(part) else ""
        if part == "step":
            meaning = f"  {100 * (1 - own['rest']['mean_s'] / step):.1f}% of it in the parts above the rest"
        if found["sharded"] and part in ("forward", "backward"):
            meaning = "  with the exchange of sharded weights and gradients"
        lines.append(f"{part:12}{1e3 * times['mean_s']:10.3f}{share:>8}{1e3 * times['p95_s']:10.3f}{meaning}")
    return lines


def _ranks(found: Mapping[str, Any]) -> list[str]:
    if len(found["ranks"]) == 1:
        return []
    if found["sharded"]:
        return ["above: rank 0. Passes of a sharded model wait for other ranks, so the slowest cannot be told", ""]
    own = [sum(rank[part]["mean_s"] for part in _OWN if part in rank) for rank in found["ranks"]]
    slowest = max(range(len(own)), key=own.__getitem__)
    return [
        f"above: rank 0. Slowest: rank {slowest}, {1e3 * own[slowest]:.3f} ms a step before it waits for others; the "
        f"middle rank {1e3 * statistics.median(own):.3f} ms",
        "",
    ]


def _operators(found: Mapping[str, Any]) -> list[str]:
    operators = found["operators"]
    first, last = found["left_out"]
    rows: Sequence[Mapping[str, Any]] = operators["of"]
    width = max([len("operator"), *(min(len(row["name"]), _WIDEST) for row in rows)])
    complete = "" if operators["complete"] else f", cut short after {operators['micro_batches']:,} micro-batches"
    return [
        f"operators by self time, in {operators['steps']} more steps under torch's profiler{complete}",
        f"{'operator':{width}}{'calls':>9}{'self ms':>11}{'share':>8}",
        *(
            f"{row['name'][:_WIDEST]:{width}}{row['calls']:9,}{1e3 * row['self_s']:11.3f}{100 * row['share']:7.1f}%"
            for row in rows
        ),
        f"steps {first:,} to {last:,}, which ranked and counted, are left out of the rates in metrics.jsonl",
    ]


def _flops(found: Mapping[str, Any]) -> list[str]:
    mfu = "" if found["mfu"] is None else f", {100 * found['mfu']:.1f}% of the peak {_rate(found['peak_flops_per_s'])}"
    speed = f"needed in the timed steps: {_rate(found['needed_flops_per_s'])}{mfu}"
    if (flops := found["flops"]) is None:
        return [speed, "executed FLOPs are not counted with training.compile, as counting would run uncompiled code"]
    rows = [("needed, both passes", flops["needed"]), *flops["differences"].items(), ("executed", flops["executed"])]
    width = max(len(name) for name, _ in rows)
    lines = [f"{'FLOPs of a step, rank 0':{width}}{'GFLOP':>14}{'share':>9}"]
    for name, count in rows:
        sign = "+" if name in flops["differences"] else ""
        share = 100 * count / flops["needed"] if flops["needed"] else 0.0
        lines.append(f"{name:{width}}{count / 1e9:{sign}14,.6f}{share:{sign}8.1f}%")
    return [*lines, speed]


def _rate(value: float) -> str:
    return f"{value / 1e12:.3g} TFLOP/s" if value >= 1e12 else f"{value / 1e9:.3g} GFLOP/s"
