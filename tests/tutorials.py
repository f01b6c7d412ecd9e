"""Pages of commands, as a shell would read them: what tests/test_tutorials.py runs in small, and
tests/proofs/tutorials.py as it stands.

Fences of a page: `sh` is run, `text` is what the `sh` before it prints (shortened by `...`), `bash` is optional and
not run, since it wants data or a network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
NUMBER = r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?"
# Lines whose words follow from how well a model does, which differs between machines and lengths of a training.
VERDICT = re.compile(
    r"better|worse|no significant|no difference|PROMOTED|Promoted|too few windows|[\d.]% (?:above|below)"
    r"|crossed|step \d|^(?:use|released) "
)


@dataclass(frozen=True)
class Command:
    """One command with the lines of its here-document."""

    line: str
    document: str = ""

    @property
    def text(self) -> str:
        """The command as it stands in a script."""
        return self.line if not self.document else f"{self.line}\n{self.document}EOF"


@dataclass(frozen=True)
class Block:
    """Commands and the lines that the page says they print."""

    commands: tuple[Command, ...]
    shown: tuple[str, ...]


def blocks(text: str) -> list[Block]:
    """Return the `sh` fences of a page, each with the `text` fence that follows it."""
    found: list[Block] = []
    for kind, body in re.findall(r"^```([a-z]*)\n(.*?)^```$", text, flags=re.S | re.M):
        if kind == "sh":
            found.append(Block(tuple(commands(body)), ()))
        elif kind == "text":
            found[-1] = Block(found[-1].commands, tuple(line for line in body.splitlines() if line.strip(" .")))
    return found


def commands(body: str) -> Iterator[Command]:
    """Yield the commands of a script of plain lines, continued lines and here-documents that end with EOF."""
    lines = iter(body.splitlines())
    for line in lines:
        while line.endswith("\\"):
            line = line[:-1] + next(lines).strip()
        document = ""
        if line.endswith("<<'EOF'"):
            while (inner := next(lines)) != "EOF":
                document += inner + "\n"
        if line.strip():
            yield Command(line, document)


def fits(shown: str, printed: str) -> bool:
    """Whether a printed line is the one shown but for numbers, blanks and what `...` stands for."""
    pieces = re.split(rf"(\.\.\.|{NUMBER}|\s+|-{{3,}})", shown.strip())
    pattern = "".join(
        re.escape(piece) if at % 2 == 0 else r".*" if piece == "..." else r"\s+" if piece.isspace() else
        r"-+" if set(piece) == {"-"} else NUMBER
        for at, piece in enumerate(pieces)
    )  # fmt: skip
    return re.fullmatch(pattern, printed.strip()) is not None


def is_printed(shown: str, printed: list[str]) -> bool:
    """Whether a shown line is among the printed ones; of a verdict only that there is one, of the same forecaster."""
    if any(fits(shown, line) for line in printed):
        return True
    if VERDICT.search(shown) is None:
        return False
    if "promoted" in shown.lower():
        return any("promoted" in line.lower() for line in printed)
    return any(line.split()[:1] == shown.split()[:1] and VERDICT.search(line) for line in printed)


def written(printed: list[str]) -> list[str]:
    """Return the files that commands say they wrote."""
    return [found[1] for line in printed if (found := re.match(r"(?:wrote|picture:) (\S+?)(?:: .*)?$", line))]


def named(text: str) -> list[str]:
    """Return the files that a page's own words name as results: `scores/per_item.csv`, but no page and no key."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)
    return re.findall(r"`((?:[\w-]+/)*[\w-]+\.(?:csv|html|png|yaml|jsonl|json|log))`", prose)
