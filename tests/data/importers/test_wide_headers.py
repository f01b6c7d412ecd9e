"""Times in the header of a table whose rows are series."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.importers.importing import DAYS, first_stamp, imported, items, written

from foretrain.errors import DataError


def table(stamps: list[str]) -> list[str]:
    cells = ",".join(str(k) for k in range(len(stamps)))
    return [f"name,{','.join(stamps)}", f"a,{cells}", f"b,{cells[::-1]}"]


def test_years_that_leave_one_out_are_all_read(tmp_path: Path) -> None:
    written(tmp_path / "in" / "a.csv", table(["2018", "2019", "2021", "2022", "2023", "2024"]))
    corpus, _ = imported(tmp_path)
    assert first_stamp(corpus) == "2018-01-01T00:00:00" and corpus.length(0) == 7
    assert items(corpus)["a"][0][:2] == [0, 1]


@pytest.mark.parametrize("stamps", [["2020", "2019", "2021", "2022"], [DAYS[3], DAYS[0], DAYS[1], DAYS[2], DAYS[4]]])
def test_times_out_of_order_are_refused_rather_than_left_out(tmp_path: Path, stamps: list[str]) -> None:
    written(tmp_path / "in" / "a.csv", table(stamps))
    with pytest.raises(DataError):
        imported(tmp_path)


@pytest.mark.parametrize("pattern", ["%d/%m/%Y", "%m/%d/%Y", "%d.%m.%y"])
def test_date_format_says_how_a_header_is_read(tmp_path: Path, pattern: str) -> None:
    days = [f"{pattern.replace('%d', f'{d:02d}').replace('%m', '03').replace('%Y', '2024').replace('%y', '24')}"
            for d in range(1, 11)]  # fmt: skip
    written(tmp_path / "in" / "a.csv", table(days))
    corpus, _ = imported(tmp_path, date_format=pattern)
    assert first_stamp(corpus) == "2024-03-01T00:00:00" and corpus.manifest.freq == "D"


def test_a_header_of_undecided_dates_is_refused_by_name(tmp_path: Path) -> None:
    written(tmp_path / "in" / "a.csv", table([f"{d:02d}/03/2024" for d in range(1, 11)]))
    with pytest.raises(DataError, match=r"a\.csv: the header: .*day first or month first"):
        imported(tmp_path)


OFFSET = [f"2024-01-01 {hour:02d}:00:00+05:00" for hour in range(1, 12)]


@pytest.mark.parametrize(
    ("midnight", "hours", "options"),
    [
        ("2024-01-01 00:00:00+05:00", OFFSET, {}),
        ("2024-01-01 00:00:00", [stamp[:19] for stamp in OFFSET], {"timezone": "Asia/Karachi"}),
    ],
)
def test_a_file_of_midnights_keeps_its_place_among_the_hours_of_its_item(
    tmp_path: Path, midnight: str, hours: list[str], options: dict[str, str]
) -> None:
    written(tmp_path / "in" / "X-1.csv", ["date,v", f"{midnight},100"])
    written(tmp_path / "in" / "X-2.csv", ["date,v", *(f"{stamp},{k}" for k, stamp in enumerate(hours))])
    corpus, report = imported(tmp_path, id_pattern="^(X)", **options)
    assert report.lost["rows"] == 0 and corpus.length(0) == 12
    assert first_stamp(corpus) == "2023-12-31T19:00:00" and corpus.values(0)[0][0] == 100
