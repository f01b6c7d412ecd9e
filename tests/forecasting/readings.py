"""The ways from a file to a forecast: they must agree to the last bit, on the same threads.

forecast FILE  =  forecast_df(read_table(FILE))  =  data import FILE, forecast CORPUS
forecast_df(pd.read_csv(FILE))  is equal to them, or refused with an error that names read_table
"""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

import foretrain
from foretrain import cli
from foretrain.errors import ForetrainError

MODEL = Path(__file__).parents[1] / "golden" / "chronos2" / "model"
HORIZON = 4


class Refused(Exception):
    """A way that ended with an error for users; the text is what it said."""


@cache
def predictor() -> Any:
    """The model as the command loads it."""
    return foretrain.load(MODEL, device="cpu")


def run(*arguments: object) -> None:
    """Run the command in this process. Raises Refused for exit code 2."""
    old, said = sys.argv, io.StringIO()
    sys.argv = ["foretrain", *map(str, arguments)]
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            cli.main()
    except SystemExit as leave:
        if leave.code == 2:
            raise Refused(said.getvalue().strip()) from None
        assert not leave.code, f"exit code {leave.code}: {said.getvalue()}"
    finally:
        sys.argv = old


def flags(options: Mapping[str, Any]) -> list[str]:
    """Options of an import as flags of the command."""
    found = list[str]()
    for name, value in options.items():
        found += [f"--{name.replace('_', '-')}", ",".join(value) if isinstance(value, tuple) else str(value)]
    return found


class Ways:
    """A file, the options of its reading, the column to forecast, and a folder for results."""

    def __init__(self, path: Path, options: Mapping[str, Any], target: str, folder: Path) -> None:
        self.path, self.options, self.target, self.folder = path, options, target, folder

    def from_corpus(self) -> pd.DataFrame:
        """`data import FILE`, then `forecast CORPUS`."""
        run("data", "import", self.path, "--out", self.folder / "corpus", *flags(self.options))
        return self._command(self.folder / "corpus", "corpus.parquet")

    def from_file(self) -> pd.DataFrame:
        """`forecast FILE`."""
        return self._command(self.path, "file.parquet", *flags(self.options))

    def from_table(self) -> pd.DataFrame:
        """`forecast_df(read_table(FILE))`."""
        try:
            table = foretrain.read_table(self.path, **self.options)
            found = predictor().forecast_df(table, prediction_length=HORIZON, target=self.target)
        except ForetrainError as error:
            raise Refused(str(error)) from None
        found.to_parquet(self.folder / "table.parquet", index=False)
        return pd.read_parquet(self.folder / "table.parquet")

    def _command(self, path: Path, out: str, *more: str) -> pd.DataFrame:
        place = self.folder / out
        run("forecast", MODEL, path, "--prediction-length", HORIZON, "--target", self.target, "--out", place, *more)
        return pd.read_parquet(place)

    def disagreement(self) -> str | None:
        """The first difference between the three ways; None if they are equal, or refuse all."""
        corpus = _outcome(self.from_corpus)
        for name, way in (("forecast FILE", self.from_file), ("forecast_df(read_table(FILE))", self.from_table)):
            found = _outcome(way)
            if isinstance(found, str) != isinstance(corpus, str):
                return f"{name}: {_short(found)}; import and forecast CORPUS: {_short(corpus)}"
            if isinstance(found, pd.DataFrame) and isinstance(corpus, pd.DataFrame) and not found.equals(corpus):
                return f"{name} differs from import and forecast CORPUS: {_first(found, corpus)}"
        return None

    def careless(self, columns: Mapping[str, str]) -> str | None:
        """What is wrong with forecast_df(pd.read_csv(FILE)); None if it is right, refused, or not read by pandas.

        columns: id_column and timestamp_column as the file calls them. Ids are not compared: pandas makes 7 of 007.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pandas' own, about types and dates
                frame = pd.read_csv(self.path)
        except Exception:  # several files in an archive, another encoding, lines of several widths
            return None
        target = columns.get("target", self.target)
        given = {key: name for key, name in columns.items() if key != "target"}
        try:
            found = predictor().forecast_df(frame, prediction_length=HORIZON, target=target, **given)
        except ForetrainError as error:
            return None if "read_table" in str(error) else f"a refusal that does not name read_table: {error}"
        read = self.from_file()
        same = sorted(map(tuple, found.iloc[:, 3:].to_numpy())) == sorted(map(tuple, read.iloc[:, 3:].to_numpy()))
        return None if same else f"forecast_df(pd.read_csv(FILE)) differs from forecast FILE: {_first(found, read)}"


def _outcome(way: Callable[[], pd.DataFrame]) -> pd.DataFrame | str:
    try:
        return way()
    except Refused as refusal:
        return str(refusal)


def _short(outcome: pd.DataFrame | str) -> str:
    return f"refused ({outcome[-200:]})" if isinstance(outcome, str) else f"{len(outcome)} rows"


def _first(one: pd.DataFrame, other: pd.DataFrame) -> str:
    if list(one.columns) != list(other.columns) or len(one) != len(other):
        return f"{one.shape} {list(one.columns)[:4]} and {other.shape} {list(other.columns)[:4]}"
    if list(one.dtypes) != list(other.dtypes):
        return f"types {list(map(str, one.dtypes))[:4]} and {list(map(str, other.dtypes))[:4]}"
    unequal = [not a.equals(b) for (_, a), (_, b) in zip(one.iterrows(), other.iterrows(), strict=True)]
    row = unequal.index(True) if any(unequal) else 0
    return f"{one.iloc[row, :5].tolist()} and {other.iloc[row, :5].tolist()}"
