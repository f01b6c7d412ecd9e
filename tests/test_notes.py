from __future__ import annotations

import ast
import logging
from pathlib import Path

import pytest

from foretrain.notes import Code, Note, Tally, codes, once, sum_tallies, texts, warn

LOG = logging.getLogger("foretrain.anything")
SOURCE = Path(__file__).parents[1] / "src" / "foretrain"
CANDLES = "{repaired candles:,} of {candles:,} candles repaired"


def test_tallies_of_one_code_add_up_over_batches():
    parts = [Tally("candles", CANDLES, {"repaired candles": k, "candles": 2400}) for k in (3, 0)]
    other = Tally("windows", "{windows} windows", {"windows": 1})
    total, kept = sum_tallies([parts[0], other, parts[1]])
    assert (total.counts, kept) == ({"repaired candles": 3, "candles": 4800}, other)


@pytest.mark.parametrize(
    ("counts", "text"),
    [({"repaired candles": 3, "candles": 4800}, "Here: 3 of 4,800 candles repaired."), ({}, None),
     ({"repaired candles": 0, "candles": 4800}, None)],
)  # fmt: skip
def test_a_tally_is_reported_beside_its_total_and_not_where_nothing_happened(counts, text):
    note = Tally("candles", CANDLES, counts).note("Here: {}.")
    assert note == (Note("candles", text, counts) if text else None)


def test_a_warning_carries_code_and_counts_and_names_the_line_that_speaks(caplog):
    warn(LOG, Note(Code.BARS_MISSING, "100% of 2 bars are missing", {"bars": 2}))
    (record,) = caplog.records
    assert (record.levelno, record.name, record.getMessage()) == (
        logging.WARNING, "foretrain.anything", "100% of 2 bars are missing",
    )  # fmt: skip
    assert (record.code, record.counts) == ("bars_missing", {"bars": 2})
    assert record.pathname == __file__


def test_messages_are_filtered_by_module_and_by_code(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("foretrain.quiet"), "level", logging.ERROR)
    quiet = logging.getLogger("foretrain.quiet.below")

    def wanted(record: logging.LogRecord) -> bool:
        return getattr(record, "code", None) != Code.BARS_MISSING

    caplog.handler.addFilter(wanted)
    for log, code in ((LOG, Code.BARS_MISSING), (quiet, Code.BATCH_HALVED), (LOG, Code.BATCH_HALVED)):
        warn(log, Note(code, "said"))
    caplog.handler.removeFilter(wanted)
    assert [(record.name, record.code) for record in caplog.records] == [(LOG.name, Code.BATCH_HALVED)]


def test_equal_notes_are_logged_once_within_the_outermost_scope(logged_notes):
    note = Note(Code.BATCH_HALVED, "halved")
    said: set[tuple[str, str]] = set()
    for _ in range(2):
        with once(said):
            with once():
                warn(LOG, note)
            warn(LOG, note)
    assert logged_notes() == [note]
    warn(LOG, note)
    warn(LOG, note)
    assert logged_notes() == [note, note]


def test_notes_give_their_texts_in_order_and_their_codes():
    notes = [Note(Code.ONE_STEP_AHEAD, "b"), Note(Code.NO_ACTUAL, "a")]
    assert texts(notes) == ["b", "a"] and codes(notes) == {"one_step_ahead", "no_actual"}


def test_every_code_is_spoken_by_some_module():
    spoken = "".join(path.read_text() for path in SOURCE.rglob("*.py"))
    assert not [code.name for code in Code if f"Code.{code.name}" not in spoken]


def test_the_library_neither_prints_nor_warns_past_its_log():
    """The command prints; what is below it may run in a notebook or a server."""
    found = []
    for package in ("data", "nn", "models", "training", "forecasting", "evaluation"):
        for path in (SOURCE / package).rglob("*.py"):
            calls = [
                ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
            ]
            found += [f"{path.name}: {call}" for call in calls if call in ("print", "warnings.warn")]
    assert not found
