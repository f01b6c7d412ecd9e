"""Deterministic shapes: steps, pulses, square waves, sawtooths, triangles, spikes, and smooth waves with anomalies."""

from __future__ import annotations

from typing import Literal

import numpy as np

from foretrain.data.synthetic.base import Clean, Floats, Share, chance, pick, seasons_for

_KINDS = 7
_MOST_EVENTS = 8


class Shapes(Clean):
    """One of seven shapes, with little noise."""

    kind: Literal["shapes"] = "shapes"
    clean: Share = 0.2

    def draw(self, rng: np.random.Generator, count: int, length: int) -> Floats:
        """Return (count, length) draws."""
        return self.observed(rng, np.choose(rng.integers(0, _KINDS, (count, 1)), self.shapes(rng, count, length)))

    def shapes(self, rng: np.random.Generator, count: int, length: int) -> tuple[Floats, ...]:
        """Return each shape (count, length), in the order of the module's first line."""
        t = np.arange(length)
        period = pick(rng, seasons_for(length), count, 1)
        place = (t / period + rng.random((count, 1))) % 1.0
        events = self._events(rng, count, length)
        duty = rng.uniform(0.1, 0.9, (count, 1))
        spikes = (place < 1.0 / period) * rng.uniform(0.5, 1.5, (count, length))
        wave = np.sin(2 * np.pi * place)
        width = np.maximum(1, (rng.uniform(0.005, 0.05, (count, 1)) * length).astype(np.int64))
        pulses = self._pulses(events, width)
        return (
            np.cumsum(events, axis=1),
            pulses,
            np.where(place < duty, 1.0, -1.0),
            np.where(chance(rng, 0.5, count, 1), place, 1.0 - place),
            np.abs(2.0 * place - 1.0),
            spikes,
            wave + 2.0 * events,
        )

    @staticmethod
    def _events(rng: np.random.Generator, count: int, length: int) -> Floats:
        """Return (count, length) zeros with one to eight jumps of random height in each row."""
        out = np.zeros((count, length))
        number = rng.integers(1, _MOST_EVENTS, (count, 1), endpoint=True)
        for k in range(_MOST_EVENTS):
            rows = np.flatnonzero(number[:, 0] > k)
            out[rows, rng.integers(0, length, len(rows))] += rng.normal(0.0, 1.5, len(rows))
        return out

    @staticmethod
    def _pulses(events: Floats, width: np.ndarray) -> Floats:
        """Return events that last `width` (N, 1) steps."""
        total = np.cumsum(events, axis=1)
        before = np.maximum(np.arange(events.shape[1]) - width, -1)
        ended = np.take_along_axis(total, np.maximum(before, 0), axis=1)
        return total - np.where(before >= 0, ended, 0.0)
