"""Toto 1.0: sampled forecasts against the plain algorithm, and the closed form of the first patch beside them.

    python -m benchmarks.toto [--against plain] [--quick] [--only TEXT] [--json FILE] [--device cuda]

The plain algorithm is upstream's, written here with our modules: the context is repeated for every sample before it is
read, every step of every patch is unembedded, all components of every step are drawn and one is taken, and the
statistics are recomputed over the whole history for every patch; it has a KV cache. Both sides go from
contexts to paths with random weights of the published size. Before timing, the parameters of every patch's mixtures
are compared along one fixed continuation ("equal to" is the largest relative difference).
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks import harness

import torch  # isort: skip  (after the harness, which sets the threads)
import numpy as np
from tests.models.toto.plain import mixtures_along
from torch import Tensor

from foretrain.models.toto import generate
from foretrain.models.toto.config import preset
from foretrain.models.toto.distribution import StudentTMixture
from foretrain.models.toto.kv_cache import GrowingKVCache
from foretrain.models.toto.model import TotoNetwork
from foretrain.nn.layout import RowLayout

torch.set_num_threads(harness.THREADS)

VARIATES, SAMPLES, SEED = 6, 16, 7


@dataclass(frozen=True)
class Case:
    """A case: a forecast of 6 variates with 16 samples."""

    context: int
    horizon: int
    alternations: int = 3

    @property
    def name(self) -> str:
        return f"sample base ctx{self.context} H{self.horizon} 6 variates 16 samples"


CASES = [Case(512, 64, 5), Case(2048, 64), Case(512, 256)]
CLOSED_FORM = "closed form base ctx512 H64 6 variates 9 levels"


def base(device: str) -> TotoNetwork:
    """Return a network of the size of Toto-Open-Base-1.0 with random weights."""
    network = TotoNetwork.empty(preset("base"))
    network.initialise(0)
    return network.to(device).eval()


def series(case: Case, device: str) -> Tensor:
    """Return random walks (6, context)."""
    steps = np.random.default_rng(0).standard_normal((VARIATES, case.context))
    return torch.from_numpy(steps.cumsum(1).astype(np.float32)).to(device)


class Plain:
    """The plain algorithm: every sample is a row from the first patch on."""

    def __init__(self, network: TotoNetwork, context: Tensor, samples: int) -> None:
        self.network, self.rows, self.patches = network, context.repeat(samples, 1), 0
        self.layout = RowLayout.of(np.arange(samples).repeat(VARIATES))
        self.caches = [GrowingKVCache() for _ in range(network.layers_over_time)]
        self.prefix = context.shape[1]

    def mixtures(self) -> tuple[StudentTMixture, Tensor, Tensor]:
        """Read the new patches; return the mixtures (S * V, P, K) of the next patch and their loc and scale."""
        size = self.network.config.patch_size
        seen = torch.ones_like(self.rows, dtype=torch.bool)
        loc, scale = self.network.scaler(self.rows, seen, self.prefix)
        fresh = ((self.rows - loc) / scale)[:, self.patches * size :]
        hidden = self.network.hidden_states(fresh, self.layout, caches=self.caches, first=self.patches)
        self.patches += hidden.shape[1]
        found = self.network.mixtures(hidden)  # of every patch
        return found.map(lambda x: x[:, -1]), loc[:, -size:], scale[:, -size:]

    def run(self, horizon: int) -> Tensor:
        """Return sample paths (S, V, horizon)."""
        size, start = self.network.config.patch_size, self.rows.shape[1]
        for _ in range(-(-horizon // size)):
            mixtures, loc, scale = self.mixtures()
            drawn = torch.distributions.StudentT(mixtures.df, mixtures.loc, mixtures.scale).sample()
            component = torch.distributions.Categorical(logits=mixtures.log_weights).sample()
            values = drawn.gather(-1, component[..., None])[..., 0]
            self.rows = torch.cat((self.rows, generate.zero_nonfinite(values * scale + loc)), 1)
        return self.rows[:, start : start + horizon].unflatten(0, (-1, VARIATES))


@torch.inference_mode()
def unequal(network: TotoNetwork, case: Case, device: str) -> float:
    """Return the largest relative difference of the mixtures' parameters of both sides along one continuation."""
    context, size = series(case, device), network.config.patch_size
    forced = torch.randn(VARIATES, case.horizon, generator=torch.Generator().manual_seed(1)).to(device).cumsum(1)
    forced = forced + context[:, -1:]
    ours = mixtures_along(network, prompt_of(context), forced, SAMPLES)
    plain, worst = Plain(network, context, SAMPLES), 0.0
    for k, found in enumerate(ours):
        wanted = plain.mixtures()[0]
        for part in ("df", "loc", "scale", "weights"):
            a, b = getattr(found, part), getattr(wanted, part)
            worst = max(worst, float((a - b).abs().max() / b.abs().max()))
        patch = forced[:, k * size : (k + 1) * size].repeat(SAMPLES, 1)
        plain.rows = torch.cat((plain.rows, patch), 1)
    return worst


def prompt_of(context: Tensor) -> generate.TotoPrompt:
    """Return the context as one window of complete rows."""
    return generate.TotoPrompt(context, None, RowLayout.of(np.zeros(len(context), int)))


def sampling_case(network: TotoNetwork, case: Case, against: str | None, quick: bool, device: str) -> harness.Result:
    """Compare the mixtures of both sides, then time one case."""
    equal = unequal(network, case, device) if against else None
    if equal is not None and equal > 1e-4:
        raise SystemExit(f"{case.name}: the two sides differ by {equal:.1e}, so there is nothing to compare.")
    context = series(case, device)
    keys = torch.arange(VARIATES)

    @torch.inference_mode()
    def ours() -> None:
        generate.sample(network, prompt_of(context), case.horizon, num_samples=SAMPLES, keys=keys, seed=SEED)
        _wait(device)

    @torch.inference_mode()
    def plain() -> None:
        Plain(network, context, SAMPLES).run(case.horizon)
        _wait(device)

    alternations = 1 if quick else case.alternations
    return harness.compare(
        case.name, ours, plain if against else None, equal=equal, alternations=alternations, device=device
    )


def closed_form_case(network: TotoNetwork, quick: bool, device: str) -> harness.Result:
    """Time the exact quantiles of one patch, without sample paths; there is no reference for it."""
    case = Case(512, 64)
    context, keys, levels = series(case, device), torch.arange(VARIATES), [k / 10 for k in range(1, 10)]

    @torch.inference_mode()
    def ours() -> None:
        generate.forecast(network, prompt_of(context), case.horizon, levels, keys=keys)
        _wait(device)

    return harness.compare(CLOSED_FORM, ours, None, alternations=1 if quick else 5, device=device)


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def main() -> None:
    """Run the cases selected on the command line."""
    args = harness.parser(__doc__ or "", ("plain",)).parse_args()
    network, results = base(args.device), []
    for case in CASES:
        if args.only is None or args.only in case.name:
            results.append(sampling_case(network, case, args.against, args.quick, args.device))
    if args.only is None or args.only in CLOSED_FORM:
        results.append(closed_form_case(network, args.quick, args.device))
    harness.finish(results, args.json)


if __name__ == "__main__":
    main()
