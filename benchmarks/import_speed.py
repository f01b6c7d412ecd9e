"""Time and peak memory of imports and of starting, against another checkout of this project.

    python -m benchmarks.import_speed --against CHECKOUT [--rows N] [--rounds K] [--only TEXT] [--json FILE]

Every run is a process of its own that imports one generated input with default options; the two checkouts take turns,
K rounds each after one that is not counted, in which the rows of both corpora are compared. Three cases time whole
programs instead: `data import` and `forecast` of a small file, and `--help`, which must not load numpy, pandas or
torch. CPU time is user and system time of the process, for imports without the loading of modules; peak memory is its
largest resident set. Ratios are this checkout / the other one; the least CPU time of each side counts, since other work
on the machine only adds to it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import harness

import numpy as np  # isort: skip  (after the harness, which sets the threads)

ROWS = 600_000  # of the longest input; the others keep their share
OURS = Path(__file__).resolve().parent.parent
_PROBE = """
import json, resource, sys, time
from pathlib import Path

def spent():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime, time.perf_counter()

start = (0.0, time.perf_counter())
kind, *rest = sys.argv[1:]
if kind == "import":
    import pandas, pyarrow.csv, pyarrow.parquet  # pyarrow loads pandas when it first makes an array
    from foretrain.data.importers import import_corpus
    start = spent()
    import_corpus([rest[0]], rest[1])
else:
    from foretrain.cli import main
    sys.argv[1:] = rest
    try:
        main()
    except SystemExit as end:
        assert not end.code
cpu, wall = (b - a for a, b in zip(start, spent()))
heavy = [name for name in ("numpy", "pandas", "torch") if name in sys.modules]
peak = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(json.dumps({"cpu": cpu, "wall": wall, "peak": 1024 * int(peak[0].split()[1]), "heavy": heavy}))
"""  # VmHWM belongs to this program alone; getrusage's maximum would include what ran before exec


@dataclass(frozen=True)
class Figures:
    """One run: seconds and bytes."""

    cpu: float
    wall: float
    peak: float
    heavy: list[str]  # those of numpy, pandas and torch that were loaded
    rows: str  # hash of the corpus' rows, "" without one


@dataclass(frozen=True)
class Line:
    """One case: the figures of both sides and their ratios, ours / other."""

    case: str
    least_cpu: tuple[float, float]
    median_cpu: tuple[float, float]
    median_wall: tuple[float, float]
    peak: tuple[float, float]
    equal: bool | None  # both corpora have the same rows, None without corpora
    cpu_ratio: float
    peak_ratio: float
    load: float


def main() -> None:
    """Generate the inputs, run both sides in turn, and print a line a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="the other checkout, with a folder src")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"rows of the longest input (default {ROWS:,})")
    parser.add_argument("--rounds", type=int, default=7, help="counted runs of each side (default 7)")
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    args = parser.parse_args()
    if args.against is None or not (args.against / "src" / "foretrain").is_dir():
        parser.error("--against: name a checkout of this project, for example one made by git worktree add")
    print(f"{harness.describe('cpu')}; {OURS.name} at {harness.commit()}; rows {args.rows:,}, rounds {args.rounds}")
    print(f"{'case':<34} {'CPU':>7} {'other':>7} {'ratio':>6} {'peak':>9} {'other':>9} {'ratio':>6}   wall")
    lines = []
    for name, write in CASES.items():
        if args.only in name:
            with tempfile.TemporaryDirectory() as folder:
                lines.append(case(name, write(Path(folder) / "in", args.rows), args))
    if args.json:
        text = json.dumps({"machine": harness.describe("cpu"), "commit": harness.commit(), "rows": args.rows,
                           "rounds": args.rounds, "cases": [asdict(line) for line in lines]}, indent=1)  # fmt: skip
        args.json.write_text(text + "\n", encoding="utf-8")


# the measurement


def case(name: str, command: list[str], args: argparse.Namespace) -> Line:
    """Run a case on both sides in turn and print its line."""
    sides: tuple[list[Figures], list[Figures]] = ([], [])
    first = list[str]()
    for number in range(args.rounds + 1):
        for side, checkout in enumerate((OURS, args.against.resolve())):
            figures = measured(command, checkout)
            if command[0] == "program" and "--help" in command and figures.heavy:
                raise SystemExit(f"{checkout}: --help loads {', '.join(figures.heavy)}")
            if number:
                sides[side].append(figures)
            else:
                first.append(figures.rows)

    def both(of: Callable[[list[float]], float], field: str) -> tuple[float, float]:
        ours, other = ([getattr(figures, field) for figures in side] for side in sides)
        return of(ours), of(other)

    cpu, peak = both(min, "cpu"), both(statistics.median, "peak")
    median, wall = both(statistics.median, "cpu"), both(statistics.median, "wall")
    equal = first[0] == first[1] if any(first) else None
    line = Line(name, cpu, median, wall, peak, equal, cpu[0] / cpu[1], peak[0] / peak[1], os.getloadavg()[0])
    print(
        f"{name:<34} {cpu[0]:>6.2f}s {cpu[1]:>6.2f}s {line.cpu_ratio:>6.2f} {peak[0] / 2**20:>5,.0f} MiB "
        f"{peak[1] / 2**20:>5,.0f} MiB {line.peak_ratio:>6.2f}   {wall[0]:.2f}s {wall[1]:.2f}s"
        f"{'   OTHER ROWS' if equal is False else ''}",
        flush=True,
    )
    return line


def measured(command: list[str], checkout: Path) -> Figures:
    """Run arguments of the probe with the code of a checkout; OUT stands for a new path."""
    with tempfile.TemporaryDirectory() as scratch:
        full = [sys.executable, "-c", _PROBE, *(part.replace("OUT", f"{scratch}/out") for part in command)]
        environment = os.environ | {"PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installation has its bytecode
        done = subprocess.run(full, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed with {checkout}:\n{done.stderr[-2000:]}")
        rows = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(scratch).glob("out/*.arrow"))))
    held = rows.hexdigest() if command[0] == "import" else ""
    return Figures(**json.loads(done.stdout.splitlines()[-1]), rows=held)


# the inputs: each function writes one below `folder` and returns the arguments of the probe


def days(count: int, start: str = "2000-01-01") -> list[str]:
    """Return days as text."""
    return (np.datetime64(start) + np.arange(count)).astype(str).tolist()


def hours(count: int) -> list[str]:
    """Return hours as text."""
    stamps = np.datetime64("2000-01-01T00:00:00") + np.arange(count) * np.timedelta64(1, "h")
    return [text.replace("T", " ") for text in stamps.astype(str).tolist()]


def walk(count: int, columns: int = 1) -> np.ndarray:
    """Return random walks (count, columns) near 1,000."""
    steps = np.random.default_rng(0).standard_normal((count, columns))
    return np.round(1000 + steps.cumsum(axis=0) / np.sqrt(count), 2)


def bars(count: int, seed: int = 0) -> np.ndarray:
    """Return open, high, low, close and volume (count, 5)."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, count)) / np.sqrt(count / 250))
    opened = close * np.exp(rng.normal(0, 0.003, count))
    high, low = np.maximum(opened, close) * 1.004, np.minimum(opened, close) * 0.996
    return np.column_stack([np.round(np.column_stack([opened, high, low, close]), 2), rng.integers(1000, 99999, count)])


def written(path: Path, header: str, *columns: list[str] | np.ndarray) -> list[str]:
    """Write columns as CSV and return the probe's arguments that import it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [column if isinstance(column, list) else [f"{x:.10g}" for x in column.tolist()] for column in columns]
    path.write_text("\n".join([header, *map(",".join, zip(*texts, strict=True)), ""]), encoding="utf-8")
    return ["import", str(path), "OUT"]


def long_columns(rows: int) -> tuple[list[str], list[str], np.ndarray]:
    """Return ids, stamps and values of items of 1,000 hours each."""
    items = max(1, rows // 1000)
    names = [f"item {k}" for k in range(items) for _ in range(1000)]
    return names, hours(1000) * items, walk(len(names))[:, 0]


def long_csv(folder: Path, rows: int) -> list[str]:
    """Three columns: item, stamp, value."""
    return written(folder / "long.csv", "item_id,timestamp,target", *long_columns(rows))


def long_parquet(folder: Path, rows: int) -> list[str]:
    """The same table, typed."""
    import pyarrow
    import pyarrow.parquet

    names, stamps, values = long_columns(rows)
    table = {"item_id": names, "timestamp": np.array(stamps, "M8[us]"), "target": values}
    folder.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.table(table), folder / "long.parquet")
    return ["import", str(folder / "long.parquet"), "OUT"]


def one_item(folder: Path, rows: int) -> list[str]:
    """Bars of one symbol."""
    count = rows * 5 // 6
    header = "timestamp,open,high,low,close,volume"
    return written(folder / "bars.csv", header, hours(count), *bars(count).T)


def twelve_columns(folder: Path, rows: int) -> list[str]:
    """Stamps and twelve values."""
    count = rows // 3
    header = "timestamp," + ",".join(f"load_{k}" for k in range(12))
    return written(folder / "loads.csv", header, hours(count), *walk(count, 12).T)


def many_files(folder: Path, rows: int) -> list[str]:
    """A folder of files of 1,000 daily bars each."""
    for k in range(max(2, rows // 1500)):
        written(folder / f"S{k:03}.csv", "Date,Open,High,Low,Close,Volume", days(1000), *bars(1000, k).T)
    return ["import", str(folder), "OUT"]


def dates_iso(folder: Path, rows: int) -> list[str]:
    """Long, with days as 2000-01-31."""
    return _dates(folder, rows, lambda text: text)


def dates_german(folder: Path, rows: int) -> list[str]:
    """Long, with days as 31.01.2000."""
    return _dates(folder, rows, lambda text: ".".join(reversed(text.split("-"))))


def _dates(folder: Path, rows: int, form: Callable[[str], str]) -> list[str]:
    names, _, values = long_columns(rows // 2)
    stamps = list(map(form, days(1000))) * (len(names) // 1000)
    return written(folder / "dates.csv", "item_id,date,target", names, stamps, values)


def forecast(folder: Path, rows: int) -> list[str]:
    """The whole program: a small model forecasts a small file."""
    del rows
    from benchmarks.token_budget import small

    _, path, _ = written(folder / "load.csv", "timestamp,load", hours(200), walk(200)[:, 0])
    (folder / "release").mkdir()
    small().save_release(folder / "release")
    return ["program", "forecast", str(folder / "release"), path, "--prediction-length", "8", "--out", "OUT.csv"]


def program_import(folder: Path, rows: int) -> list[str]:
    """The whole program: a small file is imported."""
    del rows
    _, path, _ = written(folder / "load.csv", "timestamp,load", hours(200), walk(200)[:, 0])
    return ["program", "data", "import", path, "--out", "OUT"]


def program_help(folder: Path, rows: int) -> list[str]:
    """The whole program: --help."""
    del folder, rows
    return ["program", "--help"]


CASES: dict[str, Callable[[Path, int], list[str]]] = {
    "long CSV, ids": long_csv,
    "one item, bars": one_item,
    "12 columns": twelve_columns,
    "files of daily bars": many_files,
    "dates 2000-01-31": dates_iso,
    "dates 31.01.2000": dates_german,
    "long Parquet": long_parquet,
    "import of 200 rows, whole program": program_import,
    "forecast FILE, whole program": forecast,
    "--help, whole program": program_help,
}

if __name__ == "__main__":
    main()
