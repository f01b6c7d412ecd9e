"""Forecasts patch by patch against numbers recorded from the reference code, with its cache and without it.

Upstream decays positions around the middle of each call, so that its cached forecasts are slightly off its uncached
ones; `recentre` gives the former.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tests.models.toto.plain import Decoder, forecast_mean
from tests.models.toto.test_golden_network import EXACT, components

pytestmark = pytest.mark.golden

both = pytest.mark.parametrize(("cache", "recentre"), [("cache", True), ("nocache", False)])


def known_of(case) -> torch.Tensor | None:
    if case.exogenous is None:
        return None
    known = torch.full((len(case.series), 24), torch.nan)
    known[case.exogenous] = F.pad(case.inputs["future_exogenous"].flatten(0, 1), (0, 4))  # upstream rounds up with 0
    return known


@both
@torch.no_grad()
def test_a_forced_path_gives_the_recorded_distributions(case, cache, recentre, apart):
    decoder = Decoder(case.network, *case.context, exogenous=case.exogenous, compat=True, recentre=recentre)
    path = case.inputs["forced_path"].flatten(0, 1)
    for k in range(4):
        for name, value in components(case, decoder.mixtures).items():
            assert apart(value, case.expected[f"forced_{cache}.{name}"][:, k]) < EXACT, (k, name)
        for name, value in decoder.statistics._asdict().items():
            assert apart(value.expand(-1, 8), case.expected[f"forced_{cache}.unscale_{name}"][:, k]) < EXACT
        decoder.append(path[:, 8 * k : 8 * k + 8])


@both
def test_forecasts_of_the_mean_are_the_recorded_ones(case, cache, recentre, apart):
    series, observed, layout = case.context
    for kept, name in ((48, "forecast_aligned"), (45, "forecast_mean")):
        given = (F.pad(x[:, -kept:], (48 - kept, 0)) for x in (series, observed))
        decoder = Decoder(case.network, *given, layout, exogenous=case.exogenous, compat=True, recentre=recentre)
        assert apart(forecast_mean(decoder, 20, known_of(case)), case.expected[f"{name}_{cache}"]) < EXACT


def test_centred_and_recentred_caches_differ(case):
    """The control of the tests above."""
    found = [
        forecast_mean(Decoder(case.network, *case.context, exogenous=case.exogenous, recentre=way), 20)
        for way in (True, False)
    ]
    assert (found[0] - found[1]).abs().max() > 1e-4
