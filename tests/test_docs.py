"""What the documentation shows is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from foretrain.cli import app
from foretrain.cli.reading import PANEL
from foretrain.cli.tune import SEARCH
from foretrain.config import REFUSED, rules
from foretrain.data.rules import rules_table
from foretrain.models.objective import LOSSES, SPACES, LossConfig
from foretrain.run.config import RunConfig

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "README.md",
    *sorted(ROOT.glob("src/foretrain/models/*/README.md")),
]


def test_the_quality_rules_are_the_code_s_own_table():
    assert rules_table().strip() in (ROOT / "docs" / "data-format.md").read_text()


def test_what_may_change_on_resume_and_what_is_identity_are_the_fields_own_declarations():
    text = (ROOT / "docs" / "reliability.md").read_text()
    rows = re.findall(r"^\| `([\w.*]+)` \| (yes|no) \| (refused|allowed|fingerprint) \| (.*) \|$", text, flags=re.M)
    unusual = [(key, rule) for key, rule in rules(RunConfig) if rule != REFUSED]
    declared = [(key, "yes" if rule.identity else "no", rule.on_resume) for key, rule in unusual]
    assert [row[:3] for row in rows] == declared
    assert [key for key, _, _, what in rows if what.startswith("sums")] == [k for k, r in unusual if "sums" in r.note]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_tests_that_a_page_names_exist(page: Path):
    for path, name in re.findall(r"\b((?:tests|benchmarks)/[\w/.-]+\.(?:py|json))(?:::(\w+))?", page.read_text()):
        assert (ROOT / path).is_file(), path
        assert not name or re.search(rf"^def {name}\(", (ROOT / path).read_text(), flags=re.M), f"{path}::{name}"


def test_each_fault_and_each_promise_on_several_processes_names_a_test():
    tables = {"reliability.md": "| fault | behaviour | shown by |", "distributed.md": "| promise | shown by |"}
    for page, head in tables.items():
        text = (ROOT / "docs" / page).read_text()
        rows = text[text.index(head) :].split("\n\n")[0].splitlines()[2:]
        assert len(rows) > 15
        assert [row for row in rows if not re.search(r"tests/(?!proofs)[\w/]+\.py", row.split(" | ")[-1])] == []


def test_every_option_of_reading_stands_in_the_table_of_options_once():
    import typer

    text = (ROOT / "docs" / "data-format.md").read_text()
    table = text[text.index("### Options of reading") : text.index("In Python they are keywords")]
    data = typer.main.get_command(app).commands["data"]
    flags = [
        flag
        for parameter in data.commands["import"].params
        if getattr(parameter, "rich_help_panel", None) == PANEL
        for flag in (*parameter.opts, *parameter.secondary_opts)
    ]
    assert len(flags) > 20
    assert {flag: len(re.findall(rf"`{flag}`", table)) for flag in flags} == dict.fromkeys(flags, 1)


def shell_lines(page: Path) -> list[str]:
    text = re.sub(r"\\\n\s*", " ", page.read_text())
    blocks = re.findall(r"```[a-z]*\n(.*?)```", text, flags=re.S)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip().startswith("foretrain ")]


def commands() -> dict[str, set[str]]:
    """Every verb and the flags it knows."""
    import typer

    found: dict[str, set[str]] = {}

    def walk(command, path: str) -> None:
        if hasattr(command, "commands"):
            for name, child in command.commands.items():
                walk(child, f"{path} {name}".strip())
            return
        found[path] = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}

    walk(typer.main.get_command(app), "")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_documented_commands_use_verbs_and_flags_that_exist(page: Path):
    known = commands()
    for line in shell_lines(page):
        words = line.split("#")[0].split()[1:]
        verb = next((name for n in (3, 2) if (name := " ".join(words[:n])) in known), words[0])
        verb = f"tune {SEARCH}" if verb == "tune" else verb  # foretrain tune CONFIG
        assert verb in known or verb.startswith("-"), line
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", " ".join(words)):
            own = known.get(verb, set()) | (known["train"] if verb.startswith("launch ") else set())
            assert flag in own | {"--help", "--version"}, f"{line}: {flag}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_documented_sections_of_a_run_are_valid(page: Path):
    from foretrain.run.config import RunConfig

    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), flags=re.S):
        for key, value in yaml.safe_load(block).items():
            if key in ("loss", "optimizer", "adapter"):
                TypeAdapter(RunConfig.model_fields[key].annotation).validate_python(value)


def test_the_tables_of_losses_and_spaces_are_complete():
    page = (ROOT / "docs" / "fine-tuning.md").read_text()
    for name in LOSSES:
        assert re.search(rf"^\| {name} \|.*`val_{LossConfig(name=name).metric}`", page, flags=re.M), name
    for name, space in SPACES.items():
        assert re.search(rf"^\| {name} \|.*\| {space.unit}.*`_{space.suffix}` \|$", page, flags=re.M), name


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_documented_files_exist(page: Path):
    for path in re.findall(
        r"\b((?:configs|docs|benchmarks|tests|src)/[\w./-]+\.(?:yaml|md|py|json|png))\b", page.read_text()
    ):
        assert (ROOT / path).exists(), path


def test_the_classes_and_files_of_the_glossary_exist():
    page = (ROOT / "docs" / "glossary.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| [^|]+ \| (.*) \| (.*) \|$", page, flags=re.M)
    named = [(cls.strip("`"), path.strip("`")) for cls, path in rows if cls != "class"]
    assert len(named) >= 20
    for cls, path in named:
        file = ROOT / "src" / "foretrain" / path
        assert file.is_file() and re.search(rf"^class {cls}\b", file.read_text(), flags=re.M), f"{cls} in {path}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(page: Path):
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / link).exists(), link


def test_the_walk_through_a_family_shows_lines_of_its_files_in_order():
    page = (ROOT / "docs" / "adding-a-family.md").read_text()
    blocks = re.findall(r"```python\n# (\S+)\n(.*?)```", page, flags=re.S)
    assert len(blocks) == page.count("```python") > 5
    for path, block in blocks:
        lines = iter((ROOT / path).read_text().splitlines())
        for line in block.splitlines():
            assert line.strip() == "..." or line in lines, f"{path}: {line}"


def test_the_cost_of_a_family_is_counted():
    page = (ROOT / "docs" / "adding-a-family.md").read_text()
    rows = re.findall(r"^\| (\S+) \| (\d+) \|$", page, flags=re.M)
    assert len(rows) == 7
    for path, lines in rows:
        assert len((ROOT / path).read_text().splitlines()) == pytest.approx(int(lines), rel=0.15), path
