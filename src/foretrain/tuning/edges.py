"""The edge of a study's winner over the run as it stands and over naive, corrected for the choice (selection.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from foretrain.errors import ForetrainError
from foretrain.evaluation.significance import lag_in_origins
from foretrain.tuning.candidates import run_config
from foretrain.tuning.losses import LossMatrix, loss_matrix, read_losses
from foretrain.tuning.records import DEFAULT_TRIAL, LOSSES, TrialRecord
from foretrain.tuning.selection import SelectedEdge, selected_edge
from foretrain.tuning.study import StudyFolder, ranked

LEVEL = 0.05
NAMES = {"default": "the run as it stands", "naive": "naive"}


def edges(study: StudyFolder, records: Sequence[TrialRecord], winner: int) -> list[dict[str, Any]]:
    """Return what is left of a trial's edge over the default and over naive, each with a sentence.

    Losses are the mean scaled errors that every trial keeps, whatever the objective is. Where no verdict can be given,
    `reason` says why.
    """
    able = [record.number for record in ranked(records, study.directions)]
    if winner not in able:
        return [
            _without(winner, against, f"trial {winner} may not win: it is beyond a constraint") for against in NAMES
        ]
    pruned = sum(record.state == "pruned" for record in records)
    has_default = any(record.number == DEFAULT_TRIAL and record.state == "complete" for record in records)
    try:
        trials = loss_matrix({number: study.trial(number) for number in sorted(able)})
        block = block_of(study, trials, winner)
    except ForetrainError as error:
        return [_without(winner, against, _in_a_line(error)) for against in NAMES]
    found = []
    for against in NAMES:
        if against == "default" and not has_default:
            found.append(_without(winner, against, "the run as it stands has no losses"))
            continue
        try:
            reference = trials.naive if against == "naive" else _default(study, trials, winner)
            edge = selected_edge(trials.values, reference, trials.trials.index(winner), block=block)
        except ForetrainError as error:
            found.append(_without(winner, against, _in_a_line(error)))
            continue
        facts = {"trial": winner, "against": against, "block": block, "pruned": pruned, **asdict(edge)}
        found.append({**facts, "sentence": _sentence(winner, against, edge, pruned)})
    return found


def block_of(study: StudyFolder, matrix: LossMatrix, trial: int) -> int:
    """Return how many neighbouring rows of a matrix of losses depend on each other.

    Those are the origins whose horizons overlap; where items have origins at different instants, as many more rows
    lie in such a span. Raises ConfigError if the run's config is gone.
    """
    config = run_config(study.config, {}, Path(study.path))
    horizon = config.data.prediction_length
    block = lag_in_origins(horizon, config.evaluation.stride or horizon) + 1
    table = read_losses(study.trial(trial) / LOSSES)
    each = table.group_by(["corpus", "item", "fold", "cutoff"]).aggregate([])
    most = each.group_by(["corpus", "item"]).aggregate([("cutoff", "count")]).column("cutoff_count").to_numpy().max()
    return block * -(-len(matrix.cutoffs) // int(most))


def _default(study: StudyFolder, trials: LossMatrix, winner: int) -> Any:
    """Return the losses of the default on the origins of the trials. Raises DataError if they are others."""
    both = loss_matrix({number: study.trial(number) for number in (winner, DEFAULT_TRIAL)})
    return both.values[:, 1]


def _sentence(winner: int, against: str, edge: SelectedEdge, pruned: int) -> str:
    """Return what may be said of an edge."""
    beside = NAMES[against]
    how = "below" if edge.edge >= 0 else "above"
    size = f"trial {winner}'s mean scaled error is {abs(edge.edge):.1%} {how} that of {beside}"
    if edge.p_value is None or edge.p_single is None:
        return f"no verdict against {beside}: {size}, but {edge.reason}"
    left = f"; {pruned} pruned trials have no losses and are not counted" if pruned else ""
    counted = (
        f"p = {edge.p_value:.2g} with the choice among {edge.trials} trials counted ({edge.p_single:.2g} without), "
        f"{edge.dates} origins in {edge.blocks} blocks{left}"
    )
    if edge.edge > 0 and edge.p_value <= LEVEL:
        return f"an edge over {beside}: {size}; {counted}"
    return f"no edge over {beside} is shown: {size}; {counted}"


def _without(winner: int, against: str, reason: str) -> dict[str, Any]:
    sentence = f"no verdict against {NAMES[against]}: {reason}"
    return {"trial": winner, "against": against, "p_value": None, "reason": reason, "sentence": sentence}


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
