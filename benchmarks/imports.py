"""What imports with default options make of every file below a folder: a table of items, rows, losses and refusals.

    python -m benchmarks.imports FOLDER [--save FILE] [--before FILE] [--only TEXT]

Every file is imported alone, and every folder that directly holds several files is imported as one. --save writes the
outcomes as JSON; --before reads those of another version and shows both, so that each difference can be looked at. A
MANIFEST.csv in FOLDER with the columns file and source_repo names the source of each file.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.feather
import pyarrow.parquet

from foretrain.data.importers import import_corpus
from foretrain.errors import ForetrainError

SUFFIXES = (".csv", ".txt", ".tsv", ".csv.gz", ".txt.gz", ".tsv.gz", ".parquet", ".pq", ".feather", ".npy", ".npz")
DESCRIPTIONS = ("manifest.csv", "readme.txt", "readme.csv")  # of the folder itself


def main() -> None:
    """Import every file and folder, and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--save", type=Path, help="write the outcomes as JSON")
    parser.add_argument("--before", type=Path, help="outcomes of another version, to show beside")
    parser.add_argument("--only", default="", help="paths that contain this text")
    args = parser.parse_args()
    outcomes: dict[str, dict[str, Any]] = {}
    for path in inputs(args.folder):
        name = path.relative_to(args.folder).as_posix() + ("/" if path.is_dir() else "")
        if args.only in name:
            outcomes[name] = outcome(path)
            print(f"{name}: {cell(outcomes[name])}", file=sys.stderr)
    if args.save:
        args.save.write_text(json.dumps(outcomes, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    before = json.loads(args.before.read_text(encoding="utf-8")) if args.before else None
    print(table(outcomes, before, sources(args.folder)))


def inputs(folder: Path) -> list[Path]:
    """Return all data files below a folder, and the folders that directly hold several."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name.lower().endswith(SUFFIXES)]
    files = [path for path in files if path.name.lower() not in DESCRIPTIONS]
    parents = [path.parent for path in files]
    several = sorted({parent for parent in parents if parents.count(parent) > 1 and parent != folder})
    return files + several


def outcome(path: Path) -> dict[str, Any]:
    """Import one path into a scratch folder and return what became of it."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "corpus"
        try:
            report = import_corpus([path], out)
        except ForetrainError as error:
            refused = " ".join(str(error).replace(str(path), path.name).split())
            return {"refused": refused, "rows in files": rows_in(path)}
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    rules = {name: found for name, found in report.rules.items() if found["items"]}
    gone = ("duplicate_timestamp", "missing_timestamp")
    return {
        "rows in files": sum(source["rows"] for source in manifest["provenance"]["sources"]),
        "items": report.items,
        "rows stored": report.rows,
        "time axis": f"{report.time} {report.freq or ''}".strip(),
        "lost": getattr(report, "lost", {}).get("rows", sum(rules[name]["rows"] for name in gone if name in rules)),
        "warnings": sum(found["severity"] != "note" for found in rules.values()),
        "notes": len(report.notes),
        "columns": list(report.columns),
        "report": report.text().replace(str(out), path.name),
        "seconds": round(time.perf_counter() - began, 2),
    }


def rows_in(path: Path) -> int | None:
    """Return the rows of a file that was refused: its lines but the first, None where that cannot be counted."""
    if path.is_dir():
        counts = [rows_in(file) for file in inputs(path) if file.is_file()]
        return sum(count or 0 for count in counts)
    try:
        if path.suffix in (".parquet", ".pq"):
            return pyarrow.parquet.ParquetFile(path).metadata.num_rows
        if path.suffix == ".feather":
            return pyarrow.feather.read_table(path).num_rows
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return max(0, len(data.splitlines()) - 1)
    except (OSError, pyarrow.ArrowException):
        return None


def cell(found: dict[str, Any] | None) -> str:
    """Return an outcome in words: counts, or the first sentence of the refusal."""
    if found is None:
        return "not there"
    if "refused" in found:
        return f"refused: {re.split(r'(?<=[.:]) (?=[A-Z])', found['refused'])[0][:300]}"
    items = "1 item" if found["items"] == 1 else f"{found['items']:,} items"
    size = f"{items}, {found['rows stored']:,} rows, {found['time axis']}"
    lost = f", {found['lost']:,} lost" if found["lost"] else ""
    counts = {"warning": found["warnings"], "note": found["notes"]}  # findings above a note; decisions told to the user
    said = ", ".join(f"{count} {what}{'' if count == 1 else 's'}" for what, count in counts.items() if count)
    return f"{size}{lost}{f'; {said}' if said else ''}"


def sources(folder: Path) -> dict[str, str]:
    """Return file -> where it was published, as the folder's manifest has it."""
    path = folder / "MANIFEST.csv"
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["file"]: row["source_repo"] for row in csv.DictReader(file) if row.get("source_repo")}


def table(outcomes: dict[str, dict[str, Any]], before: dict[str, dict[str, Any]] | None, origin: dict[str, str]) -> str:
    """Return the outcomes as a Markdown table, beside those of another version if there are any."""
    heads = ["file", *(["source"] if origin else []), "rows"]
    heads += ["outcome"] if before is None else ["before", "after"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for name, found in outcomes.items():
        cells = [f"`{name}`", *([origin.get(name, "")] if origin else []), f"{found['rows in files'] or 0:,}"]
        if before is not None:
            cells.append(cell(before.get(name)))
        after = cell(found)
        cells.append("the same" if before is not None and after == cells[-1] else after)
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
