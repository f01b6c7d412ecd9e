"""Readers of small files: what they refuse, in one line and at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from foretrain.reading import DEEPEST, Unreadable, parse_json, read_bytes, read_json, read_object, read_text


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_what_is_within_bounds_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    text = '{"a": [1, -18446744073709551616, 2.5, null, "é"], "b": ' + nested(DEEPEST - 1) + "}"
    path.write_text(text, encoding="utf-8")
    found = read_object(path)
    assert found["a"] == [1, -(2**64), 2.5, None, "é"]
    assert read_json(path) == found and read_text(path) == text and read_bytes(path) == text.encode()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not JSON: .*, line 1"),
        ("", "not JSON"),
        (nested(DEEPEST + 1), "nested more than 100 deep"),
        (nested(100_000), "nested more than 100 deep"),
        ('{"a": ' * 500 + "1" + "}" * 500, "nested more than 100 deep"),
        ("9" * 5000, r"the number 999999999999\.\.\. has 5000 digits"),
        ("18446744073709551617", "has 20 digits"),
        ('{"a": NaN}', "the number NaN is not finite"),
        ("[-Infinity]", "the number -Infinity is not finite"),
        ("1e999", "the number 1e999 is not finite"),
    ],
)
def test_what_is_beyond_them_is_one_line(text: str, why: str) -> None:
    with pytest.raises(Unreadable, match=why) as raised:
        parse_json(text)
    assert "\n" not in str(raised.value)


def test_bytes_that_are_no_text_and_files_that_are_too_large_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(Unreadable, match="not UTF-8 text, from byte 7"):
        read_json(path)
    with pytest.raises(Unreadable, match="10 bytes, more than 9"):
        read_bytes(path, 9)
    path.write_text("[1]")
    with pytest.raises(Unreadable, match="not a JSON object, but a list"):
        read_object(path)


def test_pipes_devices_and_folders_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(Unreadable, match="not a plain file"):
            read_text(path)
    with pytest.raises((Unreadable, IsADirectoryError)):
        read_text(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "nothing")
