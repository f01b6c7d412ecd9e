"""How long choosing items takes, of a corpus in memory with 100,000 of them.

    python -m tests.proofs.choose_items [--items N]

CPU seconds of making the training source, the least of five, beside those without any choice.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from foretrain.config import build
from foretrain.data.config import DataConfig
from foretrain.data.source import TrainingSource
from foretrain.data.store import Corpus


def seconds(corpus: Corpus, **options: Any) -> tuple[float, int]:
    """The CPU seconds of opening a source, and its number of series."""
    tree = {"corpora": [{"path": "unused"}], "context_length": 8, "prediction_length": 3, **options}
    times, found = [], 0
    for _ in range(5):
        began = time.process_time()
        found = TrainingSource(build(DataConfig, tree), 0, [corpus]).num_series
        times.append(time.process_time() - began)
    return min(times), found


def main() -> None:
    """Print a line for each way of choosing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    count = parser.parse_args().items
    values = np.arange(40, dtype=np.float32)[None]
    corpus = Corpus.from_arrays("many", [(f"S{k:06}", values, None) for k in range(count)], ["x"])
    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder) / "names.txt"
        names.write_text("\n".join(f"S{k:06}" for k in range(0, count, 2)))
        ways = {
            "all items": {},
            "holdout_fraction 0.1": {"holdout_fraction": 0.1},
            "a pattern": {"holdout_items": ["*7"]},
            "20 patterns": {"items": [f"S*{k:02}" for k in range(20)]},
            "a file of every second name": {"items": [f"file:{names}"]},
        }
        for way, options in ways.items():
            took, found = seconds(corpus, **options)
            print(f"{way:30} {took:.3f} s, {found:,} of {count:,} items")


if __name__ == "__main__":
    main()
