"""Importing files of the Monash archive (.tsf)."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests.data.importers.importing import first_stamp, imported, items

from foretrain.data.frames import read_table
from foretrain.data.importers.monash import monash_table, read_monash
from foretrain.data.importers.options import ImportOptions
from foretrain.errors import DataError
from foretrain.notes import Code, codes

SERIES = ["T1:1996-03-18 00-00-00:13.4,?,20.6,7", "T2:1996-03-20 00-00-00:1,2,3"]


def text(
    rows: list[str] = SERIES,
    *,
    attributes: tuple[str, ...] = ("series_name string", "start_timestamp date"),
    freq: str | None = "daily",
    equal: str = "false",
) -> str:
    """Return the text of a file."""
    names = [f"@attribute {attribute}" for attribute in attributes]
    stated = [] if freq is None else [f"@frequency {freq}"]
    head = ["# 451\u2013476", "@relation NN5", *names, *stated, "@horizon 2", "@missing true", f"@equallength {equal}"]
    return "\n".join([*head, "@data", *rows]) + "\n"


def tsf(tmp_path: Path, *args: object, name: str = "x.tsf", encoding: str = "utf-8", **options: object) -> Path:
    path = tmp_path / "in" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text(*args, **options).encode(encoding))  # type: ignore[arg-type]
    return path


def test_each_line_is_a_series_from_its_start_on_and_question_marks_are_missing(tmp_path: Path):
    corpus, report = imported(tmp_path, tsf(tmp_path))
    found = items(corpus)
    assert corpus.columns == ("target",) and found["T2"] == [[1, 2, 3]] and not report.notes
    np.testing.assert_array_equal(found["T1"], np.float32([[13.4, np.nan, 20.6, 7]]).astype(float))
    assert [first_stamp(corpus, k) for k in range(2)] == ["1996-03-18T00:00:00", "1996-03-20T00:00:00"]


@pytest.mark.parametrize(
    ("word", "alias", "second"),
    [
        ("yearly", "YS", "1997-01-01T00"),
        ("quarterly", "QS", "1996-04-01T00"),
        ("monthly", "MS", "1996-02-01T00"),
        ("weekly", "W-MON", "1996-01-08T00"),
        ("daily", "D", "1996-01-02T00"),
        ("hourly", "h", "1996-01-01T01"),
        ("half_hourly", "30min", "1996-01-01T00:30"),
        ("10_minutes", "10min", "1996-01-01T00:10"),
        ("minutely", "min", "1996-01-01T00:01"),
        ("4_seconds", "4s", "1996-01-01T00:00:04"),
        ("Daily", "D", "1996-01-02T00"),
    ],
)
def test_frequencies_are_those_of_the_archive(tmp_path: Path, word: str, alias: str, second: str):
    values = ",".join(map(str, range(12)))
    corpus, _ = imported(tmp_path, tsf(tmp_path, [f"a:1996-01-01 00-00-00:{values}"], freq=word))
    times = corpus.times(0)
    assert corpus.frequency is not None and corpus.frequency.alias == alias and times is not None
    assert times[1].astype("M8[us]") == np.datetime64(second)


@pytest.mark.parametrize(("word", "alias", "season"), [("monthly", "MS", 12), ("half_hourly", "30min", 48)])
def test_series_without_a_start_are_steps_with_the_season_of_the_frequency(
    tmp_path: Path, word: str, alias: str, season: int
):
    path = tsf(tmp_path, ["a:1,2,3", "b:4"], freq=word, attributes=("series_name string",))
    corpus, report = imported(tmp_path, path)
    assert (corpus.manifest.time, corpus.manifest.freq, corpus.manifest.seasonality) == ("steps", alias, season)
    assert not report.notes


def test_months_keep_the_day_of_the_start(tmp_path: Path):
    corpus, _ = imported(tmp_path, tsf(tmp_path, ["a:2020-01-31 00-00-00:1,2,3,4"], freq="monthly"))
    times = corpus.times(0)
    assert times is not None
    assert times.astype("M8[us]").astype("M8[D]").astype(str).tolist() == [
        "2020-01-31", "2020-02-29", "2020-03-31", "2020-04-30",
    ]  # fmt: skip


def test_the_item_is_series_name_and_other_attributes_are_left_out_with_a_note(tmp_path: Path):
    attributes = ("state string", "series_name string", "size numeric", "start numeric")
    path = tsf(tmp_path, ["NSW:a b:3:9:1,2", "NSW:T2:4:9:3,4"], attributes=attributes)
    corpus, report = imported(tmp_path, path)
    assert items(corpus) == {"a b": [[1, 2]], "T2": [[3, 4]]}
    assert codes(report.notes) == {Code.STATIC_LEFT_OUT}
    assert "left out: state, size, attribute start" in report.notes[0].text
    joined, _ = imported(tmp_path, path, id_column="state,series_name")
    assert list(items(joined)) == ["NSW/a b", "NSW/T2"]


def test_without_series_name_the_first_text_attribute_names_the_items_and_without_any_the_file(tmp_path: Path):
    corpus, _ = imported(tmp_path, tsf(tmp_path, ["a:b:1", "c:b:2"], attributes=("x string", "y string")))
    assert list(items(corpus)) == ["a", "c"]
    corpus, _ = imported(
        tmp_path, tsf(tmp_path, ["5:1,2", "6:3,4"], attributes=("horizon numeric",), name="cif.tsf.gz")
    )
    assert list(items(corpus)) == ["cif_0", "cif_1"]


def test_comments_may_be_in_any_encoding_and_attributes_in_the_one_that_is_named(tmp_path: Path):
    corpus, _ = imported(tmp_path, tsf(tmp_path, encoding="cp1252"))  # the dash of the comment is 0x96
    assert len(items(corpus)) == 2
    path = tsf(tmp_path, ["Zürich:2020-01-01 00-00-00:1,2"], encoding="cp1252")
    with pytest.raises(DataError, match="line 10 is not UTF-8 text; name its encoding"):
        imported(tmp_path, path)
    corpus, _ = imported(tmp_path, path, encoding="cp1252")
    assert list(items(corpus)) == ["Zürich"]


def test_packed_files_and_other_line_ends_give_the_same_rows(tmp_path: Path):
    plain = tsf(tmp_path)
    frame = read_table(plain)
    (tmp_path / "y.tsf.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "z.tsf").write_bytes(plain.read_bytes().replace(b"\n", b"\r\n\r\n"))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(plain, "x.tsf")
    for name in ("y.tsf.gz", "z.tsf", "x.zip"):
        assert frame.equals(read_table(tmp_path / name)), name


def test_start_without_a_frequency_is_steps_unless_one_is_given(tmp_path: Path):
    path = tsf(tmp_path, freq=None)
    corpus, report = imported(tmp_path, path)
    assert corpus.manifest.time == "steps" and Code.START_WITHOUT_FREQ in codes(report.notes)
    corpus, _ = imported(tmp_path, path, freq="D")
    assert first_stamp(corpus, 1) == "1996-03-20T00:00:00"


def test_two_files_with_one_series_are_refused(tmp_path: Path):
    tsf(tmp_path, ["T1:1970-01-01 00-00-00:1,2"], name="a.tsf")
    tsf(tmp_path, ["T1:1990-01-01 00-00-00:3,4"], name="b.tsf")
    with pytest.raises(DataError, match=r"b.tsf and a.tsf both give the item 'T1'. Import them apart."):
        imported(tmp_path)


ONE = ("series_name string",)
DAMAGED = {
    "nothing": (b"", "the file is empty"),
    "a page": (b"<html><body>404</body></html>", "looks like an HTML page"),
    "cut in the header": (text().encode()[:60], "has no line @data"),
    "cut in a line": (text().encode()[:-22], "line 11 has 1 attributes, the header 2"),
    "no attribute": (b"@data\n1,2\n", "@data comes before any @attribute"),
    "no series": (text([]).encode(), "no series below @data"),
    "a colon too many": (text(["a:b:1"], attributes=ONE).encode(), "line 9 has 2 attributes, the header 1"),
    "the last series cut": (text(["a:1,2", "b:3"], attributes=ONE, equal="true").encode(), "the file is cut off"),
    "NaN": (text(["a:1,NaN"], attributes=ONE).encode(), "line 9: value 2 'NaN' is no number; a missing one is ?"),
    "infinite": (text(["a:1", "b:-inf"], attributes=ONE).encode(), "line 10: value 1 '-inf' is no number"),
    "too large": (text(["a:1e999"], attributes=ONE).encode(), "'1e999' is no number"),
    "words": (text(["a:1,x"], attributes=ONE).encode(), "value 2 'x' is no number"),
    "an empty value": (text(["a:1,,2"], attributes=ONE).encode(), "value 2 is empty"),
    "no values": (text(["a:"], attributes=ONE).encode(), "value 1 is empty"),
    "quotes": (text(['a:"1"'], attributes=ONE).encode(), "is no number"),
    "one name twice": (text(["a:1", "b:2", "a:3"], attributes=ONE).encode(), "lines 9 and 11 are both series 'a'"),
    "one attribute twice": (text(["a:b:1"], attributes=(*ONE, *ONE)).encode(), "'series_name' appears twice"),
    "a kind that is none": (text(["a:1"], attributes=("x list",)).encode(), "an attribute is `@attribute NAME"),
    "a frequency that is none": (text(["a:1"], attributes=ONE, freq="often").encode(), "'often' is not known"),
    "a start that is none": (text(["a:2020-13-01 00-00-00:1"]).encode(), "'2020-13-01 00-00-00' is no start"),
    "another form of start": (text(["a:1.2.2020 00-00-00:1"]).encode(), "is no start of a series, such as"),
    "the end of time": (text(["a:9999-12-31 00-00-00:1,2"]).encode(), "reach beyond the year 9,999"),
    "a step beyond the end": (text(["a:2020-01-01 00-00-00:1,2"], freq="999999_years").encode(), "beyond the year"),
    "not UTF-8": (text(["a:1"], attributes=ONE).encode().replace(b"\na:", b"\n\xff:"), "line 9 is not UTF-8 text"),
    "zeros": (b"\0" * 100, "holds binary data"),
    "another kind": (b"PK\x03\x04", "this is no table of text but a zip archive"),
    "damaged gzip": (gzip.compress(text().encode())[:-9], "damaged gzip file"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_files_are_refused_in_one_line(kind: str):
    path, (raw, reason) = Path("x.tsf"), DAMAGED[kind]
    with pytest.raises(DataError, match=r"^x\.tsf: ") as error:
        monash_table(path, read_monash(path, raw), ImportOptions())
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_no_corpus_is_made_of_a_damaged_file(tmp_path: Path):
    path = tsf(tmp_path, ["T1:1996-03-18 00-00-00:1,2", "T2:1996-03-18 00-00-00:1,x"])
    with pytest.raises(DataError, match=f"{path}: line 11: value 2 'x' is no number"):
        imported(tmp_path, path)
    assert not (tmp_path / "out0").exists()


def test_a_horizon_of_any_length_costs_nothing(tmp_path: Path):
    path = tsf(tmp_path)
    path.write_text(path.read_text().replace("@horizon 2", f"@horizon {10**12}"))
    assert read_monash(path, path.read_bytes()).counts.tolist() == [4, 3]
