"""The report on a study as one HTML page that stands alone, its pictures inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foretrain.evaluation.page import esc, facts_table, page, remark, rows_table, section
from foretrain.printing import duration
from foretrain.tuning.importance import MEANING
from foretrain.tuning.records import DEFAULT_TRIAL
from foretrain.tuning.report import counts_text, objectives_text, time_text
from foretrain.tuning.tables import name_of, params_text

FLATTERED = "These figures are of the validation that chose them, and so flatter the best."
_PICTURES = {
    "history": ("History", "Value of each trial and the best so far, by the number of the trial", ""),
    "importance": ("Importance of keys", "Bars of the share of each key", MEANING[0].upper() + MEANING[1:] + "."),
    "parallel": (
        "Candidates",
        "Parallel coordinates of the candidates, coloured by their value",
        "Each line is a candidate; its last axis is the first objective.",
    ),
    "slices": ("Value against each key", "Scatter plots of the value against each key", ""),
    "pareto": ("Pareto front", "Scatter plots of pairs of objectives", "No other trial beats these in all objectives."),
    "curves": ("Learning curves", "The first objective of every trial by optimizer step", ""),
}


def study_page(facts: dict[str, Any], pictures: Mapping[str, bytes]) -> str:
    """Return the page. facts: those of report.study_facts; pictures: PNG by name."""
    study = facts["study"]
    title = f"Search of {study['run']}"
    body = [f"<h1>{esc(title)}</h1>", *_verdicts(facts), facts_table(_facts(facts))]
    body += ["<h2>Best candidates</h2>", _best_table(facts), remark(FLATTERED)]
    body += [section(*_PICTURES[name][:1], pictures.get(name), *_PICTURES[name][1:]) for name in _PICTURES]
    for objective, found in zip(study["objectives"], facts["importance"], strict=True):
        if found["reason"] is not None:
            body.append(remark(f"Importance for {objective['metric']}: none, since {found['reason']}."))
    return page(title, [part for part in body if part])


def _verdicts(facts: dict[str, Any]) -> list[str]:
    shown = []
    for edge in facts["edges"].values():
        p_value = edge["p_value"]
        better = p_value is not None and edge["sentence"].startswith("an edge")
        text = edge["sentence"][0].upper() + edge["sentence"][1:]
        shown.append(f'<p class="verdict{" better" if better else ""}">{esc(text)}.</p>')
    return shown


def _facts(facts: dict[str, Any]) -> list[tuple[str, Any]]:
    study = facts["study"]
    workers = ", ".join(f"{name} {count}" for name, count in facts["workers"].items())
    return [
        ("study", f"{study['path']} ({study['hash']})"),
        ("objective", objectives_text(facts)),
        ("trials", counts_text(facts["trials"])),
        ("sampler, pruner", f"{study['sampler']}, {study['pruner']}"),
        ("validation folds", study["folds"]),
        ("time", time_text(facts)),
        *([("trials by worker", workers)] if workers else []),
        ("foretrain", facts["foretrain"]),
    ]


def _best_table(facts: dict[str, Any]) -> str:
    metrics = [esc(one["metric"]) for one in facts["study"]["objectives"]]
    rows = []
    for row in [*facts["best"], *([facts["default"]] if facts["default"] else [])]:
        is_default = row["number"] == DEFAULT_TRIAL
        values = [f"{value:.5g}" for value in row["values"]] if row["values"] else [row["state"]] * len(metrics)
        params = "the run as it stands" if is_default else params_text(row["params"])
        cells = [*values, f"{row['steps']:,}", duration(row["seconds"])]
        kind = ' class="model"' if row is facts["best"][0] else ""
        rows.append(
            f"<tr{kind}><th>{esc(name_of(row['number']))}</th>"
            + "".join(f"<td>{esc(cell)}</td>" for cell in cells)
            + f'<td class="text">{esc(params)}</td></tr>'
        )
    if not facts["best"]:
        return remark("No trial is complete and keeps to the constraints.")
    return rows_table(["trial", *metrics, "steps", "time", "candidate"], rows)
