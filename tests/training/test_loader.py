from __future__ import annotations

import contextlib
import threading
import time

import pytest
import torch

from foretrain.distributed.world import World
from foretrain.errors import DataError
from foretrain.training import loader as module
from foretrain.training.loader import BatchIterator, BatchLoader, DevicePrefetcher, PreparedBatch
from foretrain.training.settings import MicroBatch, plan_run


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_batches_come_in_order_and_end(depth):
    batches = BatchIterator(lambda n: n * 10, iter(range(5)), depth)
    assert list(batches) == [0, 10, 20, 30, 40]
    with pytest.raises(StopIteration):
        next(batches)
    batches.close()


@pytest.mark.parametrize("depth", [0, 2])
def test_an_error_in_preparing_reaches_the_loop(depth):
    def prepare(n):
        if n == 2:
            raise DataError("window 2 is torn")
        return n

    batches = BatchIterator(prepare, iter(range(5)), depth)
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(DataError, match="window 2 is torn"):
        next(batches)
    batches.close()


def test_no_more_than_depth_batches_wait():
    made = []
    batches = BatchIterator(lambda n: made.append(n) or n, iter(range(100)), 2)
    next(batches)
    time.sleep(0.2)
    assert len(made) <= 4  # one taken, two in the queue, one being put
    batches.close()


def test_closing_ends_the_thread_while_its_batches_wait():
    before = threading.active_count()
    batches = BatchIterator(lambda n: n, iter(range(100)), 1)
    batches.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_prefetching_changes_no_loss(toy, tmp_path, depth):
    source = toy.Source()
    trainer = toy.trainer(tmp_path / "ahead", source=source, model=toy.Model(dropout=0.2), prefetch=depth)
    trainer.fit()
    toy.trainer(tmp_path / "plain", model=toy.Model(dropout=0.2)).fit()
    assert toy.losses(tmp_path / "ahead") == toy.losses(tmp_path / "plain")
    assert source.asked == [(8 * step, 8) for step in range(12)]


# -- copies to a device ----------------------------------------------------------------------------------------------

CPU = torch.device("cpu")


def prepared(**more) -> PreparedBatch:
    return PreparedBatch(MicroBatch(0, 0, 0, 1, False, True), {"x": torch.ones(2)}, 1, 1, 1, 1, **more)


def test_on_a_cpu_nothing_is_copied():
    ready = prepared()
    assert DevicePrefetcher(CPU)(ready) is ready
    assert ready.to(CPU)["x"] is ready.batch["x"]


class FakeCuda:
    """The calls of loader.py to torch.cuda, recorded in order: this machine may have no GPU."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.Stream = lambda device: self.stream_named("side")

    def stream_named(self, name: str):
        calls = self.calls

        class Stream:
            def wait_event(self, event):
                calls.append(f"{name} waits for {event}")

            def record_event(self):
                calls.append(f"event on {name}")
                return f"event of {name}"

            def __repr__(self):
                return name

        return Stream()

    @contextlib.contextmanager
    def stream(self, chosen):
        self.calls.append(f"enter {chosen}")
        yield
        self.calls.append(f"leave {chosen}")

    def current_stream(self, device):
        return self.stream_named("main")


class RecordingTensor(torch.Tensor):
    """A tensor on a GPU, as far as streams go."""

    streams: list[str]

    def record_stream(self, stream):
        self.streams = [*getattr(self, "streams", []), repr(stream)]


def test_a_batch_is_copied_on_a_separate_stream_and_used_once_the_copy_is_done(monkeypatch):
    fake = FakeCuda()
    monkeypatch.setattr(torch, "cuda", fake)

    def copied(batch, device):
        fake.calls.append(f"copy to {device}")
        return {name: tensor.as_subclass(RecordingTensor) for name, tensor in batch.items()}

    monkeypatch.setattr(module, "move", copied)
    device = torch.device("cuda", 0)
    on_gpu = DevicePrefetcher(device)(prepared())
    assert fake.calls == ["enter side", "copy to cuda:0", "leave side", "event on side"]
    fake.calls.clear()
    batch = on_gpu.to(device)
    assert fake.calls == ["main waits for event of side"]  # and no second copy
    assert batch["x"].streams == ["main"]  # its memory is not used again before main is done with it


def test_prefetched_batches_are_those_prepared_in_order():
    prefetched = []

    def prefetch(item):
        prefetched.append(item)
        return -item

    batches = BatchIterator(lambda n: n * 10, iter(range(1, 5)), 2, prefetch)
    assert list(batches) == [-10, -20, -30, -40] and prefetched == [10, 20, 30, 40]
    batches.close()


def test_without_a_thread_nothing_is_prefetched():
    batches = BatchIterator(lambda n: n, iter(range(3)), 0, lambda item: pytest.fail("prefetched"))
    assert list(batches) == [0, 1, 2]


# -- from windows to batches -----------------------------------------------------------------------------------------


def test_a_loader_gives_a_rank_its_windows_from_any_step_on(toy):
    config = toy.config(batch_size=8, micro_batch_size=3, prefetch=0, max_steps=3)
    plan, source = plan_run(config, epoch_length=50, world_size=2), toy.Source()
    loader = BatchLoader(toy.Model(), source, config, World(rank=1, size=2))
    items = list(loader.iterate(plan, 1, offset=16))
    assert [(p.micro_batch.step, p.micro_batch.k, p.micro_batch.idle) for p in items] == [
        (1, 1, False), (1, 3, True), (2, 1, False), (2, 3, True)
    ]  # fmt: skip
    assert source.asked == [(27, 3), (24, 3), (35, 3), (32, 3)]
    assert [(p.windows, p.rows, p.context_length, p.prediction_length) for p in items] == [(3, 1, 12, 4)] * 4
    assert loader.num_shapes is None
