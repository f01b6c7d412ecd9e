"""Numbers as people and programs write them: currencies, percent, units, signs, thousands and decimal marks.

A mark is a mark only if what remains is a number: "A1", "1-2", "2020-01" and "1.2.3" are no numbers. One format has to
fit the whole column; if two fit and give different numbers, or if cells have different currencies, it is an error.

# T cells of a column
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from foretrain.data.windows import Mask

pc: Any = pyarrow.compute  # its functions are created at import, which type checkers cannot see
DoubleArray = npt.NDArray[np.float64]


class BadCell(Exception):
    """A cell that no interpretation of its column allows. row counts from 0."""

    def __init__(self, row: int, text: str, why: str = "text in a number column") -> None:
        super().__init__(why)
        self.row, self.text, self.why = row, text, why


# Codes that are English words or names of programs in capitals (ALL, TOP, PEN, PHP, MOP) are not among them.
_CODES = {
    **{name: "$" for name in ("$", "usd", "us$", "dollar", "dollars")},
    **{name: "€" for name in ("€", "eur", "euro", "euros")},
    **{name: "£" for name in ("£", "gbp", "stg")},
    **{name: "₹" for name in ("₹", "inr", "rs", "rs.")},
    **{name: "₩" for name in ("₩", "krw", "원")},
    **{name: "₽" for name in ("₽", "rub", "\u0440\u0443\u0431", "\u0440\u0443\u0431.", "\u0440.")},
    **{name: "₪" for name in ("₪", "ils", "nis")},
    **{name: "₺" for name in ("₺", "tl")},
    **{name: "₫" for name in ("₫", "vnd")},
    **{name: "฿" for name in ("฿", "thb")},
    **{name: "₴" for name in ("₴", "uah")},
    **{name: "chf" for name in ("chf", "sfr", "sfr.", "fr.")},
    **{name: "brl" for name in ("brl", "r$")},
    **{name: "cad" for name in ("cad", "ca$", "c$")},
    **{name: "aud" for name in ("aud", "au$", "a$")},
    **{name: "nzd" for name in ("nzd", "nz$")},
    **{name: "hkd" for name in ("hkd", "hk$")},
    **{name: "sgd" for name in ("sgd", "s$", "sg$")},
    **{name: "twd" for name in ("twd", "nt$", "ntd")},
    **{name: "mxn" for name in ("mxn", "mx$", "mex$")},
    **{name: "pln" for name in ("pln", "zł")},
    **{name: "czk" for name in ("czk", "kč")},
    **{name: "huf" for name in ("huf", "ft")},
    **{name: "idr" for name in ("idr", "rp", "rp.")},
    **{name: "myr" for name in ("myr",)},
    **{name: "cny" for name in ("cny", "rmb", "cnh", "元", "cn¥")},
    **{name: "jpy" for name in ("jpy", "円", "jp¥")},
    **{name: "kr" for name in ("kr", "kr.")},
    **{name: name for name in ("sek", "nok", "dkk", "isk", "ron", "lei", "bgn", "zar", "clp", "ars", "sar", "aed")},
    **{name: name for name in ("btc", "eth", "usdt", "usdc", "busd", "xbt", "gbx")},
}
_SYMBOLS = "\N{YEN SIGN}¢₿₦₱₡₲₵₸₼₾﷼֏৳"  # currency signs that stand for themselves
_UNITS = {
    "k": 1e3, "tsd": 1e3, "tsd.": 1e3, "m": 1e6, "mn": 1e6, "mln": 1e6, "mln.": 1e6, "mio": 1e6, "mio.": 1e6,
    "million": 1e6, "b": 1e9, "bn": 1e9, "bln": 1e9, "mrd": 1e9, "mrd.": 1e9, "billion": 1e9,
    "万": 1e4, "萬": 1e4, "亿": 1e8, "億": 1e8,
}  # fmt: skip


def _one_of(texts: Any) -> str:
    ordered = sorted(texts, key=lambda text: (-len(text), text))
    return "|".join(text.replace("$", r"\$").replace(".", r"\.") for text in ordered)


_CURRENCY = f"(?i:{_one_of([*_CODES, *_SYMBOLS])})"
_FEW = 16  # cells that tell most columns of text
_LONG = 1_000  # cells of which reading a few first saves time where they are text
_EXPONENT = r"(?:[eE][-+]?\d+)?"
_SPELLING = (
    rf"^(?:(?P<front>{_CURRENCY})? ?(?P<open>\())? ?(?P<sign>[-+])? ?"
    rf"(?P<before>{_CURRENCY})?(?P<gap> )?(?P<inner>[-+])? ?"
    rf"(?P<body>\d(?:[\d.,' ]*[\d.])?{_EXPONENT}|[.,]\d+{_EXPONENT}|(?i:inf(?:inity)?))"
    rf"(?P<space> )?(?P<unit>(?i:{_one_of(_UNITS)}))? ?(?P<percent>[%‰])? ?(?P<after>{_CURRENCY})?"
    rf" ?(?P<trail>-)?(?:(?P<close>\)) ?(?P<outer>%)?(?P<back>{_CURRENCY})?)?$"
)
_FEWEST_TICKS = 4  # different cells; one of eight numbers between 100'000 and 999'999 looks like a price in 32nds
_SIDES = ("front", "before", "after", "back")  # where a currency may be: $(5), ($5), (5 USD), (5) USD
_SIMPLE = rf"^[-+]?(?:\d[\d.,]*|[.,]\d+){_EXPONENT}(?: ?%)?$"
_INVISIBLE = r"[\x{200b}-\x{200f}\x{202a}-\x{202e}\x{2060}-\x{2064}\x{feff}]"  # left by web pages and by Excel
_FULL_WIDTH = str.maketrans(
    {chr(code + 0xFEE0): chr(code) for code in range(0x21, 0x7F)}
    | dict(zip("\uffe0\uffe1\uffe5\uffe6\u066b\u066c\u066a", "¢£\N{YEN SIGN}₩.,%", strict=True))  # Arabic marks as well
)
_TICKS = r"^\d{2,3}'(?:[0-2]\d|3[01])[0257]$"  # 120'165: 120 and 16.5 of 32 parts, as bonds are quoted


def _format(group: str, decimal: str) -> tuple[str, str]:
    """Return the pattern of numbers whose thousands, if marked, have the mark `group`, and the mark."""
    whole = rf"\d+|[1-9]\d{{0,2}}(?:[{group}]\d{{3}})+" if group else r"\d+"
    if group == ",":  # 1,10,10,500 in India
        whole += r"|[1-9]\d?(?:,\d\d)+,\d{3}"
    fraction = rf"{decimal}\d*" if decimal == r"\." else rf"{decimal}\d+"
    return rf"^(?:(?:(?:{whole})(?:{fraction})?|{decimal}\d+){_EXPONENT}|(?i:inf(?:inity)?))$", group


# A blank or an apostrophe marks thousands; a comma or a dot marks either, which decides between the two families.
_FORMATS = {
    ".": tuple(_format(group, r"\.") for group in ("", ",", " ", "'")),
    ",": tuple(_format(group, ",") for group in ("", ".", " ", "'")),
}
_NUMBER = "|".join(pattern for family in _FORMATS.values() for pattern, _ in family)


def tidy(cells: pa.Array) -> pa.Array:
    """Return cells with one kind of minus, blank, apostrophe and digit, without what Excel adds to keep a text."""
    if matches(cells, r"[^\x00-\x7f]").any():
        cells = pa.array([text and _latin(text) for text in cells.to_pylist()], pa.string())
    cells = pc.replace_substring_regex(cells, pattern=_INVISIBLE, replacement="")
    cells = pc.replace_substring_regex(cells, pattern=r"[\p{Zs}\t]+", replacement=" ")
    cells = pc.replace_substring_regex(cells, pattern=r"[\x{2212}\x{fe63}]", replacement="-")
    cells = pc.replace_substring_regex(cells, pattern=r"^(\()?[\x{2012}\x{2013}]", replacement=r"\1-")
    cells = pc.replace_substring_regex(cells, pattern=r"[\x{2018}\x{2019}\x{02bc}\x{00b4}`]", replacement="'")
    cells = pc.replace_substring_regex(cells, pattern=r"(\d),--?( ?[^\d]*)$", replacement=r"\1,0\2")  # 1.234,- €
    cells = pc.replace_substring_regex(cells, pattern=r'^="(.*)"$', replacement=r"\1")
    cells = pc.replace_substring_regex(cells, pattern=r'^"(.*)"$', replacement=r"\1")
    cells = pc.replace_substring_regex(cells, pattern=r"^'(.*?)'?$", replacement=r"\1")
    return pc.utf8_trim_whitespace(cells)


def _latin(text: str) -> str:
    """Return a text with Latin digits and marks in the place of full-width ones and of those of other scripts."""
    if text.isascii():
        return text
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text.translate(_FULL_WIDTH))


def matches(cells: pa.Array, pattern: str) -> Mask:
    """Return a mask (T,) of cells that match a regular expression; blank ones do not."""
    return np.asarray(pc.fill_null(pc.match_substring_regex(cells, pattern=pattern), False))


@dataclass(frozen=True)
class Spelled:
    """Cells taken apart. present (T,): not blank; reads (T,): a number with known marks."""

    cells: pa.Array  # (T,) as in the file
    parts: dict[str, pa.Array]  # (T,) each, "" where a cell lacks the part
    reads: Mask
    present: Mask

    @classmethod
    def of(cls, cells: pa.Array) -> Spelled:
        """Take apart cells, of which blank ones are null."""
        present = np.asarray(pc.is_valid(cells))
        if (matches(cells, _SIMPLE) == present).all():
            return cls._simple(cells, present)
        found = pc.extract_regex(tidy(cells), pattern=_SPELLING)
        names = [found.type.field(i).name for i in range(found.type.num_fields)]
        parts = {name: pc.fill_null(pc.struct_field(found, name), "") for name in names}
        spelled = cls(cells, parts, matches(parts["body"], _NUMBER), present)
        reads = spelled.reads & (spelled._signs() <= 1) & (spelled.has("open") == spelled.has("close"))
        reads &= ~(spelled.has("percent") & spelled.has("outer")) & ~(spelled.percent & spelled.currency)
        reads &= ~(matches(parts["unit"], "^[kKmMbB]$") & spelled.has("space") & ~spelled.currency)  # 273.15 K, 1.8 m
        spelled = replace(spelled, reads=reads & spelled.present)
        return replace(spelled, reads=spelled.reads & ~spelled._labels() & ~spelled._lengths())

    @classmethod
    def _simple(cls, cells: pa.Array, present: Mask) -> Spelled:
        """Take apart signs, digits, commas, dots and percent alone: several times as fast as the long pattern."""
        text = pc.fill_null(cells, "")
        parts = {
            "sign": pc.if_else(pc.starts_with(text, "-"), "-", ""),
            "body": pc.utf8_rtrim(pc.utf8_ltrim(text, characters="+-"), characters=" %"),
            "percent": pc.if_else(pc.ends_with(text, "%"), "%", ""),
        }
        return cls(cells, parts, matches(parts["body"], _NUMBER), present)

    def has(self, *names: str) -> Mask:
        """Return a mask (T,) of cells that have one of the parts."""
        held = [np.asarray(pc.not_equal(self.parts[name], "")) for name in names if name in self.parts]
        return np.logical_or.reduce(held) if held else np.zeros(len(self.cells), bool)

    @property
    def percent(self) -> Mask:
        """Cells with a percent sign."""
        return self.has("percent", "outer")

    @property
    def currency(self) -> Mask:
        """Cells with a currency."""
        return self.has(*_SIDES)

    @property
    def negative(self) -> Mask:
        """Cells whose number is below zero: a minus before or after, or parentheses."""
        names = [name for name in ("sign", "inner", "trail") if name in self.parts]
        minus = [np.asarray(pc.equal(self.parts[name], "-")) for name in names]
        return np.logical_or.reduce([*minus, self.has("open")])

    def _signs(self) -> npt.NDArray[np.int_]:
        return np.sum([self.has(name) for name in ("open", "sign", "inner", "trail")], axis=0)

    def _labels(self) -> Mask:
        """Return cells that may be names: eth0 and usd1 without a fraction; (1), (2) or 60-, 70- alone in a column."""
        whole = matches(self.parts["body"], r"^\d+$")
        glued = matches(self.parts["before"], r"^\p{L}+$") & ~self.has("gap", "inner")
        names = glued if (whole | ~glued)[self.reads].all() else np.zeros_like(glued)
        marked = self.has("open", "trail") & whole & ~self.currency & ~self.has("unit") & ~self.percent
        return marked | names if marked[self.reads].all() else names

    def _lengths(self) -> Mask:
        """Return cells such as 5m, 15m or 3M, 3M, if all are: minutes, bytes or a name rather than millions.

        A small m alone, as in 1.8m and 500m, may be metres, minutes or a thousandth; beside k or b it is a million.
        """
        units, bodies = self._kinds("unit"), self._kinds("body")
        if units == {"m"}:
            return self.has("unit") & ~self.currency
        if len(units) != 1 or (not units <= {"m", "b"} and len(bodies) > 1):
            return np.zeros_like(self.reads)
        alone = self.has("unit") & ~self.currency
        whole = matches(self.parts["body"], r"^\d+$")
        return alone if (whole & alone)[self.reads].all() else np.zeros_like(alone)

    def _kinds(self, part: str) -> set[str]:
        """Return the different texts of a part among the cells that read."""
        return set(pc.unique(self.parts[part].filter(pa.array(self.reads))).to_pylist()) - {""}

    def numbers(self, decimal: str | None = None) -> DoubleArray:
        """Return (T,) numbers, NaN where blank. Raises BadCell for several currencies, formats, or an ambiguous one.

        decimal is "." or ",", or None to infer it.
        """
        if self.currency.any():
            self._one_currency()
        if self.percent.any():
            self._all_percent()
        values = self._plain_numbers(decimal)
        if self.has("unit").any():
            lower = pc.utf8_lower(self.parts["unit"])
            factors = np.array([*_UNITS.values(), 1.0])
            values = (
                values
                * factors[np.asarray(pc.fill_null(pc.index_in(lower, value_set=pa.array([*_UNITS])), len(_UNITS)))]
            )
        return np.where(self.negative, -values, values)

    def _one_currency(self) -> None:
        marks = pc.binary_join_element_wise(*(self.parts[name] for name in _SIDES), "\n")
        found = dict[str, str]()
        for mark in pc.unique(pc.utf8_lower(marks)).to_pylist():
            names = {_CODES.get(sign, sign) for sign in str(mark).split("\n") if sign}
            if len(names) > 1:
                names.discard("$")  # of $5 CAD
            if names:
                found.setdefault(" ".join(sorted(names)), mark)
        if len(found) < 2:
            return
        lower = pc.utf8_lower(marks)
        first, second = sorted(pc.index(lower, mark).as_py() for mark in [*found.values()][:2])
        raise self.bad(second, f"in another currency than {str(self.cells[first])!r}")

    def _all_percent(self) -> None:
        """Raise BadCell if some numbers lack the percent sign of others: 0.05 beside 5% may be the same."""
        percent = self.percent
        bare = self.present & ~percent & ~matches(self.parts["body"], "^[0., ]+$")
        mille = np.asarray(pc.equal(self.parts["percent"], "‰"))
        other = bare | (percent & ~mille) if mille.any() else bare
        if other.any():
            like = int((mille if mille.any() else percent).argmax())
            raise self.bad(int(other.argmax()), f"without the sign of {str(self.cells[like])!r}")

    def _plain_numbers(self, decimal: str | None) -> DoubleArray:
        """Return the bodies (T,) as numbers, in the one format that fits them all."""
        readings = {mark: self._read(mark) for mark in _FORMATS if decimal in (None, mark)}
        if decimal is None:
            self._refuse_ticks(self.parts["body"])
        fitting = {mark: values for mark, values in readings.items() if values is not None}
        if not fitting:
            self._refuse_formats(decimal)
        if len(fitting) == 1:
            return next(iter(fitting.values()))
        point, comma = fitting["."], fitting[","]
        differ = self.present & (point != comma)
        if not differ.any():
            return point
        row = int(differ.argmax())
        text = str(self.parts["body"][row])
        mark = "comma" if "," in text else "dot"
        if mark == "dot" and not self.currency.any():
            return point  # 1.234 is a plain number with any sign, percent or unit
        high, low = (point, comma) if point[row] > comma[row] else (comma, point)
        raise self.bad(
            row,
            f"a number with a {mark} that may part thousands ({high[row]:.15g}) or decimals ({low[row]:.15g}); say "
            "--decimal . or --decimal ,",
        )

    def _read(self, decimal: str) -> DoubleArray | None:
        """Return the bodies (T,) as numbers with this decimal mark, None if no format with it fits all cells."""
        body = self.parts["body"]
        group = next((g for pattern, g in _FORMATS[decimal] if matches(body, pattern)[self.present].all()), None)
        if group is None:
            return None
        if group:
            body = pc.replace_substring(body, group, "")
        if decimal == ",":
            body = pc.replace_substring(body, ",", ".")
        return cast(pc.if_else(pa.array(self.present), body, pa.scalar(None, pa.string())))

    def _refuse_ticks(self, body: pa.Array) -> None:
        """Raise BadCell if all cells could be prices in 32nds, which an apostrophe separates like thousands."""
        if matches(body, _TICKS)[self.present].all() and pc.count_distinct(body).as_py() >= _FEWEST_TICKS:
            row = int(self.present.argmax())
            why = "a number with an apostrophe that may part thousands or 32nds; write it as a decimal number"
            raise self.bad(row, f"{why}, or say --decimal . if it parts thousands")

    def _refuse_formats(self, decimal: str | None) -> NoReturn:
        """Raise BadCell for the first cell outside the format that fits most cells."""
        marks = _FORMATS if decimal is None else (decimal,)
        body = self.parts["body"]
        fits = max((matches(body, pattern) for m in marks for pattern, _ in _FORMATS[m]), key=lambda mask: mask.sum())
        row = int((self.present & ~fits).argmax())
        if decimal is not None:
            raise self.bad(row, f"a number in which {decimal!r} is no decimal mark, unlike --decimal")
        raise self.bad(row, f"a number in another format than {str(self.cells[self._example(fits)])!r}")

    def _example(self, fits: Mask) -> int:
        """Return the row of the fitting cell that shows most of its format: the longest."""
        lengths = np.asarray(pc.utf8_length(self.parts["body"]))
        return int(np.where(fits & self.present, lengths, -1).argmax())

    def bad(self, row: int, why: str) -> BadCell:
        """Return the error about one cell."""
        return BadCell(row, str(self.cells[row]), why)


def cast(cells: pa.Array) -> DoubleArray:
    """Return plain numbers (T,) as float64, NaN where null. Raises pa.ArrowInvalid for any other text."""
    if len(cells) > _LONG:
        pc.cast(cells[:_FEW], pa.float64())  # fails at once where all cells would only fail after the last
    return np.asarray(pc.cast(cells, pa.float64()).to_numpy(zero_copy_only=False), np.float64)
