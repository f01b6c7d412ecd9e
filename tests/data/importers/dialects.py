"""Dialects: one table written as files the way people and programs write them. Every file must be read as that table.

FEATURES lists what a dialect chooses. `draw` chooses, and gives up the choices that exclude each other; `write` writes
the files; `difference` compares a corpus with the table that was written.
"""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from tests.data.importers.tables import Item, Number, Table, random_table

from foretrain.data.store import Corpus

FEATURES: dict[str, tuple[str, ...]] = {
    "layout": ("long", "files", "panel", "wide", "wide by option", "yfinance"),
    "container": ("plain", "gz", "zip", "parquet"),
    "dates": ("iso", "iso T", "Z", "offset", "slashes", "compact", "dots", "day first", "month first", "am pm",
              "31-Dec-10", "31-Dec-2010", "Dec 31, 2010", "12/31/10", "epoch s", "epoch ms", "epoch us", "epoch ns",
              "date and time", "parts", "2010-12", "2010M12", "Dec 2010", "year and month"),
    "separator": (",", ";", "\t", "|"),
    "decimal": (".", ","),
    "thousands": ("", ",", ".", "'", " ", "\u00a0", "\u202f", "indian"),
    "mark": ("", "$", "€ after", "EUR after", "USD before", "%", " %"),
    "minus": ("-", "()", "\u2212"),
    "missing": ("", "NA", "NaN", "null", "n.a.", "-", "#N/A", ".", "?"),
    "encoding": ("utf-8", "utf-8-sig", "utf-16", "cp1252"),
    "newline": ("\n", "\r\n", "none at the end"),
    "quotes": ("where needed", "all"),
    "header": ("plain", "upper", "spaces", "angle", "chinese"),
    "above": ("nothing", "one line", "three lines", "sep="),
    "order": ("ascending", "descending", "shuffled"),
    "junk": ("none", "index", "trailing", "remarks", "unnamed"),
    "ids": ("item_id", "Symbol", "unique_id", "by option", "two", "three"),
    "text": ("no", "yes"),
}  # fmt: skip
_WEIGHTS = {"layout": (16, 8, 3, 3, 2, 3), "container": (12, 4, 4, 3)}  # how often a choice is dealt
SET = 40
SUITE = range(16 * SET, 17 * SET)  # in this set every choice of every feature occurs
DATE_NAME = {"epoch s": "timestamp", "epoch ms": "open_time", "epoch us": "ts", "epoch ns": "timestamp", "iso T": "ds"}
_INTRADAY = {"Z", "offset", "am pm", "date and time"}
_DAILY = {"31-Dec-10", "31-Dec-2010", "Dec 31, 2010", "12/31/10"}
_MONTHLY = {"2010-12", "2010M12", "Dec 2010", "year and month"}
_CHINESE = {"open": "开盘", "high": "最高", "low": "最低", "close": "收盘", "volume": "成交量", "date": "日期"}
_KEY_NAMES = {"by option": ("Filiale",), "two": ("Store", "Dept"), "three": ("region", "store", "family")}


@dataclass(frozen=True)
class Dialect:
    """One choice of every feature, and the options of the import that go with it."""

    choices: dict[str, str]
    options: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, feature: str) -> str:
        return self.choices[feature]

    def target(self, table: Table) -> str:
        """A numeric column by its name in the corpus."""
        return "close" if table.kind == "ohlcv" else column_name(table.numbers[0], table, self)

    def __str__(self) -> str:
        usual = {name: values[0] for name, values in FEATURES.items()}
        return ", ".join(f"{name} {value!r}" for name, value in self.choices.items() if value != usual[name]) or "usual"


def draw(seed: int) -> tuple[Table, Dialect]:
    """Dialect number `seed`, and a random table that it can hold.

    The choices of a feature are dealt out to sets of 40 dialects, so that each of them occurs in a set, unless another
    choice of its dialect excludes it.
    """
    deal = np.random.default_rng(seed // SET)
    choices = {}
    for name, values in FEATURES.items():
        dealt = [
            value
            for value, times in zip(values, _WEIGHTS.get(name, (1,) * len(values)), strict=False)
            for _ in range(times)
        ]
        dealt = [dealt[i % len(dealt)] for i in range(SET)]
        deal.shuffle(dealt)
        choices[name] = dealt[seed % SET]
    return settle(np.random.default_rng([seed, 1]), choices)


def settle(rng: np.random.Generator, choices: dict[str, str]) -> tuple[Table, Dialect]:
    """Give up the choices that exclude each other, the rarer form first, and draw a table for the rest."""
    c = dict(choices)

    def give_up(*names: str) -> None:
        c.update({name: FEATURES[name][0] for name in names})

    wide = c["layout"] in ("wide", "wide by option")
    if c["layout"] == "yfinance":
        give_up("decimal", "thousands", "mark", "minus", "header", "above", "junk", "text", "container")
        c["dates"] = "iso" if c["dates"] not in ("iso", "Z", "offset") else c["dates"]
        c["missing"] = ""
    if c["layout"] in ("panel", "yfinance") or wide:
        give_up("text", "header", "ids" if c["layout"] != "wide" or c["ids"] in _KEY_NAMES else "text", "junk")
    if wide:
        give_up("above", "container")
        c["dates"] = c["dates"] if c["dates"] in ("iso", "slashes", "dots", "2010-12") else "iso"
    if c["container"] == "parquet":
        give_up(
            "encoding", "newline", "quotes", "above", "separator", "decimal", "thousands", "mark", "minus", "missing"
        )
        c["junk"] = "none" if c["junk"] in ("trailing", "unnamed") else c["junk"]
    if c["layout"] == "files":
        give_up("ids")
    if c["dates"] in _MONTHLY and c["dates"] != "2010-12":
        c["layout"] = c["layout"] if c["layout"] in ("long", "files") else "long"
    if c["header"] == "chinese" and c["dates"] in ("date and time", "parts", "year and month"):
        give_up("header")
    if c["encoding"] == "cp1252":
        c["thousands"] = "\u00a0" if c["thousands"] == "\u202f" else c["thousands"]
        c["minus"] = "-" if c["minus"] == "\u2212" else c["minus"]
        c["header"] = "plain" if c["header"] == "chinese" else c["header"]
    if c["decimal"] == "," and c["thousands"] in (",", "indian"):
        c["decimal"] = "."
    if c["decimal"] == "." and c["thousands"] == ".":
        c["decimal"] = ","
    if c["above"] == "sep=" and c["separator"] == "\t":
        c["separator"] = ";"
    kind = _kind(rng, c)
    if c["header"] in ("angle", "chinese"):
        c["ids"] = c["ids"] if c["layout"] == "files" else "by option" if c["header"] == "chinese" else "Symbol"
    if kind != "general":
        give_up("text")
    keys = {"two": 2, "three": 3}.get(c["ids"], 1)
    accent = c["encoding"] != "utf-8"
    table = random_table(rng, kind, _step(rng, c["dates"]), keys=keys, text=c["text"] == "yes", accent=accent)
    return table, Dialect(c, _options(c))


def _kind(rng: np.random.Generator, c: dict[str, str]) -> str:
    if c["layout"] in ("panel", "wide", "wide by option"):
        return "single"
    if c["layout"] == "yfinance" or c["header"] in ("angle", "chinese"):
        return "ohlcv"
    if c["text"] == "yes" or c["minus"] != "-" or c["missing"] != "":
        return "general"
    return str(rng.choice(["ohlcv", "general"]))


def _step(rng: np.random.Generator, dates: str) -> str:
    if dates in _MONTHLY:
        return "MS"
    if dates in _DAILY:
        return "D"
    return str(rng.choice(["h", "15min"] if dates in _INTRADAY else ["D", "h"] if dates == "parts" else
                          ["D", "h", "15min"]))  # fmt: skip


def _options(c: dict[str, str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if c["encoding"] == "cp1252":
        options["encoding"] = "cp1252"
    if c["layout"] == "panel":
        options["format"] = "panel"
    if c["layout"] == "wide by option":
        options["format"] = "wide"
    if c["ids"] in _KEY_NAMES and c["layout"] in ("long", "wide by option"):
        options["id_column"] = ",".join(_KEY_NAMES[c["ids"]])
    return options


# Cells


def number_text(value: float, number: Number, dialect: Dialect) -> str:
    """The cell of a number. Currency signs mark prices and loads, percent signs mark ratios; volumes have none."""
    if np.isnan(value):
        return dialect["missing"]
    text = f"{abs(value):.{number.digits}f}"
    whole, _, decimals = text.partition(".")
    whole = _grouped(whole, dialect["thousands"])
    text = whole + (dialect["decimal"] + decimals if decimals else "")
    mark, percent = dialect["mark"], number.name == "ratio"
    if percent == ("%" in mark) and mark and number.name not in ("volume", "temperature"):
        text = {"$": f"${text}", "€ after": f"{text} €", "EUR after": f"{text} EUR", "USD before": f"USD {text}"}.get(
            mark, text + mark
        )
    if value >= 0:
        return text
    return f"({text})" if dialect["minus"] == "()" else dialect["minus"] + text


def _grouped(whole: str, thousands: str) -> str:
    if thousands != "indian":
        return f"{int(whole):,}".replace(",", thousands)
    head, tail = whole[:-3], whole[-3:]
    while len(head) > 2:
        head, tail = head[:-2], head[-2:] + "," + tail
    return f"{head},{tail}" if head else tail


def stamp_cells(time: int, step: str, dates: str) -> list[str]:
    """The cells of a time stamp, one or several."""
    day = step in ("D", "MS")
    moment = datetime(1970, 1, 1) + timedelta(microseconds=int(time))
    clock = "" if day else " %H:%M"
    patterns = {
        "iso": "%Y-%m-%d" + (clock and " %H:%M:%S"),
        "iso T": "%Y-%m-%dT%H:%M:%S",
        "Z": "%Y-%m-%dT%H:%M:%SZ",
        "slashes": "%Y/%m/%d" + clock,
        "compact": "%Y%m%d" + (clock and " %H%M%S"),
        "dots": "%d.%m.%Y" + clock,
        "day first": "%d/%m/%Y" + clock,
        "month first": "%m/%d/%Y" + clock,
        "am pm": "%m/%d/%Y %I:%M:%S %p",
        "31-Dec-10": "%d-%b-%y",
        "31-Dec-2010": "%d-%b-%Y",
        "Dec 31, 2010": "%b %d, %Y",
        "12/31/10": "%m/%d/%y",
        "2010-12": "%Y-%m",
        "2010M12": "%YM%m",
        "Dec 2010": "%b %Y",
    }
    if dates in patterns:
        return [moment.strftime(patterns[dates])]
    if dates == "date and time":
        return [moment.strftime("%Y.%m.%d"), moment.strftime("%H:%M")]
    if dates == "year and month":
        return [str(moment.year), str(moment.month)]
    if dates == "parts":
        return [str(moment.year), str(moment.month), str(moment.day), *([] if day else [str(moment.hour)])]
    if dates == "offset":
        local = moment.replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=2)))
        return [local.isoformat(sep=" ")]
    return [str(int(time) * 1000 if dates == "epoch ns" else int(time) // {"s": 10**6, "ms": 1000, "us": 1}[dates[6:]])]


def stamp_names(step: str, dates: str) -> list[str]:
    """The header of the time stamp's columns."""
    if dates == "date and time":
        return ["Date", "Time"]
    if dates == "year and month":
        return ["Year", "Month"]
    if dates == "parts":
        return ["year", "month", "day", *(["hour"] if step == "h" else [])]
    return [DATE_NAME.get(dates, "month" if step == "MS" else "date")]


# Tables of cells


Rows = list[list[str]]


def long_rows(table: Table, dialect: Dialect, *, keyed: bool = True) -> tuple[list[str], Rows]:
    """Header and rows of a long table, in the order of the dialect."""
    numbers = table.numbers
    keys = [] if not keyed else list(_KEY_NAMES.get(dialect["ids"], (dialect["ids"],)))
    header = [*keys, *stamp_names(table.step, dialect["dates"]), *(number.name for number in numbers)]
    header = [_styled(name, dialect, key=i < len(keys)) for i, name in enumerate(header)]
    header += [table.text] if table.text else []
    rows: Rows = []
    for item in table.items:
        for t, time in enumerate(item.times):
            cells = [number_text(item.values[v, t], number, dialect) for v, number in enumerate(numbers)]
            stamps = stamp_cells(time, table.step, dialect["dates"])
            rows.append([*(item.keys if keyed else ()), *stamps, *cells, *item.texts[t : t + 1]])
    return _with_junk(header, _ordered(rows, dialect), dialect)


def _styled(name: str, dialect: Dialect, *, key: bool) -> str:
    style = dialect["header"]
    if style == "chinese":
        return _CHINESE.get(name, name)
    if style == "angle":
        return f"<{'TICKER' if key else 'VOL' if name == 'volume' else name.upper()}>"
    if key:
        return name
    return {"upper": name.upper(), "spaces": f" {name} "}.get(style, name)


def _ordered(rows: Rows, dialect: Dialect) -> Rows:
    if dialect["order"] == "descending":
        return rows[::-1]
    if dialect["order"] == "shuffled":
        return [rows[i] for i in np.random.default_rng(len(rows)).permutation(len(rows))]
    return rows


def _with_junk(header: list[str], rows: Rows, dialect: Dialect) -> tuple[list[str], Rows]:
    """Add a column that is no data: the saved index of a frame, an empty one, or remarks that hardly repeat."""
    if dialect["junk"] == "index":
        return ["", *header], [[str(i), *row] for i, row in enumerate(rows)]
    if dialect["junk"] == "trailing":
        return [*header, ""], [[*row, ""] for row in rows]
    if dialect["junk"] == "unnamed":
        return [*header[:-1], "", header[-1]], [[*row[:-1], "", row[-1]] for row in rows]
    if dialect["junk"] == "remarks":
        return [*header, "remark"], [[*row, f"seen by shift {crc32(repr(row).encode()):x}"] for row in rows]
    return header, rows


def _panel_rows(table: Table, dialect: Dialect) -> tuple[list[str], Rows]:
    """A row a time, a column an item."""
    header = [*stamp_names(table.step, dialect["dates"]), *("/".join(item.keys) for item in table.items)]
    cells = _by_time(table, [(item, 0) for item in table.items], dialect)
    return _with_junk(header, _ordered(cells, dialect), dialect)


def _by_time(table: Table, series: Sequence[tuple[Item, int]], dialect: Dialect) -> Rows:
    """Rows of all times, blank where a series has none."""
    times = sorted({int(time) for item, _ in series for time in item.times})
    at = [dict(zip(item.times.tolist(), item.values[v], strict=True)) for item, v in series]
    return [
        [
            *stamp_cells(time, table.step, dialect["dates"]),
            *(
                number_text(held[time], table.numbers[v], dialect) if time in held else dialect["missing"]
                for held, (_, v) in zip(at, series, strict=True)
            ),
        ]
        for time in times
    ]


def _wide_rows(table: Table, dialect: Dialect) -> tuple[list[str], Rows]:
    """A row an item, a column a time."""
    panel = _by_time(table, [(item, 0) for item in table.items], dialect)
    panel = panel[::-1] if dialect["order"] == "descending" else panel
    name = _KEY_NAMES.get(dialect["ids"], (dialect["ids"],))[0]
    columns = list(zip(*panel, strict=True))
    rows = [["/".join(item.keys), *cells] for item, cells in zip(table.items, columns[1:], strict=True)]
    return [name, *columns[0]], rows


def _yfinance_rows(table: Table, dialect: Dialect) -> tuple[list[str], Rows]:
    """Three header rows: the names of the prices, the items, the name of the dates."""
    sides = sorted((number.name, v) for v, number in enumerate(table.numbers))
    series = [(item, v) for _, v in sides for item in table.items]
    header = ["Price", *(name.capitalize() for name, _ in sides for _ in table.items)]
    second = ["Ticker", *("/".join(item.keys) for item, _ in series)]
    third = ["Datetime" if table.step != "D" else "Date", *("" for _ in series)]
    return header, [second, third, *_ordered(_by_time(table, series, dialect), dialect)]


# Files


def write(folder: Path, table: Table, dialect: Dialect) -> list[Path]:
    """Write the table; return the files to import."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    if dialect["layout"] == "files":
        for item in table.items:
            files["/".join(item.keys)] = long_rows(replace(table, items=(item,)), dialect, keyed=False)
    else:
        shape = {"long": long_rows, "panel": _panel_rows, "yfinance": _yfinance_rows}.get(dialect["layout"], _wide_rows)
        files["data"] = shape(table, dialect)
    if dialect["container"] == "parquet":
        return [_parquet(folder / f"{name}.parquet", *cells, dialect) for name, cells in files.items()]
    contents = {f"{name}.csv": _encoded(*cells, dialect) for name, cells in files.items()}
    if dialect["container"] == "zip":
        with zipfile.ZipFile(folder / "data.zip", "w") as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
        return [folder / "data.zip"]
    for name, content in contents.items():
        packed = dialect["container"] == "gz"
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    return sorted(folder.iterdir())


def _encoded(header: list[str], rows: Rows, dialect: Dialect) -> bytes:
    text = io.StringIO()
    separator, end = dialect["separator"], "\r\n" if dialect["newline"] == "\r\n" else "\n"
    above = {"one line": ["Exported by the measuring desk"], "sep=": [f"sep={separator}"],
             "three lines": ["Quarterly report", "source: the measuring desk", "all values as observed"]}  # fmt: skip
    for line in above.get(dialect["above"], []):
        text.write(line + end)
    quoting = csv.QUOTE_ALL if dialect["quotes"] == "all" else csv.QUOTE_MINIMAL
    writer = csv.writer(text, delimiter=separator, lineterminator=end, quoting=quoting)
    writer.writerows([header, *rows])
    whole = text.getvalue()
    return (whole if dialect["newline"] == end else whole.removesuffix(end)).encode(dialect["encoding"])


def _parquet(path: Path, header: list[str], rows: Rows, dialect: Dialect) -> Path:
    """Write cells as numbers and time stamps where they are plain ones, else as text."""
    import pandas as pd

    frame = pd.DataFrame(rows, columns=pd.Index(header))
    keys = [] if dialect["layout"] == "files" else list(_KEY_NAMES.get(dialect["ids"], (dialect["ids"],)))
    for name in frame.columns:
        if str(name).lower().strip("< >") in (*map(str.lower, keys), "ticker", "weather", "remark"):
            continue
        if dialect["dates"] in ("iso", "iso T") and str(name).strip().lower().strip("<>") in ("date", "ds", "日期"):
            frame[name] = pd.to_datetime(frame[name])
            continue
        try:
            frame[name] = pd.to_numeric(frame[name].replace("", None))
        except ValueError:
            continue  # dates in another spelling
    if dialect["junk"] == "index":
        frame = frame.set_index("")
        frame.index.name = None
        pyarrow.parquet.write_table(pa.Table.from_pandas(frame), path)  # keeps the index as a column
        return path
    frame.to_parquet(path, index=False)
    return path


# What must be read


def item_name(item: Item) -> str:
    """The id of an item in the corpus: its keys, joined."""
    return "/".join(item.keys)


def column_name(number: Number, table: Table, dialect: Dialect) -> str:
    """The name of a column in the corpus: standard names of a market table, else the file's own."""
    if table.kind == "general" and dialect["header"] == "upper":
        return number.name.upper()
    return number.name


def file_columns(table: Table, dialect: Dialect) -> dict[str, str]:
    """id_column, timestamp_column and target of a long table, by their names in the file."""
    if dialect["layout"] not in ("long", "files"):
        return {}
    found = {"timestamp_column": _styled(stamp_names(table.step, dialect["dates"])[0], dialect, key=False)}
    if dialect["layout"] == "long":
        keys = _KEY_NAMES.get(dialect["ids"], (dialect["ids"],))
        found["id_column"] = _styled(keys[0], dialect, key=True)
    target = "close" if table.kind == "ohlcv" else table.numbers[0].name
    return found | {"target": _styled(target, dialect, key=False)}


def difference(corpus: Corpus, table: Table, dialect: Dialect) -> str | None:
    """The first difference between a corpus and the table that was written, None if they are the same."""
    return next(_differences(corpus, table, dialect), None)


def _differences(corpus: Corpus, table: Table, dialect: Dialect) -> Iterator[str]:
    held = {corpus.item_id(k): k for k in range(corpus.num_series)}
    wanted = {item_name(item): item for item in table.items}
    if held.keys() != wanted.keys():
        yield f"items {sorted(held)}, not {sorted(wanted)}"
        return
    names = [column_name(number, table, dialect) for number in table.numbers] + ([table.text] if table.text else [])
    if sorted(corpus.columns) != sorted(names):
        yield f"columns {corpus.columns}, not {names}"
        return
    for name, item in wanted.items():
        times, values = corpus.times(held[name]), np.asarray(corpus.values(held[name]))
        if times is None or not np.array_equal(times, item.times):
            yield f"item {name!r}: times {times if times is None else times[:2]}, not {item.times[:2]}"
            return
        for column, row in zip(names, item.values, strict=False):
            read = values[corpus.columns.index(column)]
            if not np.allclose(read, row.astype(np.float32), rtol=2e-7, atol=0, equal_nan=True):
                at = int(np.argmax(~np.isclose(read, row.astype(np.float32), rtol=2e-7, atol=0, equal_nan=True)))
                yield f"item {name!r}, column {column!r}, row {at}: {read[at]!r}, not {row[at]!r}"
        if table.text:
            kinds = next(c.categories for c in corpus.manifest.columns if c.name == table.text) or ()
            read = [kinds[int(code)] for code in values[corpus.columns.index(table.text)]]
            if read != list(item.texts):
                yield f"item {name!r}: categories {read[:3]}, not {item.texts[:3]}"
