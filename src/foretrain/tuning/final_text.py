"""The final table of a study in lines: openings first, then figures, then what they are evidence of, in plain words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from foretrain.evaluation.report import cell
from foretrain.evaluation.result import joined
from foretrain.evaluation.significance import ORIGINS
from foretrain.notes import counted
from foretrain.tuning.contenders import DEFAULT, OTHER_START, WINNER, ZERO_SHOT

Tree = dict[str, Any]


def final_lines(tree: Tree) -> list[str]:
    """Return the lines of a final table (final.py)."""
    lines = [opening_line(tree), *tree["alarms"], "", *_head(tree), "", *_rows(tree), _units(tree)]
    lines += [] if ZERO_SHOT in tree["metrics"] else [_no_start(tree)]
    lines += [
        f"left out: {left['count']:,} {left['what']} {left['reason']}" for left in tree["left_out"] if left["count"]
    ]
    lines += [*tree["remarks"], "", *_tests(tree), *_selection(tree), conclusion(tree)]
    return [*lines, "", f"all figures: {tree['study']}/final/final.json; openings: {' and '.join(_ledgers(tree))}"]


def opening_line(tree: Tree) -> str:
    """Return the first line: whether the test part was opened before, by whom, and what that makes of p-values."""
    opening = tree["opening"]
    if opening["number"] == 1:
        return "This is the first recorded opening of this test part. The next one counts as a further comparison."
    shown = [f"{one['time']} by {one['study']} ({one['trials']} trials)" for one in opening["earlier"][-5:]]
    more = len(opening["earlier"]) - len(shown)
    shown += [f"{more} before these"] if more else []
    shown += [f"{counted(opening['unread'], 'line')} of the ledger that cannot be read"] if opening["unread"] else []
    return (
        f"OPENED BEFORE: this is opening {opening['number']} of this test part, after {'; '.join(shown)}. Its figures "
        f"may have been seen, so p-values on it are multiplied by {opening['number']}."
    )


def conclusion(tree: Tree) -> str:
    """Return what the test part is evidence of, in a sentence or two."""
    if tree["unfair"]:
        return "Conclusion: none. What the winner was made from saw the test part, or was chosen by it."
    standing = is_better(tree, DEFAULT)
    found = "there is evidence that the search found better values than the run has."
    if standing is None:
        few = tree["tests"][DEFAULT]["over"] != ORIGINS or tree["tests"][DEFAULT]["p_value"] is None
        why = " The test part has too few forecast origins to tell; give it more in the next study." if few else ""
        found = f"there is no evidence that the search found better values than the run has.{why}"
    elif not standing:
        found = "the winner is worse than the run as it stands; keep that."
    return f"Conclusion: {found} {_beside_baselines(tree)}"


def _beside_baselines(tree: Tree) -> str:
    """Return how the winner stands beside naive and the seasons of the data, in a sentence."""
    groups: dict[str, list[str]] = {"better than": [], "worse than": [], "not shown to differ from": []}
    for who in dict.fromkeys(("naive", *tree["settings"]["season_baselines"])):
        standing = is_better(tree, who)
        groups[list(groups)[2 if standing is None else int(not standing)]].append(_label(tree, who))
    return f"The winner is {', '.join(f'{word} {joined(names)}' for word, names in groups.items() if names)}."


def is_better(tree: Tree, against: str) -> bool | None:
    """Whether the winner is better by a test over origins, corrected for the openings; None = that does not tell."""
    test = tree["tests"][against]
    if test["p_corrected"] is None or test["p_corrected"] >= tree["level"] or test["over"] != ORIGINS:
        return None
    return test["mean_difference"] < 0


def _head(tree: Tree) -> list[str]:
    trials, winner, counts, settings = tree["trials"], tree["winner"], tree["counts"], tree["settings"]
    states = ", ".join(f"{trials[state]} {state}" for state in ("complete", "pruned", "failed") if trials[state])
    lines = [f"study {tree['study']}: trial {winner['trial']} won; trials compared: {trials['compared']} ({states})"]
    if tree["at_work"] or trials["compared"] < trials["planned"]:
        at_work = f", {len(tree['at_work'])} at work" if tree["at_work"] else ""
        lines.append(f"the search has not ended: {trials['compared']} of {trials['planned']} trials{at_work}")
    lines.append(f"winner: {' '.join(f'{key}={_short(value)}' for key, value in winner['params'].items())}")
    lines += _validated(tree)
    dates = [tree["data"][0].get(name) for name in ("scored_from", "scored_to")]
    span = f", {dates[0]} to {dates[1]}" if all(dates) else ""
    targets = list(dict.fromkeys(name for entry in tree["data"] for name in entry["target"]))
    lines.append(
        f"test part: {counted(counts['windows'], 'window')} of {counted(counts['items'], 'item')}, "
        f"{counted(settings['prediction_length'], 'step')} ahead, {counted(counts['origins'], 'forecast origin')}"
        f"{span}; target {', '.join(targets)}"
    )
    split = ", ".join(f"{name} {value}" for name, value in tree["split"].items() if name != "folds")
    lines.append(f"split: {split}; validation on {counted(tree['split']['folds'], 'fold')}")
    return lines


def _validated(tree: Tree) -> list[str]:
    """Return the objectives of the search, and those of the final runs where they are measured."""
    default, lines = tree["default"], list[str]()
    for k, name in enumerate(tree["objectives"]):
        line = f"validation: {name} {tree['winner']['values'][k]:.5g}"
        if default is not None and default["values"]:
            line += f", default {default['values'][k]:.5g}"
        again = {who: tree["models"][who]["validated"].get(name) for who in (WINNER, DEFAULT)}
        if None not in again.values():
            line += f"; the final runs {again[WINNER]:.5g} and {again[DEFAULT]:.5g}"
        lines.append(f"{line} (it chose the winner, and flatters it)")
    return lines


def _rows(tree: Tree) -> list[str]:
    names, openings = list(tree["units"]), tree["opening"]["number"]
    rows = [["", *names, "p", *([f"p x {openings}"] if openings > 1 else [])]]
    for who, values in tree["metrics"].items():
        cells = [cell(name, math.nan if values[name] is None else values[name], who) for name in names]
        test = tree["tests"].get(who)
        chance = [] if test is None else [_p(test["p_value"]), *([_p(test["p_corrected"])] if openings > 1 else [])]
        rows.append([_label(tree, who), *cells, *chance])
    width = max(map(len, rows))
    rows = [[*row, *[""] * (width - len(row))] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    ]


def _units(tree: Tree) -> str:
    by_unit: dict[str, list[str]] = {}
    for name, unit in tree["units"].items():
        by_unit.setdefault(unit, []).append(name)
    shown = "; ".join(f"{', '.join(names)}: {unit}" for unit, names in by_unit.items())
    return f"units: {shown}. p: two-sided, of equal losses with the winner."


def _no_start(tree: Tree) -> str:
    if tree["task"] == "forecast":
        return f"zero-shot: none. Nothing was trained; winner and default are {tree['model']} with other options."
    if OTHER_START in tree["metrics"]:
        return "zero-shot: the winner starts from random weights, so it has none."
    return "zero-shot: none. The run starts from random weights."


def _tests(tree: Tree) -> list[str]:
    """Return a sentence on each test of the winner that decides."""
    against = [DEFAULT, ZERO_SHOT, OTHER_START, "naive", *tree["settings"]["season_baselines"]]
    return [_test(tree, who) for who in dict.fromkeys(against) if who in tree["tests"]]


def _test(tree: Tree, who: str) -> str:
    test, openings = tree["tests"][who], tree["opening"]["number"]
    head = f"Test part, winner against {_label(tree, who)}: "
    if test["p_corrected"] is None:
        return f"{head}{test['verdict']}."
    chance = f"p {_p(test['p_value'])}"
    chance += f", {_p(test['p_corrected'])} with {openings} openings" if openings > 1 else ""
    over = f"{test['count']} {test['over']}" + (", a weak test" if test["weak"] else "")
    said = "no evidence of a difference"
    if test["p_corrected"] < tree["level"]:
        said = "better" if test["mean_difference"] < 0 else "worse"
    beyond = "" if test["over"] == ORIGINS else f" It says nothing of other days than these {test['origins']} origins."
    return f"{head}{said} ({chance}, over {over}).{beyond}"


def _selection(tree: Tree) -> list[str]:
    """Return a sentence on each edge of the validation, counted for the choice."""
    lines = []
    for who in (DEFAULT, "naive"):
        edge = tree["selection"].get(who)
        head = f"Validation, winner against {_label(tree, who)}: "
        if edge is None:
            lines.append(f"{head}no verdict; there are no losses to compare with.")
            continue
        size = "" if edge["edge"] is None else f"its loss is {abs(edge['edge']):.1%} {_below(edge['edge'])}. "
        if edge["p_value"] is None:
            why = edge["reason"].rstrip(".")
            lines.append(f"{head}{size}Whether its edge is more than the choice gives cannot be told: {why}.")
            continue
        lines.append(f"{head}{size}{_counted(tree, edge)}")
    return lines


def _counted(tree: Tree, edge: Tree) -> str:
    told = "evidence of an edge" if edge["p_value"] < tree["level"] else "no evidence of an edge"
    pruned = f", {edge['pruned']} of them pruned and added one by one" if edge["pruned"] else ""
    return (
        f"With the choice among {edge['trials'] + edge['pruned']} trials counted{pruned}: {told} "
        f"(p {_p(edge['p_value'])}; {_p(edge['p_single'])} if it had been the only trial; {edge['blocks']} blocks of "
        f"{counted(edge['block'], 'origin')})."
    )


def _below(edge: float) -> str:
    return "below" if edge >= 0 else "above"


def _label(tree: Tree, who: str) -> str:
    return str(tree["labels"].get(who, who))


def _p(value: float | None) -> str:
    if value is None:
        return "n/a"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _ledgers(tree: Tree) -> Sequence[str]:
    return tree["opening"]["ledgers"]
