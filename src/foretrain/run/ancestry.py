"""Whether the ancestors of a run held out what it validates and tests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foretrain.data.parts import DateCuts
from foretrain.data.store import Corpus
from foretrain.data.synthetic.generated import AnySource
from foretrain.evaluation.overlap import Extent, TrainingRecord, reserved_steps
from foretrain.notes import Code, Note, counted
from foretrain.run.config import RunConfig


def check_test_part(config: RunConfig, source: AnySource, facts: Mapping[str, Any]) -> list[Note]:
    """Return a note for each corpus of a run whose test or validation part its ancestors did not hold out.

    facts: the `parents` and the `ancestry` that the run will record.
    """
    cuts, horizon = config.data.cuts, config.data.prediction_length
    ancestors, notes = {key: facts[key] for key in ("parents", "ancestry")}, list[Note]()
    record = TrainingRecord(ancestors)
    for corpus in source.corpora:
        extents = record.extents(corpus)
        if isinstance(cuts, DateCuts) or any(extent.rule.dates is not None for extent in extents):
            notes += _by_dates(config, corpus, record, extents)
            continue
        test, validation = cuts.test, cuts.validation
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


def _by_dates(config: RunConfig, corpus: Corpus, record: TrainingRecord, extents: Sequence[Extent]) -> list[Note]:
    """Return the same note of a corpus that dates cut, for the run or for an ancestor; each series is compared."""
    parts, validates = config.data.cuts.parts(corpus), bool(config.training.validate_every)
    for code, region, used in (
        (Code.ANCESTOR_SAW_TEST_PART, parts.test, "chosen"),
        (Code.ANCESTOR_SAW_VALIDATION_PART, parts.validation, "trained"),
    ):
        if code == Code.ANCESTOR_SAW_VALIDATION_PART and not validates:
            continue
        seen = {
            extent.rule.by: int(((getattr(extent, used) > region.begin) & (region.begin < region.end)).sum())
            for extent in extents
        }
        by = max(seen, key=lambda name: seen[name], default="")
        if not by or not seen[by]:
            continue
        name = "test" if code == Code.ANCESTOR_SAW_TEST_PART else "validation"
        effect = "evaluations score what all held out" if name == "test" else "the figures of validation are too good"
        text = (
            f"note: the {name} part of {corpus.name} is {region.words}, but the training of {record.name(by)} used "
            f"later steps in {seen[by]:,} of {corpus.num_series:,} series: {effect}. Start from weights that held out "
            "more"
        )
        return [Note(code, text, {"series": seen[by]})]
    return []
