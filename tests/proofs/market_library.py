"""Rebuild the layout of a stock pipeline from public bars, build a library of it, and count its summary by hand.

    python tests/proofs/market_library.py trainingdata --out library

FOLDER $MARKET_DATA (or --source) holds ohlcv_daily/us_stocknet_2012_2017.parquet and
ohlcv_daily/raw/Coinbase_BTCUSD_d.csv, as described in docs/results/market-library.md. Every sixth symbol goes to
unseen15/. Exit code 1 if a cell of data_summary.csv differs from what pandas counts in the files.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

import pandas as pd

COLUMNS = ["timestamp", "open", "high", "low", "close", "volume"]


def symbols(source: Path) -> dict[str, pd.DataFrame]:
    """Return the bars of each symbol in order of time."""
    stocks = pd.read_parquet(source / "us_stocknet_2012_2017.parquet").rename(columns=str.lower)
    found = {str(name).rpartition("/")[2]: own.sort_values("timestamp")[COLUMNS] for name, own in
             stocks.groupby("item_id")}  # fmt: skip
    coin = pd.read_csv(source / "raw" / "Coinbase_BTCUSD_d.csv", skiprows=1).rename(columns=str.lower)
    volume = next(name for name in coin if name.startswith("volume"))
    coin = coin.assign(timestamp=pd.to_datetime(coin["date"]), volume=coin[volume]).sort_values("timestamp")
    return {**found, "BTC-USD": coin[COLUMNS]}


def write_layout(folder: Path, bars: dict[str, pd.DataFrame]) -> None:
    """Write root files, train/, test/, unseen15/, a subset, cache/ and what is known of the symbols."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "cache").mkdir(parents=True)
    for number, (symbol, own) in enumerate(bars.items()):
        unseen = number % 6 == 5
        ends = {"train": (0, -60 if unseen else -30), "test": (-30, len(own))} | ({"val": (-60, -30)} if unseen else {})
        for part, (first, end) in ends.items():
            save(own.iloc[first:end], folder / ("unseen15" if unseen else "") / part, symbol)
        if not unseen:
            save(own, folder, symbol)
        if number < 5:
            save(own, folder / "puffer_subset", symbol)
    known = {"asset_class": "equity", "currency": "USD", "calendar": "XNYS"}
    stocks = {name: known for name in bars if "-" not in name}
    (folder / "asset_metadata.json").write_text(json.dumps(stocks, indent=1))


def save(bars: pd.DataFrame, folder: Path, symbol: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    bars.to_csv(folder / f"{symbol}.csv", index=False)


def count_by_hand(folder: Path) -> dict[str, dict[str, object]]:
    """Return the columns of the summary that the layout has, from its files alone."""
    counted: dict[str, dict[str, object]] = {}
    for place in (folder, folder / "unseen15"):
        for train in sorted((place / "train").glob("*.csv")):
            read = {part: pd.read_csv(place / part / train.name) for part in ("train", "val", "test")
                    if (place / part / train.name).exists()}  # fmt: skip
            read = {part: own.dropna(how="all", subset=COLUMNS[1:]) for part, own in read.items()}  # a row has a value
            held, test = pd.concat(read.values()), read["test"]
            counted[train.stem] = {
                "latest_date": held["timestamp"].max(), "total_rows": len(held), "train_rows": len(held) - len(test),
                "test_rows": len(test), "train_file": train.relative_to(folder).as_posix(),
                "test_file": (place / "test" / train.name).relative_to(folder).as_posix(),
                "first_date": held["timestamp"].min(), "test_from": test["timestamp"].min(),
                "set": "trained" if place == folder else "unseen",
            }  # fmt: skip
    return counted


def main() -> int:
    from foretrain.data.market.library import build

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--source", type=Path, default=Path(os.environ.get("MARKET_DATA", ".")))
    given = parser.parse_args()
    write_layout(given.folder, symbols(given.source / "ohlcv_daily"))
    print(build(given.folder, given.out).text())
    found = pd.read_csv(given.out / "data_summary.csv").set_index("symbol")
    by_hand = count_by_hand(given.folder)
    wrong = [f"{symbol}: in one of the two" for symbol in set(found.index) ^ set(by_hand)]
    for symbol in sorted(set(found.index) & set(by_hand)):
        wrong += [f"{symbol}: {key} is {found.loc[symbol, key]}, by hand {value}" for key, value in
                  by_hand[symbol].items() if found.loc[symbol, key] != value]  # fmt: skip
    print("\n".join(wrong) or f"data_summary.csv: {len(by_hand)} symbols, every cell as counted by hand")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
