"""The edge of a study's winner over the run as it stands and over naive, corrected for the choice (selection.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from foretrain.errors import ForetrainError
from foretrain.evaluation.significance import lag_in_origins
from foretrain.tuning.candidates import run_config
from foretrain.tuning.config import TuneConfig
from foretrain.tuning.losses import loss_matrix, read_losses
from foretrain.tuning.records import DEFAULT_TRIAL, LOSSES, TrialRecord
from foretrain.tuning.selection import SelectedEdge, selected_edge
from foretrain.tuning.study import StudyFolder, ranked

LEVEL = 0.05
NAMES = {"default": "the run as it stands", "naive": "naive"}


def edges(study: StudyFolder, records: Sequence[TrialRecord], winner: int) -> dict[str, dict[str, Any]]:
    """Return what is left of a trial's edge over the default and over naive, as JSON data with a sentence each.

    Losses are the mean scaled errors that every trial keeps, whatever the objective is. Every trial that might have won
    counts: those with losses through the draws of selected_edge; those that were pruned have none, and each adds the
    p-value of a single one (Bonferroni). Where no verdict can be given, `reason` says why.
    """
    able = sorted({winner, *(record.number for record in ranked(records, study.directions))})
    pruned = sum(record.state == "pruned" for record in records)
    has_default = any(record.number == DEFAULT_TRIAL and record.state == "complete" for record in records)
    try:
        trials = loss_matrix({number: study.trial(number) for number in able})
        block = block_of(study.config, read_losses(study.trial(winner) / LOSSES))
    except ForetrainError as error:
        return {against: _without(winner, against, _in_a_line(error)) for against in NAMES}
    found = dict[str, dict[str, Any]]()
    for against in NAMES:
        if against == "default" and not has_default:
            found[against] = _without(winner, against, "the run as it stands has no losses")
            continue
        try:
            reference = trials.naive if against == "naive" else _default(study, winner)
            edge = selected_edge(trials.values, reference, able.index(winner), block=block)
        except ForetrainError as error:
            found[against] = _without(winner, against, _in_a_line(error))
            continue
        facts = {"trial": winner, "against": against, "block": block, "pruned": pruned, **_tree(edge, pruned)}
        found[against] = {**facts, "sentence": _sentence(facts)}
    return found


def block_of(config: TuneConfig, losses: pa.Table) -> int:
    """Return how many neighbouring rows of a matrix of losses, such as these of a trial, depend on each other.

    Those are the origins whose horizons overlap; where items have origins at different instants, as many more rows
    lie in such a span. Raises ConfigError if the run's config is gone.
    """
    run = run_config(config, {}, Path(config.output_dir))
    horizon = run.data.prediction_length
    block = lag_in_origins(horizon, run.evaluation.stride or horizon) + 1
    each = losses.group_by(["corpus", "item", "fold", "cutoff"]).aggregate([])
    most = each.group_by(["corpus", "item"]).aggregate([("cutoff", "count")]).column("cutoff_count").to_numpy().max()
    return block * -(-len(losses.group_by(["fold", "cutoff"]).aggregate([])) // int(most))


def _default(study: StudyFolder, winner: int) -> Any:
    """Return the losses of the default on the origins of the trials. Raises DataError if they are others."""
    both = loss_matrix({number: study.trial(number) for number in (winner, DEFAULT_TRIAL)})
    return both.values[:, 1]


def with_pruned(edge: SelectedEdge, pruned: int) -> SelectedEdge:
    """Return an edge whose p-value counts pruned trials too, one by one: they might have won, and left no losses."""
    if edge.p_value is None or edge.p_single is None:
        return edge
    return replace(edge, p_value=min(1.0, edge.p_value + pruned * edge.p_single))


def _tree(edge: SelectedEdge, pruned: int) -> dict[str, Any]:
    """Return an edge as JSON data, with pruned trials counted."""
    shown = edge.edge if math.isfinite(edge.edge) else None
    return {**asdict(with_pruned(edge, pruned)), "edge": shown, "p_of_trials_with_losses": edge.p_value}


def _sentence(facts: dict[str, Any]) -> str:
    """Return what may be said of an edge."""
    beside, edge = NAMES[facts["against"]], facts["edge"]
    size = f"trial {facts['trial']} has no relative edge over {beside}, whose mean scaled error is 0"
    if edge is not None:
        how = "below" if edge >= 0 else "above"
        size = f"trial {facts['trial']}'s mean scaled error is {abs(edge):.1%} {how} that of {beside}"
    if facts["p_value"] is None:
        return f"no verdict against {beside}: {size}, but {facts['reason']}"
    pruned = facts["pruned"]
    counted = (
        f"p = {facts['p_value']:.2g} with the choice among {facts['trials'] + pruned} trials counted"
        f"{f', {pruned} of them pruned and added one by one' if pruned else ''} ({facts['p_single']:.2g} without), "
        f"{facts['dates']} origins in {facts['blocks']} blocks"
    )
    if edge is not None and edge > 0 and facts["p_value"] <= LEVEL:
        return f"an edge over {beside}: {size}; {counted}"
    return f"no edge over {beside} is shown: {size}; {counted}"


def _without(winner: int, against: str, reason: str) -> dict[str, Any]:
    sentence = f"no verdict against {NAMES[against]}: {reason}"
    return {
        "trial": winner, "against": against, "edge": None, "p_value": None, "reason": reason, "sentence": sentence,
    }  # fmt: skip


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
