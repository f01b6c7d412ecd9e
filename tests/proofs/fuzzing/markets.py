"""Folders of symbols, and the libraries made of them, as subjects of fuzzing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fuzzing import mutations as change
from fuzzing.mutations import Mutate
from fuzzing.subjects import FIXTURES, Run, Subject

BUILDS = (
    ("data", "market", "build", "bars", "--out", "lib", "--update"),
    ("data", "market", "build", "bars", "--out", "new"),
    ("data", "market", "build", "bars", "--out", "new", "--unseen", "1", "--test-rows", "5"),
)
READS = (
    ("data", "market", "build", "bars", "--out", "lib", "--update"),
    ("data", "verify", "lib/B"),
    ("train", "lib.yaml", "output_dir=new", "--dry-run"),
    ("data", "import", "bars/train/A.csv", "--out", "lib/B", "--update"),
)
SEALED = ("data verify", "train --dry-run", "data import --update")  # cuts.json has its hash in the manifest


def _bars(seed: int, events: bool) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    close = np.round(100 * np.exp(rng.normal(0, 0.01, 90).cumsum()), 2)
    frame = pd.DataFrame({"timestamp": pd.bdate_range("2024-01-01", periods=90), "open": close, "high": close + 1})
    frame = frame.assign(low=close - 1, close=close, volume=rng.integers(1, 1000, 90))
    if events:
        frame = frame.assign(dividends=0.0, stock_splits=0.0)
        frame.loc[40, "dividends"], frame.loc[60, "stock_splits"] = 0.5, 2.0
    return frame


def subjects(base: Path, run: Run) -> Iterator[Subject]:
    """Write the template; yield its subjects."""
    root = base / "markets"
    for part in ("train", "test"):
        (root / "bars" / part).mkdir(parents=True)
    for seed, symbol in enumerate("AB"):
        frame = _bars(seed, events=symbol == "B")
        frame.to_csv(root / "bars" / f"{symbol}.csv", index=False)
        frame.iloc[:-20].to_csv(root / "bars" / "train" / f"{symbol}.csv", index=False)
        frame.iloc[-20:].to_csv(root / "bars" / "test" / f"{symbol}.csv", index=False)
    _bars(2, events=False).to_csv(root / "bars" / "BTC-USD.csv", index=False)
    record: dict[str, Any] = {"file": "A.csv", "class": "stock", "currency": "USD", "precision": {"price": 0.01}}
    facts = {"A": {"asset_class": "equity", "exchange": "XNAS", "default_trading_fee": 0.001}}
    (root / "bars" / "asset_metadata.json").write_text(json.dumps(facts))
    (root / "bars" / "provenance.json").write_text(json.dumps({"symbols": {"A": record}}))
    run(["data", "market", "build", "bars", "--out", "lib"], root)
    shutil.copy(FIXTURES / "chronos2" / "finished.yaml", root / "lib.yaml")
    tree = (root / "lib.yaml").read_text().replace("path: corpus", "path: lib/B")
    tree = tree.replace("validation_steps: 6", "validation_from: library").replace(
        "test_steps: 12", "test_from: library"
    )
    (root / "lib.yaml").write_text(tree)
    text: tuple[Mutate, ...] = (change.bytes_damaged, change.cells_damaged)
    trees: tuple[Mutate, ...] = (change.bytes_damaged, change.json_damaged, change.json_damaged)
    for name in ("A.csv", "train/A.csv", "test/B.csv"):
        yield Subject(f"market/{name}", "markets", f"bars/{name}", text, BUILDS, weight=2)
    for name in ("asset_metadata.json", "provenance.json"):
        yield Subject(f"market/{name}", "markets", f"bars/{name}", trees, BUILDS[:2])
    yield Subject("market/library.json", "markets", "lib/library.json", trees, READS[:1])
    yield Subject("market/cuts.json", "markets", "lib/B/cuts.json", trees, READS, sealed=SEALED)
    yield Subject("market/manifest.json", "markets", "lib/B/manifest.json", trees, READS)
