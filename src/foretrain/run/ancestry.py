"""Whether the ancestors of a run held out what it validates and tests on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foretrain.data.synthetic.generated import AnySource
from foretrain.evaluation.overlap import reserved_steps
from foretrain.notes import Code, Note, counted
from foretrain.run.config import RunConfig


def check_test_part(config: RunConfig, source: AnySource, facts: Mapping[str, Any]) -> list[Note]:
    """Return a note for each corpus of a run whose test or validation part its ancestors did not hold out.

    facts: the `parents` and the `ancestry` that the run will record.
    """
    test, validation = config.data.resolved_test_steps, config.data.resolved_validation_steps
    horizon = config.data.prediction_length
    ancestors, notes = {key: facts[key] for key in ("parents", "ancestry")}, list[Note]()
    for corpus in source.corpora:
        held = reserved_steps(ancestors, corpus)
        if held is None:
            continue
        kept = f"the training of {held.ancestor} held out the newest"
        if held.test < test:
            fair = "only these are a fair test, and evaluations score no others unless they are asked to"
            if held.test < horizon:
                fair = f"no window of {horizon} steps is a fair test, and the run will not be promoted"
            text = (
                f"note: data.test_steps is {test}, but {kept} {counted(held.test, 'step')} of {corpus.name} alone: "
                f"{fair}. Start from weights that held out more"
            )
            notes.append(Note(Code.ANCESTOR_SAW_TEST_PART, text, {"test_steps": test, "held_out": held.test}))
        elif config.training.validate_every and sum(held[:2]) < test + validation:
            text = (
                f"note: data.validation_steps is {validation}, but {kept} {counted(sum(held[:2]), 'step')} of "
                f"{corpus.name} alone, {test} for the test part among them: the figures of validation are too good"
            )
            notes.append(Note(Code.ANCESTOR_SAW_VALIDATION_PART, text, {"held_out": sum(held[:2])}))
    return notes
