"""Quality rules of an import: what each finds, and the action that fix, drop and error take.

RULES is the source of the table in the documentation and of the quality report. Prices stay raw: a rule that could only
guess the right value reports it without a change. quality.py checks the rows, findings.py counts what was found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OnBad = Literal["fix", "drop", "error"]

REFUSED = "refused"
REPORTED = "reported"
HIDDEN = "prices and volumes of the bar NaN; item left out above 20 % of its bars"
SHORT_ROWS = 32


@dataclass(frozen=True)
class Rule:
    """A named check, and what each mode does about its findings. severity: note (reported only), warning, or error."""

    name: str
    severity: Literal["note", "warning", "error"]
    meaning: str
    fix: str
    drop: str
    error: str = REFUSED


def _note(name: str, meaning: str, fix: str = REPORTED) -> Rule:
    return Rule(name, "note", meaning, fix, fix, fix)


def _doubt(name: str, meaning: str) -> Rule:
    """Return the rule for what is probably damage, but could be real: foretrain.data.suspicions finds it."""
    return Rule(name, "warning", meaning, REPORTED, REPORTED)


RULES: tuple[Rule, ...] = (
    Rule("missing_timestamp", "error", "a row without a time stamp", "row left out; refused if many (Loss)",
         "row left out"),
    Rule("truncated_row", "warning", "last line of a file has too few fields", "row left out", "row left out"),
    Rule("unsorted", "warning", "rows run from newest to oldest", "sorted", "sorted"),
    Rule("backward_timestamps", "warning", "a stamp against the order of the rest", "sorted", "row left out"),
    Rule(
        "duplicate_timestamp",
        "warning",
        "a stamp given before in the same item, with other values",
        "last row of the file kept, or as --duplicates says; refused if many (Loss)",
        "all rows of that stamp left out, or as --duplicates says; refused if many (Loss)",
    ),
    Rule("complementary_rows", "warning", "rows of one stamp, each with values that the other lacks",
         "joined into one row", "joined into one row"),
    Rule("identical_rows", "warning", "a row given before: same item, stamp and values", "one row kept",
         "one row kept"),
    Rule(
        "mixed_timezones",
        "error",
        "stamps with an offset beside naive ones, or items with different offsets",
        "offsets turned into UTC; naive beside them: refused, --timezone says what they are",
        "items of the rarer kind left out",
    ),
    Rule(
        "mixed_frequencies",
        "warning",
        "items of different frequencies",
        "kept, with stamps and no common frequency",
        "items of the rarer frequencies left out",
    ),
    Rule(
        "gap",
        "warning",
        "stamps missing against the frequency, while the market or the item's own week is open; sessions of --calendar",
        "NaN rows for sessions of --calendar, and where that makes the axis regular and adds at most 20 % rows, else "
        "reported",
        "as fix",
    ),
    Rule("non_finite", "error", "infinite, or beyond the range of float32", "NaN", "row left out"),
    Rule("negative_price", "warning", "a price below zero (real for spreads and adjusted prices)", REPORTED,
         "row left out"),
    Rule("zero_price", "warning", "a price of exactly zero, which sources write for unknown", "NaN",
         "row left out"),
    Rule("ohlc_inconsistent", "warning", "high below, or low above, another price of the bar", REPORTED,
         "row left out"),
    Rule("negative_volume", "error", "a volume below zero", "NaN", "row left out"),
    Rule("zero_volume", "note", "a bar without volume, in a series that has one in four of five bars or more", REPORTED,
         HIDDEN, REPORTED),
    Rule("stale_price", "note", "prices that stand still for five bars or more, longer than by chance in this series",
         REPORTED, HIDDEN, REPORTED),
    Rule("spike", "warning", "a close six robust deviations off that is back with the next open, unlike its peers",
         REPORTED, HIDDEN),
    Rule("repeated_bar", "warning", "all prices and the volume of the bar before, again", REPORTED, HIDDEN),
    Rule("clock_shift", "warning", "a day that opens and closes off the usual times, both by the same half hours",
         REPORTED, HIDDEN),
    Rule("closed_session", "warning", "a bar outside the sessions of --calendar, or on a day when no peer trades",
         REPORTED, HIDDEN),
    Rule(
        "split_like_jump",
        "warning",
        "prices jump by the ratio of a usual split and stay, beyond the usual moves, without the turnover of news",
        REPORTED,
        "item left out",
    ),
    Rule("corporate_action", "warning", "a dividend of 90 % of the close, no ratio for a split, or splits of which "
         "prices were adjusted for some only", "an impossible one has no effect; prices as traded by each split",
         "item left out"),
    _note("adjusted_prices", "prices that later events adjust (adj_close and its like)",
          "no target unless it is named"),
    _note("missing", "cells without a value", "kept as NaN, which means not observed"),
    _note("empty_rows", "rows without any value at either end of an item", "left out"),
    Rule(
        "too_short",
        "warning",
        f"fewer rows than min_rows (without min_rows: fewer than {SHORT_ROWS}, reported only)",
        "left out if min_rows is given, else reported",
        "left out if min_rows is given, else reported",
        "refused if min_rows is given, else reported",
    ),
    _doubt("totals_row", "the last row is the sum of the others, or a single row of an item named total"),
    _doubt("unit_change", "values jump to 100, 1,000 or 1,000,000 times their level, or back"),
    _doubt("missing_code", "values such as -9999 far from all others: say --na-values if they mean missing"),
    _doubt("constant_tail", "one value to the end, ten rows or more, in a column that never stood still before"),
    _doubt("copied_values", "two columns are equal for ten rows or more, and differ elsewhere"),
    _doubt("swapped_columns", "two columns change places, each at the other's level from there on"),
    Rule("missing_column", "warning", "a column that other items have", "filled with NaN", "item left out"),
    Rule("identical_items", "warning", "same stamps and values as an earlier item", REPORTED, "item left out"),
    Rule("revised", "warning", "--update: a bar of the corpus has other values in the new files",
         "old value kept", "old value kept"),
    Rule("older_rows", "warning", "--update: a row before the last bar of the corpus, which the corpus lacks",
         "left out; import all files again to have it", "left out"),
)  # fmt: skip
UPDATE_RULES = ("revised", "older_rows")  # of --update
# The rules for series of prices; each changes what is stored or used, in one mode at least
MARKET_RULES = (
    "gap", "closed_session", "duplicate_timestamp", "repeated_bar", "clock_shift", "stale_price", "spike",
    "split_like_jump", "zero_volume", "ohlc_inconsistent", "corporate_action", "adjusted_prices",
)  # fmt: skip
BY_NAME = {rule.name: rule for rule in RULES}


def rules_table() -> str:
    """Return the rules as a Markdown table for the documentation."""
    head = "| rule | severity | found when | fix | drop | error |\n|---|---|---|---|---|---|\n"
    return head + "".join(
        f"| `{r.name}` | {r.severity} | {r.meaning} | {r.fix} | {r.drop} | {r.error} |\n" for r in RULES
    )
