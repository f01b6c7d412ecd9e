"""What a forecast of Toto 2.0 takes in memory; decode.py computes it in pieces of tokens.

# R rows, C context steps, P patch size, S tokens of a row, N patches ahead, D width, H heads, G heads of keys, Q levels
"""

from __future__ import annotations

from foretrain.models.memory import BatchSize, Phase, Piece
from foretrain.models.request import ForecastRequest
from foretrain.models.toto2.config import LEVELS, Toto2Config
from foretrain.models.toto2.decode import Toto2Options

FLOAT, WIDE = 4, 8  # bytes
_INPUT = 56  # bytes of a step: stacked, collated, lifted, filled, joined, copied to be filled in, masks, scaled
_STATISTICS = 130  # of a step while it is scaled: sums in the wide type and their temporaries


def phases(c: Toto2Config, size: BatchSize, request: ForecastRequest, usual: int, element: int) -> tuple[Phase, ...]:
    """Return the phases of a forecast. usual: most tokens at once that are of use; element: bytes of a weight."""
    options, horizon = request.options_of(Toto2Options), request.prediction_length
    rows, patches = size.rows, -(-min(size.steps, c.context_length) // c.patch_size)
    ahead = -(-horizon // c.patch_size)
    block = min(options.block_patches(c.patch_size) or ahead, ahead)
    tokens = patches + ahead
    steps = tokens * c.patch_size
    widest = max(tokens, size.widest)
    stream = rows * tokens * c.d_model * element
    caches = 0
    if block < ahead:
        over_time = c.num_layers - sum(c.over_variates)
        caches = over_time * rows * tokens * c.num_groups * (c.qk_dim + c.v_dim) * element
    masks = rows * tokens * 3 * (tokens + size.widest)  # where tokens are masked
    quantiles = rows * ahead * c.patch_size * (len(LEVELS) * (WIDE + FLOAT) + 2 * len(request.quantile_levels) * FLOAT)
    inputs = _INPUT * rows * steps
    kept = rows * block * c.d_model * element
    values = block * c.patch_size * len(LEVELS) * 7 * WIDE * min(rows, max(1, usual // block))  # of a piece of the head
    layers = Piece(_token(c, tokens, widest, element), widest, min(rows * tokens, usual))
    return (
        Phase(inputs + _STATISTICS * rows * steps + caches),
        Phase(inputs + masks + stream + caches + kept + quantiles + values, {"tokens": layers}),
    )


def _token(c: Toto2Config, tokens: int, keys: int, element: int) -> int:
    """Return the bytes of a token in the layer that takes most."""
    heads = c.num_heads * (c.qk_dim + c.v_dim) + c.num_groups * (c.qk_dim + c.v_dim)
    # a mask becomes one of numbers; keys and values that heads share are repeated
    attention = (6 * c.d_model + 4 * heads + 2 * c.num_heads * (c.qk_dim + c.v_dim)) * element + 2 * keys * FLOAT
    forward = (6 * c.d_model + 5 * c.d_ff) * element
    ends = (12 * c.d_model + 3 * len(LEVELS) * c.patch_size) * element
    return max(attention, forward, ends)
