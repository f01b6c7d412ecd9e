"""Importing into a corpus that exists, and disks that refuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.data.test_importers import bars_csv, dates, load, ohlcv, write_csv
from tests.waiting import DEADLINE

from foretrain.data.importers import import_corpus
from foretrain.data.store import Corpus
from foretrain.errors import DataError


def test_update_appends_new_bars_and_items_and_keeps_old_values(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for k, name in enumerate(["A", "B"]):
        write_csv(folder / f"{name}.csv", "date,open,high,low,close,volume", dates(60), ohlcv(80, k)[:60])
    import_corpus([folder], out)
    before = Corpus.open(out)
    old_hash, old_values = before.fingerprint, np.array(before.values(0))
    values = ohlcv(80, 0)
    values[50, 3] += 0.25
    write_csv(folder / "A.csv", "date,open,high,low,close,volume", dates(80)[40:], values[40:])
    bars_csv(folder / "C.csv", 70, 5)
    report = import_corpus([folder], out, update=True)
    corpus, rules = load(out)
    assert list(corpus.item_ids(range(3))) == ["A", "B", "C"]
    assert corpus.lengths.tolist() == [80, 60, 70]
    np.testing.assert_array_equal(corpus.values(0)[:, :60], old_values)
    np.testing.assert_allclose(corpus.values(0)[:, 60:], values[60:].T, rtol=1e-6)
    assert rules["revised"]["rows"] == 1
    assert rules["revised"]["examples"][0]["time"] == dates(80)[50]
    assert report.changed
    assert len(corpus.manifest.provenance["sources"]) == 5
    assert corpus.fingerprint != old_hash
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.old", "in", "out"]


def test_an_update_keeps_what_the_corpus_calls_covariates(tmp_path: Path) -> None:
    for days in (60, 80):
        write_csv(tmp_path / "A.csv", "date,target,feat_dynamic_real", dates(days), ohlcv(80, 0)[:days, :2])
        report = import_corpus([tmp_path / "A.csv"], tmp_path / "out", update=days == 80)
        manifest = Corpus.open(tmp_path / "out").manifest
        assert (report.changed, manifest.known_covariates) == (True, ("feat_dynamic_real",))


def test_an_update_without_new_rows_changes_nothing(tmp_path: Path) -> None:
    bars_csv(tmp_path / "A.csv")
    import_corpus([tmp_path / "A.csv"], tmp_path / "out")
    stamp = (tmp_path / "out" / "manifest.json").stat().st_mtime_ns
    report = import_corpus([tmp_path / "A.csv"], tmp_path / "out", update=True)
    assert not report.changed
    assert "nothing new" in report.text()
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns == stamp


def test_an_existing_corpus_is_never_overwritten_and_a_failed_update_keeps_it(tmp_path: Path) -> None:
    bars_csv(tmp_path / "A.csv")
    out = tmp_path / "out"
    import_corpus([tmp_path / "A.csv"], out)
    before = Corpus.open(out).fingerprint
    with pytest.raises(DataError, match=r"exists already\. Say --update .* or choose another --out"):
        import_corpus([tmp_path / "A.csv"], out)
    write_csv(
        tmp_path / "other.csv",
        "date,open,high,low,close,volume,extra",
        dates(70),
        np.column_stack([ohlcv(70), ohlcv(70)[:, :1]]),
    )
    with pytest.raises(DataError, match=r"columns the corpus lacks \(extra\)"):
        import_corpus([tmp_path / "other.csv"], out, update=True)
    with pytest.raises(DataError, match="its data are real, the new ones synthetic"):
        import_corpus([tmp_path / "A.csv"], out, update=True, provenance="synthetic")
    with pytest.raises(DataError, match="--update with --adjust"):
        import_corpus([tmp_path / "A.csv"], out, update=True, adjust=True)
    with pytest.raises(DataError, match="no corpus to update"):
        import_corpus([tmp_path / "A.csv"], tmp_path / "nothing", update=True)
    assert Corpus.open(out).fingerprint == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["A.csv", "other.csv", "out"]


@pytest.mark.parametrize("newest", [80, 60])
def test_an_update_names_rows_that_the_corpus_lacks_before_its_last_bar(tmp_path: Path, newest: int) -> None:
    values = ohlcv(80, 0)
    at = [k for k in range(10, 60) if k not in (30, 31)]
    write_csv(tmp_path / "A.csv", "date,open,high,low,close,volume", [dates(80)[k] for k in at], values[at])
    import_corpus([tmp_path / "A.csv"], tmp_path / "out")
    write_csv(tmp_path / "A.csv", "date,open,high,low,close,volume", dates(80)[:newest], values[:newest])
    report = import_corpus([tmp_path / "A.csv"], tmp_path / "out", update=True)
    found = report.rules["older_rows"]
    assert (found["items"], found["rows"]) == (1, 12) and found["examples"][0]["time"] == dates(80)[0]
    assert "older_rows (warning): 1 item, 12 rows -> left out; import all files again" in report.text()
    assert report.changed == (newest == 80)


def test_an_update_that_only_revises_says_so(tmp_path: Path) -> None:
    bars_csv(tmp_path / "A.csv")
    import_corpus([tmp_path / "A.csv"], tmp_path / "out")
    text = (tmp_path / "A.csv").read_text().splitlines()
    cells = text[20].split(",")
    text[20] = ",".join([*cells[:-1], str(float(cells[-1]) + 500)])
    (tmp_path / "A.csv").write_text("\n".join(text) + "\n")
    report = import_corpus([tmp_path / "A.csv"], tmp_path / "out", update=True)
    assert not report.changed and report.rules["revised"]["rows"] == 1
    assert "nothing new" in report.text() and "revised (warning)" in report.text()
    with pytest.raises(DataError, match="revised"):
        import_corpus([tmp_path / "A.csv"], tmp_path / "out", update=True, on_bad="error")


@pytest.mark.parametrize("on_bad", ["fix", "drop"])
def test_rules_leave_out_new_items_and_rows_but_never_stored_ones(tmp_path: Path, on_bad) -> None:
    """Stored: damaged bars, a twin, a short item, a split; the files: an item of another frequency, and more bars."""
    head, folder = "date,open,high,low,close,volume", tmp_path / "in"
    damaged, split = ohlcv(60, 0), ohlcv(60, 1)
    damaged[3, 1] = damaged[3, 2] - 5  # a high below its low
    damaged[4, 0] = -1
    split[30:, :4] /= 4
    for name, values in (("damaged", damaged), ("twin", damaged), ("split", split), ("short", ohlcv(3, 2))):
        write_csv(folder / f"{name}.csv", head, dates(len(values)), values)
    import_corpus([folder], tmp_path / "out")
    before = Corpus.open(tmp_path / "out")
    old = {before.item_id(k): (np.array(before.values(k)), before.times(k)) for k in range(before.num_series)}
    more = tmp_path / "more"
    hours = [f"2024-03-01 {h // 4 % 24:02d}:{h % 4 * 15:02d}" for h in range(80)]
    for k in range(6):
        write_csv(more / f"quarter{k}.csv", head, hours, ohlcv(80, 10 + k))
    later = ohlcv(62, 0)
    later[60, 1] = later[60, 2] - 5
    write_csv(more / "damaged.csv", head, dates(62)[58:], later[58:])
    report = import_corpus([more], tmp_path / "out", update=True, on_bad=on_bad, min_rows=5)
    after = Corpus.open(tmp_path / "out")
    for k, item in enumerate(after.item_ids()):
        if item in old:
            values, times = old.pop(item)
            np.testing.assert_array_equal(after.values(k)[:, : values.shape[1]], values)
            found = after.times(k)
            assert found is not None and times is not None
            np.testing.assert_array_equal(found[: len(times)], times)
            assert len(found) - len(times) == ({"fix": 2, "drop": 1}[on_bad] if item == "damaged" else 0)
    assert not old
    assert set(report.dropped) == ({f"quarter{k}" for k in range(6)} if on_bad == "drop" else set())


def test_new_stamps_of_another_kind_than_the_stored_ones_are_left_out_or_refused(tmp_path: Path) -> None:
    head, values = "date,value", ohlcv(60, 0)[:, :1]
    stamps = [f"2024-01-{1 + h // 24:02d} {h % 24:02d}:00" for h in range(60)]
    write_csv(tmp_path / "a.csv", head, stamps[:50], values[:50])
    import_corpus([tmp_path / "a.csv"], tmp_path / "out")
    folder = tmp_path / "more"
    for k in range(3):
        write_csv(folder / f"b{k}.csv", head, [f"{stamp}Z" for stamp in stamps], values)
    report = import_corpus([tmp_path / "a.csv", folder], tmp_path / "out", update=True, on_bad="drop")
    assert set(report.dropped) == {"b0", "b1", "b2"} and not report.changed
    write_csv(folder / "a.csv", head, [f"{stamp}Z" for stamp in stamps], values)
    with pytest.raises(DataError, match="rule mixed_timezones"):
        import_corpus([folder], tmp_path / "out", update=True, on_bad="drop")
    assert Corpus.open(tmp_path / "out").lengths.tolist() == [50]


@pytest.mark.processes
def test_a_disk_that_refuses_to_write_leaves_one_line_and_no_files(tmp_path: Path) -> None:
    for k in range(4):
        bars_csv(tmp_path / "in" / f"S{k}.csv", 2000, k)
    script = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
from foretrain.data.importers import import_corpus
from foretrain.errors import DataError
try:
    import_corpus([{str(tmp_path / "in")!r}], {str(tmp_path / "out")!r})
except DataError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=DEADLINE)
    assert "out: cannot be written: File too large" in done.stdout, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_an_update_does_not_give_damaged_rows_a_new_hash(tmp_path: Path) -> None:
    bars_csv(tmp_path / "A.csv", 60, 0)
    import_corpus([tmp_path / "A.csv"], tmp_path / "out")
    shard = next((tmp_path / "out").glob("*.arrow"))
    raw = bytearray(shard.read_bytes())
    raw[raw.index(np.float32(load(tmp_path / "out")[0].values(0)[0, 30]).tobytes())] ^= 1
    shard.write_bytes(raw)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    bars_csv(tmp_path / "B.csv", 60, 1)
    with pytest.raises(DataError, match="its content differs from the hash"):
        import_corpus([tmp_path / "B.csv"], tmp_path / "out", update=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
