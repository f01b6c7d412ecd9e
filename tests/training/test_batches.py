from __future__ import annotations

import threading
import time

import pytest

from foretrain.errors import DataError
from foretrain.training.batches import Batches


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_batches_come_in_order_and_end(depth):
    batches = Batches(lambda piece: piece * 10, iter(range(5)), depth)
    assert list(batches) == [0, 10, 20, 30, 40]
    with pytest.raises(StopIteration):
        next(batches)
    batches.close()


@pytest.mark.parametrize("depth", [0, 2])
def test_an_error_in_preparing_reaches_the_loop(depth):
    def prepare(piece):
        if piece == 2:
            raise DataError("window 2 is torn")
        return piece

    batches = Batches(prepare, iter(range(5)), depth)
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(DataError, match="window 2 is torn"):
        next(batches)
    batches.close()


def test_no_more_than_depth_batches_wait():
    made = []
    batches = Batches(lambda piece: made.append(piece) or piece, iter(range(100)), 2)
    next(batches)
    time.sleep(0.2)
    assert len(made) <= 4  # one taken, two waiting, one in hand
    batches.close()


def test_closing_ends_the_thread_though_nobody_takes_its_batches():
    before = threading.active_count()
    batches = Batches(lambda piece: piece, iter(range(100)), 1)
    batches.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_preparing_ahead_changes_nothing_but_when(toy, tmp_path, depth):
    source = toy.Source()
    trainer = toy.trainer(tmp_path / "ahead", source=source, model=toy.Model(dropout=0.2), prefetch=depth)
    trainer.fit()
    toy.trainer(tmp_path / "plain", model=toy.Model(dropout=0.2)).fit()
    assert toy.losses(tmp_path / "ahead") == toy.losses(tmp_path / "plain")
    assert source.asked == [(8 * step, 8) for step in range(12)]
