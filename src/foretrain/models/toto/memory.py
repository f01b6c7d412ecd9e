"""What a forecast of Toto 1.0 takes in memory; generate.py computes it in these pieces.

# R rows, C context steps, P patch size, S slots of a row's context, D width, F MLP width, K components, L time layers
"""

from __future__ import annotations

from foretrain.models.memory import BatchSize, Phase, Piece
from foretrain.models.request import ForecastRequest
from foretrain.models.toto.model import TotoNetwork
from foretrain.models.toto.options import DEFAULT_SAMPLES, TotoOptions

FLOAT, WIDE = 4, 8  # bytes
_INPUT = 40  # bytes of a context step: stacked, collated, lifted, filled, scaled, and its statistics
_STATISTICS = 140  # of a context step while these are computed: sums in the wide type and their temporaries
_SOLVER = 28  # numbers of the wide type for a component of a quantile while it is solved for
_SORTED = 24  # bytes of a path's step while paths are sorted


def phases(network: TotoNetwork, size: BatchSize, request: ForecastRequest, usual: int, element: int) -> list[Phase]:
    """Return the phases of a forecast, whose pieces are tokens, samples, sorted rows and solved rows.

    usual: most tokens at once that are of use; element: bytes of a weight.
    """
    c, options, horizon = network.config, request.options_of(TotoOptions), request.prediction_length
    rows, width, steps = size.rows, c.embed_dim, min(size.steps, c.max_context_length)
    slots, patches = -(-steps // c.patch_size) + network.labels, -(-horizon // c.patch_size)
    components, levels = c.components or 1, len(request.quantile_levels)
    drawn = not (request.num_samples is None and patches == 1 and options.closed_form)
    stream, inputs = rows * slots * width * element, _INPUT * rows * steps
    masks = rows * slots * (4 * slots + 6 * FLOAT * (width // c.num_heads))  # where a row starts late
    caches = 2 * network.layers_over_time * stream if drawn else 0
    least = max(slots, size.widest)
    token = max(14 * width, 5 * width + 4 * c.mlp_hidden_dim) * element + 5 * slots
    layers = Piece(token, least, min(rows * slots, usual))
    mixtures = rows * c.patch_size * (2 * width * element + 40 * components * FLOAT)
    found = 3 * rows * horizon * levels * FLOAT
    solved = Piece(_SOLVER * WIDE * min(horizon, c.patch_size) * levels * components, 1, rows)
    prefill = [
        Phase(inputs + _STATISTICS * rows * steps),
        Phase(inputs + masks + 2 * stream + caches + mixtures, {"tokens": layers}),
    ]
    if not drawn:
        return [*prefill, Phase(inputs + mixtures + found, {"solved rows": solved})]
    count = request.num_samples or DEFAULT_SAMPLES
    paths = 2 * rows * count * horizon * FLOAT  # and those of the targets
    folded = width * 4 * components * c.patch_size * element  # unembedding and head as one map
    sampled = inputs + caches + mixtures + paths
    return [
        *prefill,
        Phase(sampled + 2 * stream + 2 * folded, {"samples": Piece(rows * _of_sample(network, slots, patches, element),
                                                                  1, count)}),
        Phase(sampled + found, {"sorted rows": Piece(_SORTED * count * horizon, 1, rows)}),
        Phase(sampled + found, {"solved rows": solved}),
    ]  # fmt: skip


def _of_sample(network: TotoNetwork, slots: int, patches: int, element: int) -> int:
    """Return the bytes of one sample of one row while it is decoded."""
    c = network.config
    own = 2 * (network.layers_over_time + 2) * patches * c.embed_dim * element  # cached; one layer's is copied
    layer = (20 * c.embed_dim + 5 * c.mlp_hidden_dim) * element
    scores = 6 * c.num_heads * (slots + patches) * FLOAT
    head = c.patch_size * (2 * c.embed_dim * element + 48 * (c.components or 1) * FLOAT)
    draws = c.patch_size * (12 * WIDE + 14 * WIDE)  # uniform numbers and running statistics
    return own + layer + scores + head + draws + 3 * patches * c.patch_size * FLOAT
