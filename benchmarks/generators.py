"""Speed of the generators of synthetic series, and their gallery.

    python -m benchmarks.generators [--length 576] [--json FILE]    # points a second and core, by generator
    python -m benchmarks.generators --gallery docs/img/generators.png
    python -m benchmarks.generators --gallery-groups docs/img/groups.png

One thread. A generator's figure is that of the best of several blocks, CPU time; the mixture's counts blocks of its own
lengths, after the factors of the kernels at each length are made. With --write N, N series are also written to a
corpus by --workers processes, wall-clock time including the start of the processes.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from pathlib import Path

from benchmarks import harness

import numpy as np  # isort: skip  (after the harness, which sets the threads)

from foretrain.data.synthetic.candles import Candles
from foretrain.data.synthetic.mixture import BLOCK, GENERATORS, Lengths, Mixture, draw_block, draw_series
from foretrain.data.synthetic.multivariate import KINDS, Multivariate
from foretrain.data.synthetic.to_disk import write_corpus
from foretrain.timeaxis.frequency import Frequency

SAMPLES = 8  # of each generator in the gallery
BARS = 64  # candles of a sample
ROUNDS = 5


def main() -> None:
    """Print a line a generator, or draw the gallery."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=576, help="steps of a series (default 576)")
    parser.add_argument("--gallery", type=Path, metavar="FILE", help="draw samples of every generator to this picture")
    parser.add_argument("--gallery-groups", type=Path, metavar="FILE", help="draw samples of every kind of group")
    parser.add_argument("--write", type=int, metavar="N", help="also write N series of this length to a corpus")
    parser.add_argument("--workers", type=int, default=2, help="processes that write (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    args = parser.parse_args()
    if args.gallery is not None:
        gallery(args.gallery)
    if args.gallery_groups is not None:
        groups_gallery(args.gallery_groups)
    if args.gallery is not None or args.gallery_groups is not None:
        return
    print(f"{harness.describe('cpu')}; {harness.commit()}; {args.length} steps, blocks of {BLOCK} series")
    figures = {kind.__name__: speed(kind(), args.length) for kind in GENERATORS}
    fixed = Mixture(lengths=(Lengths(shortest=args.length, longest=args.length),))
    figures["groups of four rows"] = groups_speed(args.length)
    figures["mixture of this length"] = mixture_speed(fixed)
    figures["mixture of its own lengths"] = mixture_speed(Mixture())
    for name, (points, series) in figures.items():
        print(f"{name:<28} {points / 1e6:>7.2f} M points/s {series:>9,.0f} series/s")
    text = {name: {"points_per_second": p, "series_per_second": s} for name, (p, s) in figures.items()}
    if args.write:
        wall = written(fixed, args.write, args.workers)
        print(f"{args.write:,} series written in {wall:.1f} s: {3600 * args.write / wall / 1e6:.1f} M series an hour")
        text["written"] = {"series": args.write, "workers": args.workers, "seconds": wall}
    if args.json:
        facts = {"machine": harness.describe("cpu"), "commit": harness.commit(), "length": args.length, "speed": text}
        args.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def speed(generator, length: int) -> tuple[float, float]:
    """Return points and series a CPU second."""
    generator.draw(np.random.default_rng(0), BLOCK, length)
    times = []
    for round_ in range(ROUNDS):
        start = time.process_time()
        generator.draw(np.random.default_rng(round_), BLOCK, length)
        times.append(time.process_time() - start)
    return BLOCK * length / min(times), BLOCK / min(times)


def groups_speed(length: int) -> tuple[float, float]:
    """Return values and groups a CPU second of blocks of groups of four rows, their base series included."""

    def draw(seed: int) -> None:
        Multivariate().draw(np.random.default_rng(seed), BLOCK, length, 2, 1, 1, base)

    draw(0)
    times = []
    for round_ in range(ROUNDS):
        start = time.process_time()
        draw(round_)
        times.append(time.process_time() - start)
    return 4 * BLOCK * length / min(times), BLOCK / min(times)


def base(rng: np.random.Generator, count: int, length: int) -> np.ndarray:
    """Return series of the mixture."""
    return draw_series(Mixture(), rng, count, length)[0]


def mixture_speed(mixture: Mixture, blocks: int = 40) -> tuple[float, float]:
    """Return points and series a CPU second, of blocks drawn once before."""
    for number in range(blocks):
        draw_block(mixture, number)
    start, points = time.process_time(), 0
    for number in range(blocks):
        points += draw_block(mixture, number).values.size
    spent = time.process_time() - start
    return points / spent, blocks * BLOCK / spent


def written(mixture: Mixture, count: int, workers: int) -> float:
    """Return the seconds that writing a corpus takes."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        write_corpus(mixture, Path(folder) / "out", count, workers=workers)
        return time.perf_counter() - start


def draw_candles(axes) -> None:
    """Draw daily and 30-minute bars, half of each, with the volume below."""
    for freq, some in zip(("B", "30min"), np.split(axes, 2), strict=True):
        samples, _ = Candles().bars(np.random.default_rng(7), len(some), Frequency.parse(freq), BARS)
        for axis, bars in zip(some, samples.astype(np.float64), strict=True):
            opened, high, low, close, volume, _ = bars
            t, color = np.arange(BARS), np.where(close < opened, "black", "C0")
            axis.vlines(t, low, high, color=color, linewidth=0.5)
            axis.vlines(t, np.minimum(opened, close), np.maximum(opened, close), color=color, linewidth=1.4)
            height, floor = np.ptp(bars[:4]) / 4, bars[:4].min()
            axis.vlines(t, floor - 1.2 * height, floor - 1.2 * height + height * volume / volume.max(), color="grey")


def gallery(path: Path) -> None:
    """Draw samples of every generator, a row each."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(GENERATORS), SAMPLES, figsize=(2 * SAMPLES, 1.3 * len(GENERATORS)))
    for row, kind in zip(axes, GENERATORS, strict=True):
        if kind is Candles:
            draw_candles(row)
        else:
            samples = kind().draw(np.random.default_rng(7), SAMPLES, 256)
            for place, axis in enumerate(row):
                axis.plot(samples[place], linewidth=0.7)
        for place, axis in enumerate(row):
            axis.set(xticks=[], yticks=[])
            if not place:
                axis.set_ylabel(kind.__name__, fontsize=7)
    save(figure, path, 16)


def groups_gallery(path: Path) -> None:
    """Draw samples of every kind of group, a row each: two targets above one past and two known covariates."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    colours = ("C0", "C9", "C1", "C2", "C8")
    figure, axes = plt.subplots(len(KINDS), SAMPLES, figsize=(2.4 * SAMPLES, 2.2 * len(KINDS)))
    for row, kind in zip(axes, KINDS, strict=True):
        only = Multivariate(weights={name: float(name == kind) for name in KINDS})
        samples = only.draw(np.random.default_rng(8), SAMPLES, 192, 2, 1, 2, base)
        for axis, group in zip(row, samples, strict=True):
            for place, values in enumerate(group):
                height = np.ptp(values) or 1.0
                axis.plot((values - values.min()) / height - 1.15 * place, linewidth=0.7, color=colours[place])
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(kind.replace("_", " "), fontsize=8)
    names = ("target 1", "target 2", "past covariate", "known covariate 1", "known covariate 2")
    handles = [plt.Line2D([], [], color=colour) for colour in colours]
    figure.legend(handles, names, loc="upper center", ncols=len(names), fontsize=8, frameon=False)
    figure.tight_layout(pad=0.4, rect=(0, 0, 1, 0.975))
    save(figure, path, 32)


def save(figure, path: Path, colours: int) -> None:
    """Write a figure as a picture of few colours, a quarter of the bytes."""
    from PIL import Image

    picture = io.BytesIO()
    figure.savefig(picture, dpi=70)
    Image.open(picture).convert("RGB").quantize(colours).save(path, optimize=True)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
