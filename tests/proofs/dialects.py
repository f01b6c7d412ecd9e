"""Write random tables in random dialects, import each, and compare the corpus with the table.

    python tests/proofs/dialects.py [--dialects 200] [--first 0]

A failure is shown with the fewest choices that still fail. The exit code is 1 if any dialect is read differently.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.data.importers.dialects import FEATURES, Dialect, difference, draw, settle, write
from tests.data.importers.tables import Table

from foretrain.data.importers import import_corpus
from foretrain.data.store import Corpus
from foretrain.errors import DataError


def outcome(table: Table, dialect: Dialect) -> str | None:
    """What is wrong with the import of a table in a dialect; None if it is right."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        try:
            files = write(Path(folder) / "in", table, dialect)
            import_corpus(files if len(files) == 1 else [files[0].parent], out, **dialect.options)
            return difference(Corpus.open(out), table, dialect)
        except DataError as error:
            return f"refused: {str(error).replace(folder, '')}"
        except Exception:
            return f"crashed: {traceback.format_exc().splitlines()[-1]}"


def shortest(seed: int, dialect: Dialect) -> tuple[Dialect, str]:
    """The dialect with every choice undone whose undoing keeps the failure, and how that one fails."""
    rest, why = dialect, str(outcome(*draw(seed)))
    for name in dialect.choices:
        table, tried = settle(np.random.default_rng([seed, 1]), {**rest.choices, name: FEATURES[name][0]})
        failure = outcome(table, tried)
        if failure is not None and failure.partition(" ")[0] == why.partition(" ")[0]:
            rest, why = tried, failure
    return rest, why


def main() -> int:
    """Run the proof."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dialects", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    chosen = parser.parse_args()
    failed = 0
    for seed in range(chosen.first, chosen.first + chosen.dialects):
        table, dialect = draw(seed)
        if outcome(table, dialect) is None:
            continue
        failed += 1
        small, why = shortest(seed, dialect)
        print(f"{seed} {small}\n    {why[:300]}", flush=True)
    print(f"{chosen.dialects - failed} of {chosen.dialects} dialects are read as the table that was written")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
