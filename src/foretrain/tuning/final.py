"""The final table of a study: the test part is opened, and the winner stands beside the default, zero-shot and naive.

STUDY/final/
    winner/, default/   the two runs, each with its release (contenders.py)
    attempt.json        an opening under way: its id, and what it compares
    final.json          the newest table: all figures, and what they are of

Before a value of the test part is forecast, the opening is in the ledger (ledger.py). No figure of the test part leaves
the process before final.json is complete, so an attempt that was interrupted has shown nothing: the same comparison,
of the same weights on the same part, goes on under its id and counts once. Every other call is an opening.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from foretrain.atomic import replacing_file, write_json
from foretrain.data.synthetic.generated import AnySource
from foretrain.errors import TrainingError
from foretrain.evaluation.baselines import BASELINES
from foretrain.evaluation.panel import Panel
from foretrain.evaluation.result import EvaluationResult, plain
from foretrain.evaluation.significance import LEVEL
from foretrain.locks import FileLock
from foretrain.notes import Note
from foretrain.printing import without_secrets
from foretrain.reading import Unreadable, read_object
from foretrain.run.build import open_source
from foretrain.run.config import RunConfig
from foretrain.tuning.candidates import run_config
from foretrain.tuning.contenders import DEFAULT, FINAL, WINNER, Contender, Say, check_default, contenders
from foretrain.tuning.edges import edges
from foretrain.tuning.final_scores import fairness, final_panel, is_unfair, scored_finals, units
from foretrain.tuning.leases import Leases
from foretrain.tuning.ledger import HeldPart, Opening, new_id, open_part, part_of
from foretrain.tuning.records import DEFAULT_TRIAL, TrialRecord
from foretrain.tuning.study import StudyFolder

FORMAT = 1
FINAL_JSON, _ATTEMPT = "final.json", "attempt.json"


@contextmanager
def final_table(study: StudyFolder, winner: TrialRecord, *, command: str, say: Say) -> Iterator[dict[str, Any]]:
    """Yield the final table as JSON data: open the test part, or go on with an attempt that was interrupted.

    Args:
        winner: the trial that the study chose, or the user.
        command: as typed.
        say: is told what is being trained; figures are in the table alone.

    The attempt ends with the block: after an error in it, such as a closed pipe, the next call gives the same table.
    Raises ConfigError for a run without a test part, TrainingError if another process is at it or the opening cannot be
    recorded.
    """
    folder = study.path / FINAL
    with FileLock(study.path / ".final.lock", folder, "makes the final table", TrainingError):
        yield _table(study, winner, command, say)
        (folder / _ATTEMPT).unlink(missing_ok=True)


def _table(study: StudyFolder, winner: TrialRecord, command: str, say: Say) -> dict[str, Any]:
    folder = study.path / FINAL
    study.check_run()
    check_default(study.record(DEFAULT_TRIAL))
    run, source = open_source(run_config(study.config, {}, folder / DEFAULT))
    part = part_of(run, source.corpora, source.selections)
    final_panel(run, [run.data.context_length], source)  # refuses before anything is trained
    found_by = edges(study, study.records(), winner.number)
    rivals = {one.key: one for one in contenders(study, winner, source, say)}
    panel = final_panel(run, [rivals[key].config.data.context_length for key in (WINNER, DEFAULT)], source)
    notes = fairness(rivals, panel)
    question = _question(study, winner, part, panel, rivals)
    attempt = _attempt(folder, question)
    found, trials = _saved(folder / FINAL_JSON), sum(record.number >= 0 for record in study.records())
    opening = open_part(part, study.path, study=str(study.path.absolute()), trials=trials, id=attempt)
    if found is None or found.get("opening", {}).get("id") != attempt:
        result = scored_finals(rivals, panel, run, tuple(BASELINES), notes)
        found = plain(
            {
                **_facts(study, winner, command, run, source),
                "question": question,
                "opening": _opened(opening, part),
                **_figures(study, rivals, result, notes, opening.count),
                "selection": found_by,
            }
        )
        with replacing_file(folder / FINAL_JSON) as scratch:
            write_json(scratch, found)
    opening.found(_finding(found))
    return found


def _question(
    study: StudyFolder, winner: TrialRecord, part: HeldPart, panel: Panel, rivals: dict[str, Contender]
) -> dict[str, Any]:
    """Return what is compared on what: an attempt with another one is another opening."""
    return plain(
        {
            "study": study.hash,
            "part": part.key,
            "winner": winner.number,
            "params": winner.params,
            "windows": len(panel.refs),
            "prediction_length": panel.prediction_length,
            "stride": panel.stride,
            "context_length": panel.context_length,
            "models": {key: one.identity for key, one in rivals.items()},
        }
    )


def _attempt(folder: Path, question: dict[str, Any]) -> str:
    """Return the id of an attempt at the same question that was interrupted, or of a new one, which is written."""
    found = _saved(folder / _ATTEMPT)
    if found is not None and found.get("question") == question and isinstance(found.get("id"), str):
        return found["id"]
    folder.mkdir(parents=True, exist_ok=True)
    attempt = new_id()
    with replacing_file(folder / _ATTEMPT) as scratch:
        write_json(scratch, {"id": attempt, "question": question})
    return attempt


def _saved(path: Path) -> dict[str, Any] | None:
    """Return a file of this folder, None if it is absent or damaged: then the part is opened anew."""
    try:
        return read_object(path)
    except (OSError, Unreadable):
        return None


def _facts(study: StudyFolder, winner: TrialRecord, command: str, run: RunConfig, source: AnySource) -> dict[str, Any]:
    """Return what the table is of: the study, its trials, the winner and the split."""
    config, records = study.config, [record for record in study.records() if record.number >= 0]
    default = study.record(DEFAULT_TRIAL)
    states = {state: sum(record.state == state for record in records) for state in ("complete", "pruned", "failed")}
    return {
        "format": FORMAT,
        "study": str(study.path),
        "study_hash": study.hash,
        "run_hash": study.run_hash,
        "run": config.run,
        "task": config.task,
        "model": config.model,
        "command": without_secrets(command),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "trials": {"compared": len(records), "planned": config.trials, **states},
        "at_work": sorted(Leases(study.leases, "").holders()),
        "objectives": dict(zip((one.metric for one in config.objectives), study.directions, strict=True)),
        "winner": {"trial": winner.number, "params": winner.params, "values": winner.values, "folds": winner.folds},
        "default": None if default is None else {"values": default.values},
        "split": {**run.data.cuts.record(), "folds": config.folds.count},
        "corpora": [
            {
                "name": corpus.name,
                "fingerprint": corpus.fingerprint,
                "first_time": corpus.manifest.first_time,
                "last_time": corpus.manifest.last_time,
            }
            for corpus in source.corpora
        ],
    }


def _opened(opening: Opening, part: HeldPart) -> dict[str, Any]:
    earlier = [{name: one.get(name) for name in ("time", "study", "trials")} for one in opening.earlier]
    return {
        "id": opening.id,
        "part": {"key": part.key, "first": part.first, "last": part.last, "fingerprints": part.fingerprints},
        "number": opening.count,
        "earlier": earlier,
        "unread": opening.unread,
        "ledgers": [str(place) for place in opening.places],
    }


def _figures(
    study: StudyFolder, rivals: dict[str, Contender], result: EvaluationResult, notes: Sequence[Note], openings: int
) -> dict[str, Any]:
    """Return metrics and tests. The p-values of tests are multiplied by the openings (Bonferroni)."""
    key = {"model": WINNER}
    shown = {who: {name: result.shown(who, name) for name in values} for who, values in result.pooled.items()}
    return {
        "models": {
            name: {"label": one.label, "validated": one.validated, **one.identity} for name, one in rivals.items()
        },
        "metrics": {key.get(who, who): values for who, values in shown.items()},
        "labels": {key.get(who, who): result.label(who) for who in result.pooled},
        "units": units(result),
        "tests": {
            test.against: {
                **test.facts,
                "verdict": test.verdict,
                "p_corrected": min(1.0, openings * test.p_value) if test.method is not None else None,
            }
            for test in result.comparisons
        },
        "level": LEVEL,
        "settings": {**result.settings, "season_baselines": list(result.season_baselines)},
        "counts": result.counts,
        "data": result.data,
        "unfair": is_unfair(notes),
        "alarms": result.alarms,
        "remarks": result.remarks,
        "left_out": [left._asdict() for left in result.left_out],
        "environment": result.environment,
    }


def _finding(found: dict[str, Any]) -> dict[str, Any]:
    """Return what the ledger keeps of a table."""
    tests = {
        against: {name: found["tests"][against][name] for name in ("statistic", "p_value", "p_corrected", "over")}
        for against in (DEFAULT, "naive")
    }
    return {
        "study": found["study"],
        "winner": found["winner"]["trial"],
        "mase": {who: found["metrics"][who].get("mase") for who in (WINNER, DEFAULT, "naive")},
        "skill_vs_naive": {who: found["metrics"][who]["skill_vs_naive"] for who in (WINNER, DEFAULT)},
        "tests": tests,
    }
