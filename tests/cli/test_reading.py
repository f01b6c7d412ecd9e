"""Files on the command line: every verb reads them as an import does."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.cli.test_app import foretrain

from foretrain import load, read_table
from foretrain.cli.reading import PANEL
from foretrain.data.frames import open_input
from foretrain.errors import DataError
from foretrain.run.config import shipped_config

HOURS = pd.date_range("2024-03-04", periods=72, freq="h")
WAVE = np.round(10 + 3 * np.sin(np.arange(72) * 2 * np.pi / 24), 2)


@pytest.fixture(scope="module")
def releases(zoo, tmp_path_factory) -> Path:
    """Small releases of two families."""
    folder = tmp_path_factory.mktemp("releases")
    for name in ("chronos2", "kronos"):
        (folder / name).mkdir()
        zoo.built(name).save_release(folder / name)
    return folder


def hourly(**more) -> pd.DataFrame:
    return pd.DataFrame({"timestamp": HOURS, "load": WAVE, **more})


def csv(frame: pd.DataFrame, **how) -> bytes:
    return frame.to_csv(index=False, **how).encode()


def bars() -> pd.DataFrame:
    columns = {"Date": HOURS, "Close/Last": WAVE, "Volume": 7, "Open": WAVE, "High": WAVE + 1, "Low": WAVE - 1}
    return pd.DataFrame(columns)


def as_text(values: np.ndarray) -> list[str]:
    return [f"{value:.2f}".replace(".", ",") for value in values]


FILES = {
    "plain.csv": csv(hourly()),
    "european.csv": csv(hourly().assign(load=as_text(WAVE)), sep=";", date_format="%d.%m.%Y %H:%M"),
    "packed.csv.gz": gzip.compress(csv(hourly())),
    "wide-characters.csv": hourly().to_csv(index=False).encode("utf-16"),
    "newest-first.csv": csv(hourly()[::-1]),
    "with-holes.csv": csv(pd.concat([hourly().drop(index=[20, 21, 40]), hourly().tail(1).assign(load=9.0)])),
    "offsets.csv": csv(hourly().assign(timestamp=HOURS.tz_localize("Asia/Shanghai").map(str))),
    "words.csv": csv(hourly(kind=["a", "b", ""] * 24, word=["x", "y"] * 36)),
    "steps.csv": csv(hourly().assign(timestamp=np.arange(1, 73)).rename(columns={"timestamp": "t"})),
    "no-time.csv": csv(hourly()[["load"]]),
    "items.csv": csv(pd.concat([hourly().assign(symbol=name) for name in ("007", "NA")])),
    "bars.csv": csv(bars()),
    "bars.tsv": csv(bars(), sep="\t", date_format="%Y%m%d %H:%M"),
}


@pytest.mark.parametrize(
    ("name", "family"),
    [*((name, "chronos2") for name in FILES if "bars" not in name), ("bars.csv", "kronos"), ("bars.tsv", "kronos")],
)
def test_a_forecast_of_a_file_is_that_of_its_table_and_of_its_corpus(releases, tmp_path, name, family):
    path, release = tmp_path / name, releases / family
    path.write_bytes(FILES[name])
    flags = ("--prediction-length", 4, "--num-samples", 2) if family == "kronos" else ("--prediction-length", 4)
    foretrain("forecast", release, path, *flags, "--out", tmp_path / "file.parquet")
    foretrain("data", "import", path, "--out", tmp_path / "corpus")
    foretrain("forecast", release, tmp_path / "corpus", *flags, "--out", tmp_path / "corpus.parquet")
    target = None if family == "kronos" else open_input(path).usual_target()
    draws = {"num_samples": 2} if family == "kronos" else {}
    load(release).forecast_df(read_table(path), 4, target=target, **draws).to_parquet(tmp_path / "table.parquet")
    found = pd.read_parquet(tmp_path / "file.parquet")
    assert found.columns.tolist()[:2] == ["item_id", "timestamp"] and found["predictions"].notna().all()
    for other in ("corpus", "table"):
        pd.testing.assert_frame_equal(found, pd.read_parquet(tmp_path / f"{other}.parquet"), check_exact=True)


@pytest.mark.parametrize("name", [name for name in FILES if "characters" not in name])  # pandas reads no UTF-16
def test_a_table_of_pandas_is_forecast_alike_or_refused_with_a_word_on_read_table(releases, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(FILES[name])
    predictor = load(releases / ("kronos" if "bars" in name else "chronos2"))
    how = {"num_samples": 2} if "bars" in name else {"target": open_input(path).usual_target()}
    expected = predictor.forecast_df(read_table(path), 4, **how)
    try:
        found = predictor.forecast_df(pd.read_csv(path), 4, **how)
    except DataError as error:
        assert "foretrain.read_table" in str(error)
        assert name not in ("plain.csv", "packed.csv.gz", "newest-first.csv", "offsets.csv", "words.csv")
        return
    np.testing.assert_array_equal(found["predictions"], expected["predictions"])


def test_a_forecast_goes_on_where_the_file_ends(releases, tmp_path):
    for name, first in (
        ("plain.csv", HOURS[-1] + pd.Timedelta("1h")),
        ("offsets.csv", HOURS.tz_localize("Asia/Shanghai")[-1].tz_convert("UTC") + pd.Timedelta("1h")),
        ("steps.csv", 73),
        ("no-time.csv", 72),
    ):
        (tmp_path / name).write_bytes(FILES[name])
        out = tmp_path / f"{name}.parquet"
        foretrain("forecast", releases / "chronos2", tmp_path / name, "--prediction-length", 2, "--out", out)
        assert pd.read_parquet(out)["timestamp"].iloc[0] == first, name


def test_one_series_and_its_known_covariates_need_no_ids(releases, tmp_path, capsys):
    hourly(promo=np.arange(72.0) % 5, word=["x", "y"] * 36).to_csv(tmp_path / "history.csv", index=False)
    ahead = HOURS[-1] + pd.to_timedelta(np.arange(1, 5), "h")
    pd.DataFrame({"timestamp": ahead, "promo": 90.0, "word": "x"}).to_csv(tmp_path / "future.csv", index=False)
    common = ("forecast", releases / "chronos2", tmp_path / "history.csv", "--prediction-length", 4, "--target", "load")
    foretrain(*common, "--out", tmp_path / "without.csv")
    foretrain(*common, "--out", tmp_path / "with.csv", "--future", tmp_path / "future.csv")
    a, b = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("without", "with"))
    assert set(b["item_id"]) == {"history"} and not np.allclose(a["predictions"], b["predictions"])
    foretrain("data", "import", tmp_path / "history.csv", "--out", tmp_path / "corpus")
    foretrain("forecast", releases / "chronos2", tmp_path / "corpus", *common[3:], "--future", tmp_path / "future.csv",
              "--out", tmp_path / "again.csv")  # fmt: skip
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "with.csv").read_bytes()
    pd.DataFrame({"timestamp": ahead, "promo": 90.0}).head(2).to_csv(tmp_path / "short.csv", index=False)
    foretrain(*common, "--out", tmp_path / "x.csv", "--future", tmp_path / "short.csv", code=2)
    assert "has 2 rows; it needs exactly prediction_length = 4" in capsys.readouterr().err


def test_coming_rows_in_the_file_of_the_history_are_the_known_future(releases, tmp_path, capsys):
    """The same as with --future, of files and of corpora; flags are known ahead too."""
    promo = np.arange(76) % 5 == 0
    ahead = HOURS.append(HOURS[-1] + pd.to_timedelta(np.arange(1, 5), "h"))
    whole = pd.DataFrame({"timestamp": ahead, "load": [*hourly()["load"], *[np.nan] * 4], "promo": promo})
    whole.to_csv(tmp_path / "one.csv", index=False)
    (tmp_path / "two").mkdir()
    whole[:72].to_csv(tmp_path / "two" / "one.csv", index=False)
    whole[72:][["timestamp", "promo"]].to_csv(tmp_path / "future.csv", index=False)

    def forecast(name: str, path, *flags, code=0):
        common = ("--prediction-length", 4, "--target", "load", "--out", tmp_path / f"{name}.csv")
        foretrain("forecast", releases / "chronos2", path, *common, *flags, code=code)
        return (tmp_path / f"{name}.csv").read_bytes() if code == 0 else capsys.readouterr().err

    expected = forecast("expected", tmp_path / "two" / "one.csv", "--future", tmp_path / "future.csv")
    capsys.readouterr()
    assert forecast("from_one", tmp_path / "one.csv") == expected
    assert "so they are the steps to forecast; known ahead are promo" in capsys.readouterr().err
    foretrain("data", "import", tmp_path / "one.csv", "--out", tmp_path / "corpus")
    assert forecast("from_corpus", tmp_path / "corpus") == expected
    whole[:75].to_csv(tmp_path / "one.csv", index=False)
    assert "--trailing-rows history" in forecast("x", tmp_path / "one.csv", code=2)
    dropped = forecast("dropped", tmp_path / "one.csv", "--trailing-rows", "drop")
    assert dropped == forecast("alone", tmp_path / "two" / "one.csv")
    assert b"2024-03-07 03:00:00" in forecast("after", tmp_path / "one.csv", "--trailing-rows", "history")


def test_a_file_without_ids_and_one_with_a_single_id_are_the_same_series(releases, tmp_path, capsys):
    hourly(promo=np.arange(72.0) % 5).to_csv(tmp_path / "history.csv", index=False)
    ahead = HOURS[-1] + pd.to_timedelta(np.arange(1, 5), "h")
    future = pd.DataFrame({"item_id": "A", "timestamp": ahead, "promo": 90.0})

    def forecast(*flags, code=0) -> str:
        future.to_csv(tmp_path / "future.csv", index=False)
        common = ("--prediction-length", 4, "--target", "load", "--out", tmp_path / "x.csv")
        files = (tmp_path / "history.csv", "--future", tmp_path / "future.csv")
        foretrain("forecast", releases / "chronos2", *files, *common, *flags, code=code)
        return capsys.readouterr().err

    forecast()
    assert set(pd.read_csv(tmp_path / "x.csv")["item_id"]) == {"history"}
    future = pd.concat([future, future.assign(item_id="B")])
    assert f"{tmp_path / 'future.csv'} has an item 'A' that {tmp_path / 'history.csv'} lacks" in forecast(code=2)
    future = future[:3]
    assert f"error: {tmp_path / 'future.csv'}: item 'history' has 3 rows" in forecast(code=2)


def test_joint_forecasts_of_items_with_unequal_ends_are_refused_or_asked_for(releases, tmp_path, capsys):
    rows = pd.concat([hourly().assign(item_id="A")[:40], hourly().assign(item_id="B")])
    rows.to_csv(tmp_path / "a.csv", index=False)
    common = ("forecast", releases / "chronos2", tmp_path / "a.csv", "--prediction-length", 2, "--target", "load",
              "--out", tmp_path / "f.csv")  # fmt: skip
    foretrain(*common, "--cross-learning", code=2)
    assert "1 of 2 items end before others (item 'A' at 2024-03-05 15:00:00" in capsys.readouterr().err
    foretrain(*common, "--cross-learning", "--allow-unequal-ends")
    assert "warning: cross_learning: 1 of 2 items end before others" in capsys.readouterr().err
    foretrain(*common, "--allow-unequal-ends", code=2)
    assert "no effect without cross_learning" in capsys.readouterr().err


def test_targets_may_be_spelled_as_in_the_file(releases, tmp_path, capsys):
    (tmp_path / "bars.csv").write_bytes(FILES["bars.csv"])
    common = ("forecast", releases / "chronos2", tmp_path / "bars.csv", "--prediction-length", 2)
    for k, name in enumerate(("Close/Last", "close", "CLOSE")):
        foretrain(*common, "--target", name, "--out", tmp_path / f"{k}.csv")
        assert set(pd.read_csv(tmp_path / f"{k}.csv")["target_name"]) == {"close"}
    foretrain(*common, "--target", "clos", "--out", tmp_path / "x.csv", code=2)
    assert "bars.csv: no column 'clos'. Did you mean 'close'?" in capsys.readouterr().err
    corpus = tmp_path / "corpus"
    foretrain("data", "import", tmp_path / "bars.csv", "--out", corpus)
    foretrain("forecast", releases / "chronos2", corpus, "--prediction-length", 2, "--target", "Close/Last",
              "--out", tmp_path / "c.csv")  # fmt: skip
    assert set(pd.read_csv(tmp_path / "c.csv")["target_name"]) == {"close"}


def lines(header: str, row: str, stamp: str = "%Y-%m-%d", rows: int = 12, step: str = "D") -> str:
    """The text of a table: row is a format string over a stamp, a number and a small number."""
    days = pd.date_range("2024-01-01 09:00", periods=rows, freq=step)
    body = [row.format(stamp=f"{day:{stamp}}", n=k, m=k % 3) for k, day in enumerate(days)]
    return "\n".join([header, *body] if header else body) + "\n"


READ = (
    (["--encoding", "latin-1"], lines("Größe,date", "{n},{stamp}").encode("latin-1")),
    (["--skip-rows", "1"], "about 2024,1\n" + lines("date,v", "{stamp},{n}")),
    (["--no-header", "--names", "date,v"], lines("", "{stamp},{n}")),
    (["--na-values", "7"], lines("date,v", "{stamp},{n}")),
    (["--monthfirst"], lines("date,v", "{stamp},{n}", "%m/%d/%Y")),
    (["--timezone", "America/New_York"], lines("date,v", "{stamp},{n}", "%Y-%m-%d %H:%M", step="h")),
    (["--id-column", "shop"], lines("shop,date,v", "a,{stamp},{n}")),
    (["--timestamp-column", "when"], lines("when,v", "{stamp},{n}")),
    (["--columns", "v"], lines("date,v,w", "{stamp},{n},{m}")),
    (["--categorical", "w"], lines("date,v,w", "{stamp},{n},{m}")),
    (["--freq", "D"], lines("date,v", "{stamp},{n}")),
    (["--format", "panel", "--timestamp-column", "date"], lines("date,v,w", "{stamp},{n},{m}")),
    (["--on-bad", "drop"], lines("date,v", "{stamp},{n}") + "2024-01-12,3\n2024-01-13,3\n"),
    (["--id-pattern", "(.)-x"], lines("date,v", "{stamp},{n}")),
    (["--date-format", "%y%m%d"], lines("date,v", "{stamp},{n}", "%y%m%d")),
    (["--time-unit", "ms"], lines("ts,v", "{n}00000,{n}")),
    (["--id-column", "shop,dept"], lines("shop,dept,date,v", "a,{m},{stamp},{n}", rows=36, step="8h")),
    (["--column", "close=Kurs", "--column", "volume=Menge"], lines("Ort,Kurs,Menge,date", "x,{n},{m},{stamp}")),
    (["--duplicates", "first"], lines("date,v", "{stamp},{n}") + lines("", "{stamp},{m}")),
    (["--allow-loss", "0.9"], lines("date,v", "{stamp},{n}") + lines("", "{stamp},{m}")),
)


@pytest.mark.parametrize(("flags", "content"), READ, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_a_flag_of_reading_means_the_same_to_every_verb(releases, tmp_path, flags, content, capsys):
    path = tmp_path / "f-x.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    foretrain("data", "import", path, "--out", tmp_path / "corpus", *flags)
    capsys.readouterr()
    foretrain("data", "inspect", path, *flags)
    shown = capsys.readouterr().out
    foretrain("data", "import", path, "--dry-run", *flags)
    assert capsys.readouterr().out == shown
    target = read_table(tmp_path / "corpus").columns[2]
    for data, name in ((path, "a"), (tmp_path / "corpus", "b")):
        how = flags if data == path else ()
        foretrain("forecast", releases / "chronos2", data, "--prediction-length", 2, "--target", target, *how,
                  "--out", tmp_path / f"{name}.parquet")  # fmt: skip
    a, b = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in "ab")
    pd.testing.assert_frame_equal(a, b, check_exact=True)
    assert {p.name for p in tmp_path.iterdir()} == {"f-x.csv", "corpus", "a.parquet", "b.parquet"}


def test_a_role_that_was_given_names_the_column_to_forecast(releases, tmp_path):
    path = tmp_path / "f.csv"
    path.write_text(lines("date,Kurs,Menge", "{stamp},{n},{m}"))
    common = ("forecast", releases / "chronos2", path, "--prediction-length", 2)
    foretrain(*common, "--column", "target=Kurs", "--out", tmp_path / "a.csv")
    foretrain(*common, "--column", "close=Kurs", "--target", "Kurs", "--out", tmp_path / "b.csv")
    a, b = (pd.read_csv(tmp_path / f"{name}.csv") for name in "ab")
    assert set(a["target_name"]) == {"target"} and set(b["target_name"]) == {"close"}


def test_a_dry_run_says_what_would_be_read_and_writes_nothing(tmp_path, capsys):
    (tmp_path / "f.csv").write_bytes(FILES["items.csv"])
    foretrain("data", "import", tmp_path / "f.csv", "--dry-run")
    shown = capsys.readouterr().out
    assert "symbol" in shown and "007" in shown and "load" in shown and "lost:" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["f.csv"]


def test_an_evaluation_of_a_file_is_that_of_its_corpus(releases, tmp_path, capsys):
    (tmp_path / "bars.csv").write_bytes(FILES["bars.csv"])
    foretrain("data", "import", tmp_path / "bars.csv", "--out", tmp_path / "corpus")
    found = {}
    for name in ("bars.csv", "corpus"):
        out = tmp_path / f"evaluation-{name}"
        flags = ("--prediction-length", 4, "--num-windows", 2, "--split", "all", "--out", out)
        foretrain("evaluate", releases / "chronos2", "--data", tmp_path / name, *flags, "--target", "Close/Last",
                  "--past-covariates", "Open,High")  # fmt: skip
        found[name] = json.loads((out / "evaluation.json").read_text())
    assert found["bars.csv"]["data"][0]["path"] == str(tmp_path / "bars.csv")
    assert found["bars.csv"]["data"][0]["past_covariates"] == ["open", "high"]
    file, corpus = found["bars.csv"], found["corpus"]
    assert file["pooled"] == corpus["pooled"] and file["counts"] == corpus["counts"]
    foretrain("evaluate", releases / "chronos2", "--data", tmp_path / "none.csv", "--prediction-length", 2, code=2)
    assert "none.csv: no such file" in capsys.readouterr().err


def test_a_run_reads_corpora_and_says_how_to_make_one(tmp_path, capsys):
    (tmp_path / "bars.csv").write_bytes(FILES["bars.csv"])
    foretrain("train", shipped_config("debug.yaml"), f"data.corpora=[{{path: {tmp_path / 'bars.csv'}}}]",
              f"output_dir={tmp_path / 'run'}", code=2)  # fmt: skip
    assert f"`foretrain data import {tmp_path / 'bars.csv'} --out corpora/bars`" in capsys.readouterr().err


def test_what_is_no_data_is_named_by_every_verb(releases, tmp_path, capsys):
    (tmp_path / "a.csv").write_bytes(FILES["plain.csv"])
    foretrain("data", "inspect", tmp_path / "none.csv", code=2)
    assert capsys.readouterr().err == f"error: {tmp_path / 'none.csv'}: no such file or folder.\n"
    model, out = releases / "chronos2", tmp_path / "f.csv"
    for verb in (("data", "inspect", model), ("data", "import", model, "--dry-run"),
                 ("forecast", tmp_path / "a.csv", model, "--prediction-length", 2, "--out", out)):  # fmt: skip
        foretrain(*verb, code=2)
        assert f"error: {model}: holds a model, not data." in capsys.readouterr().err


def test_a_refused_forecast_of_a_file_gives_no_advice_on_reading_files(releases, tmp_path, capsys):
    stamps = [str(np.datetime64("2024-01-01") + step) for step in (0, 1, 9, 10, 30, 31, 77, 80)]
    (tmp_path / "a.csv").write_text("\n".join(["date,load", *(f"{stamp},{k}" for k, stamp in enumerate(stamps))]))
    foretrain("forecast", releases / "chronos2", tmp_path / "a.csv", "--prediction-length", 2, "--out",
              tmp_path / "f.csv", code=2)  # fmt: skip
    error = capsys.readouterr().err
    assert "Give freq=" in error and "read_table" not in error


def predictions(**how) -> bytes:
    days = pd.date_range("2025-01-06", periods=20)
    n = np.arange(20.0)
    columns = {
        "symbol": "007",
        "timestamp": days,
        "last_close": 1000.5 + n,
        "actual": 1002.5 + n,
        "predicted": 1001 + n,
    }
    return csv(pd.DataFrame(columns | {str(level / 10): 1000.5 + n + level for level in range(1, 10)}), **how)


def test_predictions_are_read_as_an_import_reads_them(tmp_path, capsys):
    plain = predictions()
    dialects = {
        "plain.csv": (plain, ()),
        "european.csv": (predictions(sep=";", decimal=",", date_format="%d.%m.%Y"), ()),
        "packed.csv.gz": (gzip.compress(plain), ()),
        "tabs.tsv": (predictions(sep="\t"), ()),
        "utf16.csv": (plain.decode().encode("utf-16"), ()),
        "latin.csv": (plain.replace(b"symbol", "zeichen_ö".encode("latin-1")),
                      ("--encoding", "latin-1", "--id-column", "zeichen_ö")),
        "skipped.csv": (b"made by a program\n" + plain, ("--skip-rows", 1)),
        "named.csv": (plain.replace(b"predicted", b"forecast"), ("--column", "predicted=forecast")),
        "american.csv": (predictions(date_format="%m/%d/%Y"), ()),
    }  # fmt: skip
    texts = {}
    for name, (content, flags) in dialects.items():
        (tmp_path / name).write_bytes(content)
        foretrain("score", tmp_path / name, *flags)
        texts[name] = capsys.readouterr().out.replace(name, "FILE")
    assert len(set(texts.values())) == 1 and "coverage_80_share" in texts["plain.csv"] and "007" in texts["plain.csv"]


def test_predictions_with_undecided_dates_and_with_text_are_refused(tmp_path, capsys):
    rows = "symbol,date,last_close,actual,predicted\nA,01/02/2025,10,11,{}\nA,02/02/2025,10,11,10\n"
    (tmp_path / "p.csv").write_text(rows.format(10))
    foretrain("score", tmp_path / "p.csv", code=2)
    assert "day first or month first" in capsys.readouterr().err
    foretrain("score", tmp_path / "p.csv", "--dayfirst")
    assert "2025-02-01T00:00:00 to 2025-02-02T00:00:00" in capsys.readouterr().out
    (tmp_path / "p.csv").write_text(rows.format("ten"))
    foretrain("score", tmp_path / "p.csv", "--dayfirst", code=2)
    assert "line 2, column 'predicted': 'ten' is text in a number column" in capsys.readouterr().err


def test_what_the_reading_decided_is_printed_once(releases, tmp_path, capsys):
    (tmp_path / "f.csv").write_bytes(FILES["with-holes.csv"])
    foretrain(
        "forecast", releases / "chronos2", tmp_path / "f.csv", "--prediction-length", 2, "--out", tmp_path / "o.csv"
    )
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("warning: f.csv: ") for line in lines)
    assert sum("rule duplicate_timestamp" in line for line in lines) == 1 and any(
        "rows of NaN" in line for line in lines
    )


REFUSED = {
    "double name": (csv(hourly(x=1)).replace(b"load,x", b"load,load"), "column 'load' appears twice in the header"),
    "no id": (csv(hourly(item_id=["a"] * 71 + [""])), "column 'item_id' has no item id"),
    "no such offset": (csv(hourly()).replace(b":00:00,", b":00:00+99:99,"), "an offset from UTC that no clock has"),
    "cut gzip": (gzip.compress(csv(hourly()))[:-40], "damaged gzip file (it ends in the middle)"),
    "endless header": (b"timestamp,load" + b"," * 100_000 + csv(hourly())[14:], "the first line is longer than 65,536"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_an_import_refuses_every_verb_refuses_in_its_words(releases, tmp_path, case, capsys):
    content, message = REFUSED[case]
    (tmp_path / "bad.csv").write_bytes(content)
    (tmp_path / "good.csv").write_bytes(csv(hourly()))
    forecast = ["forecast", releases / "chronos2", "--prediction-length", 2, "--out", tmp_path / "out.csv"]
    for words in (
        ["data", "import", tmp_path / "bad.csv", "--out", tmp_path / "corpus"],
        ["data", "inspect", tmp_path / "bad.csv"],
        [*forecast, tmp_path / "bad.csv"],
        [*forecast, tmp_path / "good.csv", "--future", tmp_path / "bad.csv"],
        ["evaluate", releases / "chronos2", "--data", tmp_path / "bad.csv"],
        ["score", tmp_path / "bad.csv"],  # which looks for its own columns first
    ):
        foretrain(*words, code=2)
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and (message in error or words[0] == "score")
    assert {path.name for path in tmp_path.iterdir()} == {"bad.csv", "good.csv"}


@pytest.mark.parametrize("verb", [["data", "import"], ["data", "inspect"], ["forecast"], ["evaluate"], ["score"]])
def test_the_help_lists_the_options_of_reading_apart(verb, capsys):
    foretrain(*verb, "--help")
    own, _, shared = capsys.readouterr().out.partition(f"{PANEL}:")
    for flag in ("--id-column", "--timestamp-column", "--column", "--date-format", "--time-unit", "--dayfirst",
                 "--timezone", "--encoding", "--skip-rows", "--no-header", "--names", "--na-values"):  # fmt: skip
        assert f"{flag} " in shared or f"{flag}\n" in shared, flag
        assert flag not in own.replace("--column-", "")
    assert ("--duplicates" in shared) == (verb != ["score"])
