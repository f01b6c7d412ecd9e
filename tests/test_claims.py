"""docs/claims.md holds: claims stand where it says, what shows them exists, and figures are those of the JSON files.

The targets are tests of the suite, so that they pass is what the suite says. A row is found by its wording: a claim
that is reworded, and a figure that is measured anew, need their row changed too.
"""

from __future__ import annotations

import ast
import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import typer

from foretrain.cli import app

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "claims.md"
RESULTS = ROOT / "benchmarks" / "results"
MOST = 120  # rows: numbers, comparatives and capabilities, not every sentence
SCALE = {"ms": 1e3, "s": 1, "MiB": 2**-20, "GiB": 2**-30, "MB": 1e-6}  # of a result in seconds or bytes; others: 1
NUMBER = r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?<!,)"
UNIT = r"(?:x\b|\s?(?:%|ms\b|s\b|[KMG]i?B\b|percent\b|times\b|million\b|ready windows\b|random kills\b))"
FIGURE = re.compile(rf"(?<![\w.,])({NUMBER}(?:(?: / | to |, | and ){NUMBER})*){UNIT}|equal within ({NUMBER})")
ORDINARY_TIMES = re.compile(r"\b(?:(?:half )?a minute|(?:some |in )seconds|minutes)\b")
CAPABILITIES = re.compile(
    r"(?<![\w-])(?:train|forecast|load|open|read|writ|equal|report|test|compar|chang|reach|resum|start|mark|refus|stream"
    r"|sampl|merg|draw|detect|serv|deploy|scal|support|search|tun|ensembl|download|monitor|guarante|prevent|give|form"
    r"|declare)(?:s|es|d|ed|ing|ning)?\b",
    re.IGNORECASE,
)
COMPARATIVES = re.compile(
    r"\b(?:as fast|faster|slower|better|worse|fewer|smaller|cheaper|gain \w+|the (?:most|least))\b"
)


@dataclass(frozen=True)
class Claim:
    """A row: words, the page they stand in, and either tests (with their tier) or a file of results with figures."""

    words: str
    page: str
    tests: tuple[str, ...] = ()
    result: str = ""
    figures: str = ""

    def cases(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each case of the result file with its figures, `98 ms = ours_s` or `equal < 1e-7`."""
        for part in self.figures.split("; "):
            case, _, listed = part.rpartition(": ")
            yield case, listed.split(", ")


def fold(text: str) -> str:
    return " ".join(text.split())


@functools.cache
def page_text(page: str) -> str:
    text = (ROOT / page).read_text()
    return re.sub(r"(?m)^# ?", "", text) if page.endswith((".yaml", ".yml")) else text


def cells(line: str) -> list[str]:
    return [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


@functools.cache
def claims() -> list[Claim]:
    found: list[Claim] = []
    for line in PAGE.read_text().splitlines():
        row = cells(line) if line.startswith("| ") else []
        if len(row) == 3 and row[0] != "claim":
            found.append(Claim(row[0], row[1], tests=tuple(row[2].split(", "))))
        elif len(row) == 4 and row[0] != "claim":
            found.append(Claim(row[0], row[1], result=row[2], figures=row[3]))
    return found


def statement(claim: Claim) -> str | None:
    """The claim as it stands in its page: the whole row of a table whose first cell it is, its words, or nothing."""
    text = page_text(claim.page)
    rows = [line for line in text.splitlines() if line.startswith("|") and cells(line)[0] == claim.words]
    if rows:
        return fold(rows[0])
    return fold(claim.words) if fold(claim.words) in fold(text) else None


@functools.cache
def known_tests(path: str) -> dict[str, set[str]]:
    """Every test of a file with the tiers that alone run it ("parity", "gpu") or "skipped" if it may skip itself."""
    lines, found = (ROOT / path).read_text().splitlines(), {}
    nodes = ast.parse("\n".join(lines)).body

    def code(node: ast.stmt) -> str:
        first = min([node.lineno, *(mark.lineno for mark in getattr(node, "decorator_list", []))])
        return "\n".join(lines[first - 1 : node.end_lineno])

    shared = _tiers("\n".join(code(node) for node in nodes if isinstance(node, (ast.Assign, ast.Expr))))
    for node in nodes:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            found[node.name] = shared | _tiers(code(node))
    return found


def _tiers(code: str) -> set[str]:
    only = {name for name in ("parity", "gpu") if f"pytest.mark.{name}" in code}
    return only or ({"skipped"} if re.search(r"mark\.skip|importorskip|pytest\.skip\(", code) else set())


def problem(target: str) -> str | None:
    """What is wrong with a target, `tests/FILE.py::NAME` or `tests/FILE.py::NAME (make parity)`."""
    name, _, tier = target.partition(" (make ")
    path, _, test = name.strip("`").partition("::")
    if not (ROOT / path).is_file() or test not in known_tests(path):
        return f"{name}: there is no such test"
    tiers, named = known_tests(path)[test], {tier.rstrip(")")} - {""}
    return None if tiers == named else f"{name}: run by {sorted(tiers) or 'make test'}, the row says {sorted(named)}"


@functools.cache
def records(result: str) -> dict[str, dict[str, Any]]:
    """The records of a file in benchmarks/results by the name of their case."""
    held = json.loads((RESULTS / result).read_text())
    if isinstance(held, dict) and "relative" in held:  # of panels: a forecaster's geometric means
        return held["relative"]
    listed = held if isinstance(held, list) else held.get("results") or held["cases"]
    return {str(item.get("case", f"seed {item.get('seed')} season {item.get('season')}")): item for item in listed}


def value(found: list[dict[str, Any]], expression: str) -> float:
    """What `ours_s`, `lora.pct_mae`, `1/ratio`, `1e-6*ours_s` or `greatest ratio` is in records."""
    parts = re.fullmatch(r"(?:(least|greatest|sum) )?(?:([\d.e-]+)([/*]))?([\w.]+)", expression)
    assert parts is not None, expression
    way, number, sign, path = parts.groups()
    values = []
    for record in found:
        held: Any = record
        for key in path.split("."):
            held = held[int(key)] if isinstance(held, list) else held[key]
        if held is not None:
            factor = float(number or 1)
            values.append(factor / held if sign == "/" else factor * held)
    assert way or len(values) == 1, f"{expression}: {len(values)} values; say least, greatest or sum"
    return {"least": min, "greatest": max, "sum": sum, None: sum}[way](values)


def reads_as(figure: str, measured: float) -> bool:
    """Whether a measurement, rounded as the figure is, is the figure."""
    number, unit = re.fullmatch(rf"({NUMBER})\s?(.*)", figure).groups()  # type: ignore[union-attr]
    measured *= SCALE.get(unit, 1)
    if "e" in number:
        return float(f"{measured:.{len(number.split('e')[0].partition('.')[2])}e}") == float(number)
    while number.endswith(",000"):
        number, measured = number[:-4], measured / 1000
    return f"{measured:.{len(number.partition('.')[2])}f}" == number.replace(",", "")


def wrong(claim: Claim) -> Iterator[str]:
    """Yield what the results do not say of a row with figures."""
    text = statement(claim) or ""
    for case, figures in claim.cases():
        found = [record for name, record in records(claim.result).items() if fnmatchcase(name, case)]
        if not found:
            yield f"{claim.words}: {claim.result} has no case {case!r}"
            continue
        for figure in figures:
            if bound := re.fullmatch(rf"(.+) ([<>]) ({NUMBER})", figure):
                below = value(found, bound[1]) < float(bound[3].replace(",", ""))
                if below != (bound[2] == "<"):
                    yield f"{claim.words}: {figure}, measured {value(found, bound[1]):.4g} ({case})"
                continue
            shown, expression = figure.split(" = ")
            number, unit = re.fullmatch(rf"({NUMBER})\s?(.*)", shown).groups()  # type: ignore[union-attr]
            if not re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.]|,\d)", text) or unit not in text:
                yield f"{claim.words}: {shown} does not stand there"
            if not reads_as(shown, value(found, expression)):
                yield f"{claim.words}: {shown}, measured {value(found, expression):.4g} ({case})"


def uncovered(text: str, pattern: re.Pattern[str], rows: list[Claim]) -> list[str]:
    """Every match of the pattern in a page's text outside the rows' claims, or with a number that its row lacks."""
    text = fold(text)
    spans = []
    for row in rows:
        words = statement(row) or fold(row.words)
        spans += [(match.start(), match.end(), row) for match in re.finditer(re.escape(words), text)]
    missing = []
    for match in pattern.finditer(text):
        inside = [row for first, last, row in spans if first <= match.start() and match.end() <= last]
        numbers = re.findall(NUMBER, next(filter(None, match.groups()), "")) if pattern.groups else []
        listed = {number for row in inside for number in re.findall(NUMBER, row.figures)}
        shown = any(row.tests for row in inside) or set(numbers) <= listed
        if not inside or not shown:
            missing.append(text[max(match.start() - 40, 0) : match.end() + 20])
    return missing


def unshown_sentences(features: str, rows: list[Claim]) -> list[str]:
    """Every sentence of a list of features of which no part is a row's claim, but those that say what is not."""
    sentences = re.split(r"(?<=[.;]) |- \*\*.*?\*\*", re.sub(r" ?\(\[.*?\]\(.*?\)\)", "", fold(features)))
    words = [fold(row.words) for row in rows]
    return [
        sentence
        for sentence in map(str.strip, sentences)
        if sentence and " not " not in sentence and not any(w in sentence or sentence.rstrip(".;") in w for w in words)
    ]


def readme_rows() -> list[Claim]:
    return [claim for claim in claims() if claim.page == "README.md"]


def prose(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.S)


def feature_list(text: str) -> str:
    return "\n".join(re.findall(r"(?m)^- \*\*.*(?:\n  .*)*", text))


def test_there_are_rows_but_not_of_every_sentence():
    assert 60 < len(claims()) <= MOST
    assert len({(claim.words, claim.page) for claim in claims()}) == len(claims())


def test_every_claim_stands_in_the_page_that_its_row_names():
    assert [claim.words for claim in claims() if statement(claim) is None] == []


def test_the_tests_that_show_a_claim_exist_and_are_run_by_the_tier_that_is_named():
    assert [found for claim in claims() for target in claim.tests if (found := problem(target))] == []


def test_figures_are_those_of_the_measurements_in_the_repository():
    assert [line for claim in claims() if claim.result for line in wrong(claim)] == []


def test_every_figure_of_the_readme_has_a_row():
    text = page_text("README.md")
    assert uncovered(prose(text), FIGURE, readme_rows()) + uncovered(text, ORDINARY_TIMES, readme_rows()) == []


def test_no_result_is_of_a_gpu():
    """README says so; measurements of a GPU need another sentence there."""
    named = re.findall(r'"(?:device|machine)": "(.*)"', "".join(path.read_text() for path in RESULTS.glob("*.json")))
    assert len(named) > 30
    assert {device for device in named if not re.search(r"\(\d+ cores\)$", device)} == set()


def test_every_capability_in_the_readme_s_list_of_features_has_a_row():
    features = feature_list(page_text("README.md"))
    assert features.count("- **") >= 6
    assert uncovered(features, CAPABILITIES, readme_rows()) == []
    assert unshown_sentences(features, readme_rows()) == []


def test_every_comparative_of_the_readme_has_a_row():
    assert uncovered(prose(page_text("README.md")), COMPARATIVES, readme_rows()) == []


@pytest.mark.parametrize(
    "page",
    ["README.md", "pyproject.toml", "docs/architecture.md", "src/foretrain/__init__.py", "src/foretrain/cli/app.py"],
)
def test_what_the_package_is_said_to_do_is_a_command(page: str):
    said = re.search(r"([^.]*) time-series foundation models", fold(page_text(page)), flags=re.IGNORECASE)
    assert said is not None
    verbs = re.findall(r"(?<!-)\b(serve|deploy|tune|search|benchmark|train|evaluate|forecast)s?\b", said[1].lower())
    assert {"train", "evaluate"} <= set(verbs) <= set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("figure", "measured", "holds"),
    [
        ("98 ms", 0.0981, True), ("98 ms", 0.0986, False), ("3.3x", 3.277, True), ("3.2x", 3.277, False),
        ("1.08 GiB", 1164029952, True), ("481,000", 480993.0, True), ("480,000", 480993.0, False),
        ("25,970 ms", 25.97017, True), ("1.2e-6", 1.223e-6, True), ("1.3e-6", 1.223e-6, False),
    ],
)  # fmt: skip
def test_a_figure_is_a_measurement_rounded_as_it_is_shown(figure: str, measured: float, holds: bool):
    assert reads_as(figure, measured) is holds


def test_a_claim_without_a_row_and_a_number_that_its_row_lacks_are_found():
    row = Claim(
        "Training takes 98 ms, 3.3x as fast", "README.md", result="chronos2-cpu.json", figures="a: 98 ms = ours_s"
    )
    assert uncovered("Training takes 98 ms, 3.3x as fast as there", FIGURE, [row]) == [
        "Training takes 98 ms, 3.3x as fast as there"
    ]
    assert uncovered("It takes 98 ms and serves", CAPABILITIES, [row]) == ["It takes 98 ms and serves"]
    assert uncovered("**Deployed.** A model", CAPABILITIES, [row]) == ["**Deployed.** A model"]
    assert unshown_sentences("- **Quick.** Training takes 98 ms, 3.3x as fast. It sings.", [row]) == ["It sings."]


def test_a_test_that_does_not_exist_or_that_the_suite_skips_is_found():
    assert problem("tests/test_claims.py::test_nothing") == "tests/test_claims.py::test_nothing: there is no such test"
    assert "['parity']" in str(problem("tests/parity/test_gluonts.py::test_metrics_agree_with_gluonts"))
    assert problem("tests/parity/test_gluonts.py::test_metrics_agree_with_gluonts (make parity)") is None
    assert "['skipped']" in str(problem("tests/data/test_store.py::test_the_datasets_library_opens_a_corpus"))
