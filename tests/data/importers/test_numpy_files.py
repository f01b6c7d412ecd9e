"""Arrays in files: told by their content, and never larger than what is there."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests.data.importers.importing import imported

from foretrain.data.importers import import_corpus
from foretrain.errors import DataError

VALUES = np.arange(80, dtype=np.float32).reshape(2, 40)


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as written:
        for name, content in members.items():
            written.writestr(name, content)
    return file.getvalue()


def header(text: str) -> bytes:
    raw = text.encode() + b" " * (63 - (len(text) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw


def flipped(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 0xFF]) + raw[at + 1 :]


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "A.NPZ", "A.Npy"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_content_tells_the_kind_whatever_the_name(tmp_path: Path, name: str, order) -> None:
    for kind, raw in (("npy", saved(np.array(VALUES, order=order))), ("npz", archive(**{"x.npy": saved(VALUES[:1])}))):
        path = tmp_path / kind / name
        path.parent.mkdir()
        path.write_bytes(raw)
        corpus, _ = imported(tmp_path, path)
        np.testing.assert_array_equal(corpus.values(0), VALUES[:1])
        assert corpus.num_series == (2 if kind == "npy" else 1)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"hello world" * 10, "begins like neither"),
        (b"", "begins like neither"),
        (b"\x93NUMPY", "magic"),
        (flipped(archive(**{"x.npy": saved(VALUES)}), 60), "CRC|invalid|Error"),
        (archive(**{"x.npy": saved(VALUES)})[:200], "not a zip file"),
        (archive(**{"x.txt": b"1,2,3"}), "member 'x.txt' is no array"),
        (archive(**{"x.npy": b"1,2,3"}), "magic"),
        (archive(), "holds no arrays"),
        (saved(np.zeros((3, 0))), r"shape \(3, 0\) holds no values"),
        (saved(VALUES)[:-1], "320 bytes, and 319 follow"),
        (saved(np.array([{}], object)), "objects, which only pickle reads"),
        (header("{'descr':'<f4','fortran_order':False,'shape':(1000000000000,)}"), "4,000,000,000,000 bytes, and 0"),
        (header("{'descr':'<f4','fortran_order':False,'shape':(-1,)}"), "-4 bytes"),
        (header("__import__('os').system('touch x')"), "[Cc]annot parse|malformed|header"),
        (header("{'descr':'<f4',"), "header|EOF"),
        (saved(np.array(["a", "b"])), "holds <U1, not numbers"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_damaged_and_lying_files_are_one_line(tmp_path: Path, raw: bytes, why: str, name: str) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(DataError, match=rf"{name}.*({why})") as raised:
        import_corpus([tmp_path / name], tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_member_that_claims_far_more_than_it_packs_is_refused_before_it_is_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("foretrain.data.importers.content.LARGEST_UNCHECKED", 100_000)
    (tmp_path / "a.npz").write_bytes(archive(**{"x.npy": saved(np.zeros(1_000_000))}))
    with pytest.raises(DataError, match=r"member 'x\.npy' claims 8,000,128 bytes in"):
        import_corpus([tmp_path / "a.npz"], tmp_path / "out")


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    for name in ("a.npy", "a.csv", "a.parquet"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(DataError, match=f"{name}: is no plain file"):
            import_corpus([tmp_path / name], tmp_path / "out")
