"""A study in lines and tables. Imports neither Optuna nor torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from foretrain.printing import duration
from foretrain.tuning.records import DEFAULT_TRIAL, TrialRecord
from foretrain.tuning.study import StudyFolder, front, ranked

if TYPE_CHECKING:
    from rich.table import Table

_SHOWN = 40  # rows of a history


def progress_line(folder: StudyFolder, record: TrialRecord, records: Sequence[TrialRecord]) -> str:
    """Return the line on a trial that has just ended."""
    ended = sum(one.number != DEFAULT_TRIAL for one in records)
    parts = [f"trial {name_of(record.number)}", f"[{ended} of {folder.config.trials}]", outcome(folder, record)]
    best = ranked(records, folder.directions)
    if best:
        parts.append(f"best {figures(folder, best[0].values)} (trial {best[0].number})")
    return "  ".join(parts)


def progress_table(
    folder: StudyFolder, records: Sequence[TrialRecord], holders: Mapping[str, Mapping[str, Any]]
) -> Table:
    """Return the table of a study under way: what has ended, the best, and who works on what."""
    from rich.table import Table

    table = Table(title=state_line(folder, records), title_justify="left", box=None)
    for column in ("worker", "trial", "step", metric_name(folder)):
        table.add_column(column, justify="left" if column == "worker" else "right")
    for name, holder in sorted(holders.items(), key=lambda pair: str(pair[1].get("worker"))):
        step, value = holder.get("step"), holder.get("value")
        shown = f"{value:.5g}" if isinstance(value, float) else ""
        table.add_row(str(holder.get("worker")), name, "" if step is None else str(step), shown)
    return table


def state_line(folder: StudyFolder, records: Sequence[TrialRecord]) -> str:
    """Return how many trials ended in which way, and the best."""
    search = [record for record in records if record.number != DEFAULT_TRIAL]
    parts = [f"{len(search)} of {folder.config.trials} trials"]
    for state in ("complete", "pruned", "failed"):
        parts += [f"{count} {state}"] if (count := sum(r.state == state for r in search)) else []
    if best := ranked(records, folder.directions):
        parts.append(f"best {figures(folder, best[0].values)} (trial {best[0].number})")
    return ", ".join(parts)


def history_lines(
    folder: StudyFolder, records: Sequence[TrialRecord], holders: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Return the history of a study: its trials, those at work, the workers, and the best beside the default."""
    lines = [f"study {folder.path}: {state_line(folder, records)}", ""]
    shown = records[-_SHOWN:]
    if len(records) > len(shown):
        lines.append(f"the last {len(shown)} of {len(records)}; all are in {folder.path}/trials.jsonl")
    rows = [("trial", "state", metric_name(folder), "steps", "time", "candidate")]
    for record in shown:
        values = figures(folder, record.values) if record.values else _last(record)
        state = record.state if record.feasible or record.state != "complete" else "beyond a constraint"
        params = params_text(record.params) if record.number != DEFAULT_TRIAL else "the run as it stands"
        rows.append((name_of(record.number), state, values, str(record.steps), duration(record.seconds), params))
    lines += _aligned(rows)
    at_work = [f"{name} ({holder.get('worker')}, step {holder.get('step', 0)})" for name, holder in holders.items()]
    if at_work:
        lines += ["", f"at work: {', '.join(at_work)}"]
    if workers := by_worker(records):
        lines += ["", f"trials by worker: {', '.join(f'{name} {count}' for name, count in workers.items())}"]
    return [*lines, "", *best_lines(folder, records)]


def best_lines(folder: StudyFolder, records: Sequence[TrialRecord]) -> list[str]:
    """Return the best trial, or those of the Pareto front, beside the run as it stands."""
    winners = front(records, folder.directions)
    default = next((record for record in records if record.number == DEFAULT_TRIAL), None)
    lines = []
    if not winners:
        lines.append("best: none; no trial is complete and keeps to the constraints")
    head = "best" if len(winners) < 2 else "Pareto front"
    for record in winners:
        lines.append(f"{head}: trial {record.number}  {figures(folder, record.values)}  {params_text(record.params)}")
    if default is not None:
        said = figures(folder, default.values) if default.values else f"{default.state}: {default.message}"
        lines.append(f"default: {said}")
    if winners:
        lines.append("These figures are of the validation that chose them, and so flatter the best.")
    return lines


def outcome(folder: StudyFolder, record: TrialRecord) -> str:
    """Return what came of a trial."""
    if record.state == "complete":
        return figures(folder, record.values) + ("" if record.feasible else " (beyond a constraint)")
    if record.state == "pruned":
        return f"pruned at {_last(record)}"
    return f"failed: {record.message[:200]}"


def figures(folder: StudyFolder, values: Sequence[float] | None) -> str:
    """Return the objectives' values with their names."""
    names = [objective.metric for objective in folder.config.objectives]
    return " ".join(f"{name} {value:.5g}" for name, value in zip(names, values or (), strict=False))


def metric_name(folder: StudyFolder) -> str:
    """Return the name of the first objective."""
    return folder.config.objectives[0].metric


def name_of(number: int) -> str:
    """Return how a trial is called."""
    return "default" if number == DEFAULT_TRIAL else str(number)


def last_value(record: TrialRecord) -> float | None:
    """Return the first objective of a trial's newest validation that is finite."""
    return next((point.value for point in reversed(record.curve) if point.value is not None), None)


def _last(record: TrialRecord) -> str:
    value = last_value(record)
    return "" if value is None else f"{value:.5g}"


def params_text(params: Mapping[str, Any]) -> str:
    """Return the values of a candidate in a line."""
    return " ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in params.items()
    )


def by_worker(records: Sequence[TrialRecord]) -> dict[str, int]:
    """Return how many trials each worker ended."""
    counted: dict[str, int] = {}
    for record in records:
        if record.worker:
            counted[record.worker] = counted.get(record.worker, 0) + 1
    return counted


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
