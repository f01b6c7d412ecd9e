"""What a study tells: its history, which keys mattered, the best trials beside the default, and what is left of an edge
once the choice is counted. Facts as JSON data, and the same as lines for a terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import foretrain
from foretrain.errors import ConfigError
from foretrain.printing import duration
from foretrain.run.run_tables import WIDTH, columns
from foretrain.training.health import sparkline, thinned
from foretrain.tuning.edges import edges
from foretrain.tuning.importance import MEANING, importance
from foretrain.tuning.records import DEFAULT_TRIAL, TrialRecord
from foretrain.tuning.space import SearchSpace
from foretrain.tuning.study import StudyFolder, front, ranked
from foretrain.tuning.tables import by_worker, last_value, name_of, params_text

SCHEMA = 1
TOP = 10  # candidates of the table
_BAR = 24  # characters of the longest bar


def study_facts(study: StudyFolder, records: Sequence[TrialRecord], trial: int | None = None) -> dict[str, Any]:
    """Return what a study tells as JSON data.

    trial: the one whose edge is asked for; None = the best. Raises ConfigError without a trial that has ended, and for
    a trial that is not complete.
    """
    search = [record for record in records if record.number != DEFAULT_TRIAL]
    if not search:
        raise ConfigError(f"{study.path}: no trial of it has ended, so there is nothing to report.")
    winners, ways, config = front(records, study.directions), study.directions, study.config
    if trial is not None and not any(r.number == trial and r.state == "complete" for r in search):
        raise ConfigError(f"--trial {trial}: is no complete trial of {study.path}. foretrain tune show lists them.")
    default = next((record for record in records if record.number == DEFAULT_TRIAL), None)
    chosen = trial if trial is not None else winners[0].number if len(winners) == 1 else None
    states = {state: sum(r.state == state for r in search) for state in ("complete", "pruned", "failed")}
    return {
        "schema": SCHEMA,
        "foretrain": foretrain.__version__,
        "study": {
            "path": str(study.path),
            "name": study.name,
            "hash": study.hash,
            "run": config.run,
            "task": config.task,
            "objectives": [
                {"metric": one.metric, "direction": way} for one, way in zip(config.objectives, ways, strict=True)
            ],
            "sampler": config.sampler.kind,
            "pruner": config.pruner.kind,
            "folds": config.folds.count,
            "seed": config.seed,
        },
        "trials": {"asked": config.trials, **states, "beyond_constraints": sum(_is_beyond(one) for one in search)},
        "history": _history(study, search),
        "importance": importance(SearchSpace(config.space), records, ways, config.seed),
        "best": [_row(record) for record in (winners if len(ways) > 1 else ranked(records, ways)[:TOP])],
        "default": None if default is None else _row(default),
        "chosen": chosen,
        "edges": {} if chosen is None else edges(study, records, chosen),
        "workers": by_worker(records),
        "seconds": {"of_trials": sum(record.seconds for record in records), "from_first_to_last": _span(records)},
    }


def _is_beyond(record: TrialRecord) -> bool:
    return record.state == "complete" and not record.feasible


def _row(record: TrialRecord) -> dict[str, Any]:
    return {
        "number": record.number,
        "state": record.state,
        "values": None if record.values is None else list(record.values),
        "params": dict(record.params),
        "steps": record.steps,
        "seconds": record.seconds,
    }


def _history(study: StudyFolder, search: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """Return each trial's first value, and the best so far among those that may win."""
    rows, best, way = list[dict[str, Any]](), None, study.directions[0]
    better = max if way == "maximize" else min
    for record in search:
        value = record.values[0] if record.state == "complete" and record.values else None
        if value is not None and record.feasible:
            best = value if best is None else better(best, value)
        state = "beyond_constraints" if _is_beyond(record) else record.state
        rows.append({"number": record.number, "state": state, "value": value, "last": last_value(record), "best": best})
    return rows


def _span(records: Sequence[TrialRecord]) -> float | None:
    """Return the seconds from the start of the first trial to the end of the last, pauses between them included."""
    try:
        began = [datetime.fromisoformat(record.started) for record in records if record.started]
        ended = [datetime.fromisoformat(record.ended) for record in records if record.ended]
        return (max(ended) - min(began)).total_seconds() if began and ended else None
    except (ValueError, TypeError):  # a record that somebody edited
        return None


# the text


def study_lines(facts: dict[str, Any]) -> list[str]:
    """Return the report as lines of a terminal."""
    return [
        *_head_lines(facts),
        "",
        *_history_lines(facts),
        "",
        *_importance_lines(facts),
        "",
        *_best_lines(facts),
        "",
        *_edge_lines(facts),
    ]


def counts_text(trials: dict[str, int]) -> str:
    """Return how many trials ended in which way."""
    ended = sum(trials[state] for state in ("complete", "pruned", "failed"))
    parts = [f"{trials[state]} {state}" for state in ("complete", "pruned", "failed") if trials[state]]
    parts += [f"{trials['beyond_constraints']} beyond a constraint"] if trials["beyond_constraints"] else []
    return f"{ended} of {trials['asked']} trials: {', '.join(parts)}"


def objectives_text(facts: dict[str, Any]) -> str:
    """Return the objectives with their directions."""
    return ", ".join(f"{one['metric']} ({one['direction']})" for one in facts["study"]["objectives"])


def time_text(facts: dict[str, Any]) -> str:
    """Return how long trials took."""
    seconds = facts["seconds"]
    span = seconds["from_first_to_last"]
    rest = "" if span is None else f"; {duration(span)} from the first start to the last end"
    return f"{duration(seconds['of_trials'])} of trials, the default among them{rest}"


def _head_lines(facts: dict[str, Any]) -> list[str]:
    study, workers = facts["study"], facts["workers"]
    lines = [
        f"study {study['path']} of {study['run']}: {counts_text(facts['trials'])}",
        f"objective {objectives_text(facts)} on {study['folds']} validation "
        f"fold{'s' if study['folds'] > 1 else ''}; sampler {study['sampler']}, pruner {study['pruner']}",
        f"time: {time_text(facts)}",
    ]
    if workers:
        lines.append(f"trials by worker: {', '.join(f'{name} {count}' for name, count in workers.items())}")
    return lines


def _history_lines(facts: dict[str, Any]) -> list[str]:
    history, metric = facts["history"], facts["study"]["objectives"][0]["metric"]
    known = [row["best"] for row in history if row["best"] is not None]
    if not known:
        return ["best so far: none; no trial is complete and keeps to the constraints"]
    marks = {"complete": "o", "pruned": "-", "failed": "x", "beyond_constraints": "!"}
    states = "".join(marks[row["state"]] for row in thinned(history, WIDTH))
    shown = thinned([row["best"] for row in history], WIDTH)
    lines = [f"best so far  {sparkline(shown)}  {metric} {known[0]:.5g} -> {known[-1]:.5g}"]
    some = f", {len(states)} of {len(history)} shown" if len(history) > len(states) else ""
    lines.append(f"states       {states}  o complete, - pruned, x failed, ! beyond a constraint{some}")
    return lines


def _importance_lines(facts: dict[str, Any]) -> list[str]:
    lines = []
    for objective, found in zip(facts["study"]["objectives"], facts["importance"], strict=True):
        if found["reason"] is not None:
            lines.append(f"importance for {objective['metric']}: none, since {found['reason']}")
            continue
        lines.append(f"importance for {objective['metric']}, by the best {found['best']} of {found['trials']} trials")
        rows = []
        for key, one in found["keys"].items():
            full = "█" * round(_BAR * one["share"])
            rows.append((f"  {key}", f"{one['share']:.0%}", full, "" if one["above_chance"] else "within chance"))
        lines += columns(rows, numbers=(1,))
    return [*lines, *([MEANING] if any(found["keys"] for found in facts["importance"]) else [])]


def _best_lines(facts: dict[str, Any]) -> list[str]:
    metrics = [one["metric"] for one in facts["study"]["objectives"]]
    several = len(metrics) > 1
    if not facts["best"]:
        return ["best: none; no trial is complete and keeps to the constraints"]
    title = "Pareto front: trials that no other one beats in all objectives" if several else "best candidates"
    rows = [("trial", *metrics, "steps", "time", "candidate")]
    for row in [*facts["best"], *([facts["default"]] if facts["default"] else [])]:
        values = [f"{value:.5g}" for value in row["values"]] if row["values"] else [row["state"]] * len(metrics)
        params = params_text(row["params"]) if row["number"] != DEFAULT_TRIAL else "the run as it stands"
        rows.append((name_of(row["number"]), *values, f"{row['steps']:,}", duration(row["seconds"]), params))
    lines = [title, *columns(rows, numbers=range(1, len(metrics) + 3))]
    return [*lines, "These figures are of the validation that chose them, and so flatter the best."]


def _edge_lines(facts: dict[str, Any]) -> list[str]:
    if facts["chosen"] is None:
        why = "none is best in all objectives; name one by --trial" if facts["best"] else "there is no best trial"
        return [f"edge: no trial is asked about: {why}"]
    return [edge["sentence"] for edge in facts["edges"].values()]
