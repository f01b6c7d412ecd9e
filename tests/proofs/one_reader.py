"""Compare the ways from a file to a forecast, on many dialects and on the files of a folder.

    python tests/proofs/one_reader.py [--dialects 200] [--data $MARKET_DATA] [--limit 0]

`forecast FILE`, `forecast_df(read_table(FILE))` and `data import` with `forecast CORPUS` must give the same bits, or
refuse all; `forecast_df(pd.read_csv(FILE))` gives them too, or refuses and names read_table. --limit N takes at most N
files of each folder below --data. The exit code is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.data.importers.dialects import draw, file_columns, write
from tests.forecasting.readings import Ways

from foretrain.data.importers import import_corpus
from foretrain.data.store import Corpus
from foretrain.errors import DataError

MAX_BYTES = 8_000_000
SUFFIXES = (".csv", ".txt", ".tsv", ".gz", ".parquet", ".zip")


Result = tuple[str, str | None, str | None]


def tried(check: Callable[[], str | None]) -> str | None:
    """What a check finds, or how it crashed."""
    try:
        return check()
    except Exception:
        return f"crashed: {traceback.format_exc().splitlines()[-1]}"


def of_dialects(count: int) -> Iterator[Result]:
    """(dialect, how the three ways differ, what is wrong with a frame of read_csv) of random tables."""
    for seed in range(count):
        table, dialect = draw(seed)
        with tempfile.TemporaryDirectory() as folder:
            file = write(Path(folder) / "in", table, dialect)[0]
            ways = Ways(file, dialect.options, dialect.target(table), Path(folder))
            columns = file_columns(table, dialect)
            yield f"dialect {seed} ({dialect})", tried(ways.disagreement), tried(partial(ways.careless, columns))


def of_files(data: Path, limit: int) -> Iterator[Result]:
    """The same of the files in a folder that the import reads."""
    for folder in sorted({path.parent for path in data.rglob("*") if path.is_file()}):
        files = sorted(path for path in folder.iterdir() if path.name.lower().endswith(SUFFIXES))
        for path in files[: limit or None]:
            if path.stat().st_size > MAX_BYTES:
                print(f"{path}: larger than {MAX_BYTES:,} bytes; left out", flush=True)
                continue
            target = first_number(path)
            if target is None:
                continue
            with tempfile.TemporaryDirectory() as scratch:
                ways = Ways(path, {}, target, Path(scratch))
                frame = tried(partial(ways.careless, {})) if ".csv" in path.name else None
                yield str(path), tried(ways.disagreement), frame


def first_number(path: Path) -> str | None:
    """The close of a market file, else its first numeric column; None if the import refuses the file."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            import_corpus([path], Path(scratch) / "corpus")
        except DataError as error:
            print(f"{path}: not imported ({str(error)[:120]})", flush=True)
            return None
        columns = Corpus.open(Path(scratch) / "corpus").manifest.columns
        numeric = [column.name for column in columns if column.kind != "categorical"]
        return "close" if "close" in numeric else next(iter(numeric), None)


def main() -> int:
    """Run the proof."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dialects", type=int, default=200)
    parser.add_argument("--data", type=Path, default=os.environ.get("MARKET_DATA"))
    parser.add_argument("--limit", type=int, default=0)
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    count, differ, careless = 0, 0, 0
    for results in (of_dialects(chosen.dialects), of_files(chosen.data, chosen.limit) if chosen.data else iter(())):
        for name, ways, frame in results:
            count += 1
            differ += ways is not None
            careless += frame is not None
            for wrong in filter(None, (ways, frame)):
                print(f"{name}\n    {wrong}", flush=True)
    print(f"{count - differ} of {count} files give one forecast on the three ways")
    print(f"{count - careless} of {count} frames of read_csv give it too, or a refusal that names read_table")
    return 1 if differ or careless else 0


if __name__ == "__main__":
    sys.exit(main())
