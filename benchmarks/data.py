"""Training windows from a memory-mapped corpus against the row accessor of the datasets library, and opening a corpus.

    python -m benchmarks.data [--quick] [--only TEXT] [--json FILE]

A window is 2,112 points (context 2,048, horizon 64) of series of 2,200 to 6,000 points, float32, one in a thousand
missing; a batch is ready: left padded, NaN where nothing was observed. "full" windows have a whole context, "padded"
ones a cutoff anywhere from step 64 on. The reference fetches each row with dataset[i] ("numpy" or Python format), cuts
and pads it in the same way; all batches of both sides are compared before timing. The page cache is warm: the corpus
has just been written and read. One thread.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import harness

import numpy as np  # isort: skip  (after the harness, which sets the threads)

from foretrain.data.config import DataConfig
from foretrain.data.source import TrainingSource
from foretrain.data.store import Corpus, CorpusWriter
from foretrain.data.windows import FloatArray, IntArray

Wanted = Callable[[str], bool]

CONTEXT, HORIZON = 2048, 64
WINDOWS = 4096  # per timed run of either side
MILLION = 1_000_000


def main() -> None:
    """Run the cases selected on the command line."""
    parser = harness.parser(__doc__ or "", references=("datasets",))
    parser.add_argument("--probe", nargs=2, metavar=("NAME", "CORPUS"), help="(internal) print one figure of a case")
    args = parser.parse_args()
    if args.probe:
        print(PROBES[args.probe[0]](Path(args.probe[1])))
        return

    def wanted(name: str) -> bool:
        return args.only is None or args.only in name

    with tempfile.TemporaryDirectory() as folder:
        results = windows_cases(Path(folder), wanted, quick=args.quick)
        results += open_cases(Path(folder), wanted, quick=args.quick)
    harness.finish(results, args.json)


# -- windows ---------------------------------------------------------------------------------------------------------


def write_long_series(folder: Path, count: int, variates: int = 1) -> Path:
    """Write a corpus of noise with 2,200 to 6,000 points per series."""
    rng = np.random.default_rng(0)
    with CorpusWriter(folder, [f"v{k}" for k in range(variates)], time="steps") as writer:
        for k in range(count):
            values = rng.standard_normal((variates, int(rng.integers(2200, 6001))), dtype=np.float32)
            values[:, rng.random(values.shape[1]) < 0.001] = np.nan
            writer.append(f"series {k}", values)
    return folder


def source_of(path: Path, *, full: bool, **options: object) -> TrainingSource:
    """Return the training windows of a corpus."""
    tree = {"corpora": [{"path": str(path)}], "context_length": CONTEXT, "prediction_length": HORIZON}
    tree |= {"min_context": CONTEXT if full else HORIZON, "validation_steps": 0, "test_steps": 0, **options}
    return TrainingSource(DataConfig.model_validate(tree), seed=0)


def batches(source: TrainingSource, size: int) -> Callable[[], None]:
    """Return a function that reads WINDOWS windows in batches; each call continues after the previous one."""
    position = 0

    def action() -> None:
        nonlocal position
        for _ in range(WINDOWS // size):
            source.windows(position, size)
            position += size

    return action


def by_rows(dataset: Any, places: IntArray) -> tuple[FloatArray, FloatArray]:
    """Return contexts (B, C) and futures (B, H) at (corpus, series, cutoff), with one dataset[i] per window."""
    context = np.full((len(places), CONTEXT), np.nan, np.float32)
    future = np.empty((len(places), HORIZON), np.float32)
    for b, (_, series, cutoff) in enumerate(places.tolist()):
        row = np.asarray(dataset[series]["target"], np.float32)[0]
        known = row[max(0, cutoff - CONTEXT) : cutoff]
        context[b, CONTEXT - len(known) :] = known
        future[b] = row[cutoff : cutoff + HORIZON]
    return context, future


def reference_batches(dataset: Any, source: TrainingSource, size: int) -> Callable[[], None]:
    """Return a function that reads as many windows row by row, at given cutoffs: only reading and padding are timed."""
    places = [source.windows(first, size).source for first in range(0, WINDOWS, size)]

    def action() -> None:
        for batch in places:
            by_rows(dataset, batch)

    return action


def largest_difference(dataset: Any, source: TrainingSource, count: int) -> float:
    """Return the largest difference of both sides on `count` windows; infinite if their NaNs differ."""
    windows = source.windows(0, count)
    worst = 0.0
    for ours, theirs in zip((windows.context, windows.future), by_rows(dataset, windows.source), strict=True):
        if not np.array_equal(np.isnan(ours), np.isnan(theirs)):
            return float("inf")
        worst = max(worst, float(np.nanmax(np.abs(ours - theirs))))
    return worst


def windows_cases(folder: Path, wanted: Wanted, *, quick: bool) -> list[harness.Result]:
    """Measure windows per second, ours alone and against the row accessor."""
    import datasets

    path = write_long_series(folder / "long", 500 if quick else 8000)
    stored = datasets.load_from_disk(str(path))
    formats = {"numpy": stored.with_format("numpy"), "Python": stored}
    alternations = 1 if quick else 7
    results = []
    for cut, size, accessor in (
        ("full", 256, "numpy"),
        ("full", 1024, "numpy"),
        ("padded", 256, "numpy"),
        ("padded", 1024, "numpy"),
        ("padded", 256, "Python"),
    ):
        name = f"{WINDOWS} {cut} windows by {size}, {accessor} rows"
        if wanted(name):
            source = source_of(path, full=cut == "full")
            equal = largest_difference(formats[accessor], source, 256 if quick else 1024)
            reference = reference_batches(formats[accessor], source, size)
            line = harness.compare(name, batches(source, size), reference, equal=equal, alternations=alternations)
            results.append(speed(line, WINDOWS))
    name = f"{WINDOWS} padded windows by 256, epoch mode"
    if wanted(name):
        source = source_of(path, full=False, sampling="epoch")
        results.append(speed(harness.compare(name, batches(source, 256), None, alternations=alternations), WINDOWS))
    name = f"{WINDOWS} padded windows of 6 variates by 64"
    if wanted(name):
        source = source_of(write_long_series(folder / "wide", 100 if quick else 1000, 6), full=False)
        line = harness.compare(name, batches(source, 64), None, alternations=alternations)
        results.append(speed(line, 6 * WINDOWS))
    return results


def speed(line: harness.Result, rows: int) -> harness.Result:
    """Print rows per second under a line."""
    theirs = "" if line.reference_s is None else f", reference {rows / line.reference_s:,.0f}"
    print(f"    {rows / line.ours_s:,.0f} rows of {CONTEXT + HORIZON:,} points a second{theirs}", flush=True)
    return line


# -- opening ---------------------------------------------------------------------------------------------------------


def write_many_series(folder: Path, count: int) -> Path:
    """Write a corpus of many short series."""
    values = np.random.default_rng(0).standard_normal((1000, 1, 96), dtype=np.float32)
    with CorpusWriter(folder, ["value"], time="regular", freq="h") as writer:
        times = np.arange(96, dtype=np.int64) * 3_600_000_000
        for k in range(count):
            writer.append(f"series {k}", values[k % 1000], times=times)
    return folder


def open_ours(path: Path) -> None:
    """Open a corpus and read its number of series."""
    assert Corpus.open(path).num_series


def open_datasets(path: Path) -> None:
    """Open the corpus with the datasets library."""
    import datasets

    assert len(datasets.load_from_disk(str(path)))


def first_batch(path: Path) -> None:
    """Open a corpus, plan training on it and read one batch."""
    tree = {"corpora": [{"path": str(path)}], "context_length": 64, "prediction_length": 8}
    assert len(TrainingSource(DataConfig.model_validate(tree), seed=0).windows(0, 256)) == 256


def seconds(action: Callable[[Path], None], path: Path) -> float:
    """Return the time of one call in this new process, without imports."""
    start = time.perf_counter()
    action(path)
    return time.perf_counter() - start


def growth(action: Callable[[Path], None], path: Path) -> float:
    """Return the growth of this process's peak resident memory from one call, in bytes, including mapped pages.

    VmHWM belongs to this program alone; getrusage's maximum would include what ran before exec.
    """
    before = memory("VmRSS")
    action(path)
    return max(memory("VmHWM") - before, 1.0)


def memory(field: str) -> float:
    """Return a field of /proc/self/status in bytes (Linux)."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field):
            return float(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {field}; this case needs Linux.")


def imported(measure: Callable[..., float], action: Callable[[Path], None]) -> Callable[[Path], float]:
    """Return the measurement preceded by its imports."""

    def probe(path: Path) -> float:
        import pyarrow  # noqa: F401

        if action is open_datasets:
            import datasets  # noqa: F401
        return measure(action, path)

    return probe


PROBES = {
    f"{action.__name__} {measure.__name__}": imported(measure, action)
    for action in (open_ours, open_datasets, first_batch)
    for measure in (seconds, growth)
}


def open_cases(folder: Path, wanted: Wanted, *, quick: bool) -> list[harness.Result]:
    """Measure time and memory of opening a corpus, each the best of several new processes."""
    count = MILLION // 100 if quick else MILLION
    names = {
        f"open {count:,} series": ("open_ours", "open_datasets"),
        f"open {count:,} series to first batch": ("first_batch", None),
    }
    selected = {(name, unit): sides for name, sides in names.items() for unit in ("s", "bytes") if wanted(name)}
    if not selected:
        return []
    path = write_many_series(folder / "many", count)
    results = []
    for (name, unit), sides in selected.items():
        measure = "seconds" if unit == "s" else "growth"
        figures = []
        for side in sides:
            if side is not None:
                probe = ["--probe", f"{side} {measure}", str(path)]
                runs = [harness.subprocess_figure("benchmarks.data", probe) for _ in range(1 if quick else 5)]
                figures.append(min(runs))
        label = name if unit == "s" else f"{name}, memory"
        results.append(harness.result(label, figures[0], figures[1] if len(figures) > 1 else None, unit=unit))
    return results


if __name__ == "__main__":
    main()
