"""Write series of a mixture as a corpus, with several processes; an interrupted call continues where it stopped.

Part k of the corpus, PART_BLOCKS blocks, is a corpus of its own in a scratch folder beside the target until all parts
exist and are joined. A series depends on the mixture and its number alone, not on the processes or on num_series.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from foretrain import __version__
from foretrain.atomic import replacing_file, write_json
from foretrain.data.exclusive import discard, exclusive
from foretrain.data.manifest import Manifest
from foretrain.data.store import Corpus
from foretrain.data.synthetic import candles
from foretrain.data.synthetic.base import provenance
from foretrain.data.synthetic.mixture import BLOCK, Mixture, draw_block
from foretrain.data.writer import CorpusWriter
from foretrain.errors import ConfigError, DataError

PART_BLOCKS = 64
PART = PART_BLOCKS * BLOCK  # series
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def write_corpus(
    mixture: Mixture,
    out: str | Path,
    num_series: int,
    *,
    workers: int = 1,
    command: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Write num_series series of a mixture into a new corpus folder; progress is called with (series done, all).

    Parts that an interrupted call with the same mixture left are used again. Raises DataError if `out` exists, if the
    parts are those of another mixture or version, if the disk is full, or if a process was killed; ConfigError for
    impossible counts.
    """
    out = Path(out)
    for name, value in (("num_series", num_series), ("workers", workers)):
        if value < 1:
            raise ConfigError(f"{name} is {value}; it must be at least 1.")
    if out.exists():
        raise DataError(f"{out}: exists already, and a corpus is never overwritten. Choose another folder.")
    parts = out.parent / f".{out.name}.parts"
    try:
        with exclusive(out) as folder:
            _claim(parts, mixture, out)
            total = -(-num_series // PART)
            wanted = [(k, min(PART, num_series - k * PART)) for k in range(total)]
            done = 0
            for _, count in _written(mixture, parts, wanted, workers):
                done += count
                if progress is not None:
                    progress(done, num_series)
            manifest = _join(mixture, parts, wanted, folder, command)
            discard(parts, folder)
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}. Free space and repeat.") from None
    except BrokenProcessPool:
        raise DataError(
            f"{out}: a process that wrote a part was killed, perhaps for want of memory. Repeat the call, if need be "
            "with fewer workers; the parts that exist are used again."
        ) from None
    return manifest


def _claim(parts: Path, mixture: Mixture, out: Path) -> None:
    """Create the folder of the parts, or check that what is there was made by the same mixture."""
    settings = {"foretrain": __version__, "mixture": mixture.model_dump(mode="json")}
    record = parts / "mixture.json"
    if record.is_file():
        try:
            found = json.loads(record.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if found != settings:
            raise DataError(
                f"{out}: {parts} holds parts of another mixture, left by an interrupted call. Remove that folder, or "
                "choose another --out."
            )
        return
    parts.mkdir(parents=True, exist_ok=True)
    with replacing_file(record) as scratch:
        write_json(scratch, settings)


def _part(parts: Path, number: int, count: int) -> Path:
    return parts / f"part-{number:06d}-{count}"


def _written(mixture: Mixture, parts: Path, wanted: list[tuple[int, int]], workers: int) -> Iterator[tuple[int, int]]:
    """Write the parts that are missing; yield (number, series) of every part once it exists."""
    missing = [(number, count) for number, count in wanted if not _part(parts, number, count).exists()]
    yield from (part for part in wanted if part not in missing)
    if workers == 1 or len(missing) < 2:
        for number, count in missing:
            write_part(mixture, parts, number, count)
            yield number, count
        return
    context = multiprocessing.get_context("spawn")
    with (
        _single_threads(),
        ProcessPoolExecutor(min(workers, len(missing)), mp_context=context, initializer=_end_with_parent) as pool,
    ):
        running = {pool.submit(write_part, mixture, parts, *part): part for part in missing}
        try:
            while running:
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for job in finished:
                    job.result()
                    yield running.pop(job)
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Let this process end when the one that started it does, which a signal may end without a word to its pool."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    Thread(target=follow, daemon=True).start()


@contextmanager
def _single_threads() -> Iterator[None]:
    """Let processes started in the block compute with one thread each: every one keeps a core busy."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def write_part(mixture: Mixture, parts: Path, number: int, count: int) -> None:
    """Write series [number * PART, number * PART + count) as a corpus in the folder of the parts."""
    with _writer(mixture, _part(parts, number, count), None) as writer:
        for first in range(0, count, BLOCK):
            block = draw_block(mixture, (number * PART + first) // BLOCK)
            for row in range(min(BLOCK, count - first)):
                item = f"{mixture.kinds[block.generator[row]]}-{number * PART + first + row:09d}"
                writer.append(item, block.values[row], times=None if block.times is None else block.times[row])


def _join(mixture: Mixture, parts: Path, wanted: list[tuple[int, int]], out: Path, command: str | None) -> Manifest:
    """Write the corpus from its parts."""
    with _writer(mixture, out, command, locked=True) as writer:
        writer.extra_file("mixture.json", json.dumps(mixture.model_dump(mode="json"), indent=1) + "\n")
        for part in wanted:
            corpus = Corpus.open(_part(parts, *part))
            for series in range(corpus.num_series):
                writer.append(corpus.item_id(series), corpus.values(series), times=corpus.times(series))
    assert writer.manifest is not None
    return writer.manifest


def _writer(mixture: Mixture, out: Path, command: str | None, *, locked: bool = False) -> CorpusWriter:
    """Return the writer of a mixture's corpus, whose manifest names the covariates."""
    return CorpusWriter(out, **_layout(mixture), provenance=provenance(command), locked=locked)


def _layout(mixture: Mixture) -> dict[str, Any]:
    """Return the columns and the time axis of a mixture's corpus."""
    frequency = mixture.frequency
    if frequency is None:
        targets, past, known = mixture.layout.names
        columns = [*targets, *past, *known]
        return {"columns": columns, "time": "steps", "past_covariates": past, "known_covariates": known}
    if mixture.columns == "target":
        return {"columns": ["target"], "time": "regular", "freq": frequency.alias}
    found = [generator.markets for generator in mixture.generators if isinstance(generator, candles.Candles)]
    markets: set[candles.Market] = {market for markets in found for market in markets}
    in_sessions = candles.is_intraday(frequency) and markets != {"always"}
    return {
        "columns": candles.COLUMNS,
        "time": "stamps" if in_sessions else "regular",
        "freq": frequency.alias,
        "price_columns": candles.PRICES,
        "bars_per_session": candles.bars_per_session(frequency, markets),
    }
