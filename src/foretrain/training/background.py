"""Writing a checkpoint in a thread while training goes on: a copy of its tensors, and the thread that writes them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from foretrain.distributed.world import local


class HostCopy:
    """Copies of a checkpoint's tensors in the memory of the host, in buffers that every save uses again."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def copy(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return this process' parts of tensors as they are now. Training may go on once this has returned."""
        on_gpu = False
        for name, tensor in tensors.items():
            part = local(tensor)
            buffer = self._buffers.get(name)
            if buffer is None or buffer.shape != part.shape or buffer.dtype != part.dtype:
                buffer = torch.empty(part.shape, dtype=part.dtype, pin_memory=part.device.type == "cuda")
                self._buffers[name] = buffer
            # only a copy into pinned memory is waited for below; of other devices it must be complete here
            buffer.copy_(part.detach(), non_blocking=part.device.type == "cuda")
            on_gpu |= part.device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize()
        return {name: self._buffers[name] for name in tensors}


class Background:
    """A function that runs in a thread; its error is raised by wait."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self.error: BaseException | None = None  # with which it has ended
        # a daemon: a run that fails elsewhere must end, whatever this thread waits for
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """True if it has ended, with an error or without."""
        return not self._thread.is_alive()

    @property
    def failed(self) -> bool:
        """True if it has ended with an error."""
        return self.ended and self.error is not None

    def wait(self) -> None:
        """Wait until it has ended. Raises its error."""
        self._thread.join()
        if self.error is not None:
            raise self.error

    def abandon(self, patience: float) -> bool:
        """Wait for it, at most so many seconds; return whether it has ended without an error."""
        self._thread.join(patience)
        return self.ended and self.error is None

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # any, as torch's CheckpointException is one: the loop raises it where it waits
            self.error = error
