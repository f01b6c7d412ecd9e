"""What a forecast of Chronos-2 takes in memory; decode.py computes it in these pieces.

# R rows, T context steps, P patch size, S tokens of a row, N forecast patches, D width, I heads x head width, F
# feed-forward width, K trained levels, U branching levels
"""

from __future__ import annotations

import math

from foretrain.models.chronos2.config import Chronos2Config
from foretrain.models.chronos2.decode import Chronos2Options, Plan, branches_at_once, opposite_levels
from foretrain.models.memory import BatchSize, Phase, Piece
from foretrain.models.request import ForecastRequest

FLOAT = 4  # bytes
_INPUT = 44  # bytes of a context step: stacked, collated, lifted, masks, normalised and the temporaries of these
_COPY = 40  # of a context step in a branch: joined, cut, padded, masks, normalised
_POOLED = 36  # of a value of a branch: ordered, its place, cumulated weight, and the temporaries of these


def phases(c: Chronos2Config, size: BatchSize, request: ForecastRequest, usual: int, element: int) -> tuple[Phase, ...]:
    """Return the phases of a forecast, whose pieces are tokens, branches and pooled rows.

    usual: most tokens at once that are of use; element: bytes of a weight.
    """
    options, levels = request.options_of(Chronos2Options), tuple(request.quantile_levels)
    if options.symmetric:
        levels = tuple(dict.fromkeys((*levels, *opposite_levels(levels, c.quantiles))))
    rows = size.rows * (2 if options.symmetric else 1)
    widest = size.rows if options.cross_learning else size.widest
    plan = Plan.quiet(c, request.prediction_length, levels, options, {})
    ahead = min(math.ceil(plan.horizon / c.patch_size), plan.patches)
    tokens = math.ceil(min(size.steps, c.context_length) / c.patch_size) + int(c.use_reg_token) + ahead
    steps, computed = ahead * c.patch_size, len({*plan.needed, *plan.branching})
    stream = rows * tokens * c.d_model * element
    fixed = _INPUT * rows * size.steps + _layer(c, element)
    found = rows * plan.horizon * (len(plan.needed) + 3 * len(levels)) * FLOAT  # and interpolated, transposed
    layers = Piece(_token(c, max(tokens, widest), element), max(tokens, widest), min(rows * tokens, usual))
    last = rows * ahead * c.d_model * element * 2
    first = Phase(fixed + found + stream + last + 2 * rows * computed * steps * FLOAT, {"tokens": layers})
    if not plan.branching:
        return (first,)
    count, of_branch = len(plan.branching), rows * len(c.quantiles) * steps * FLOAT
    generated = 2 * count * rows * plan.horizon * FLOAT
    kept = fixed + found + generated + rows * computed * steps * FLOAT
    copy = stream + last + _COPY * rows * min(size.steps + plan.horizon, c.context_length) + 2 * of_branch
    layers = Piece(layers.bytes, layers.least, min(branches_at_once(rows) * rows * tokens, usual))
    branches = Piece(copy, 1, min(count, branches_at_once(rows)))
    pooled = Piece(_POOLED * steps * count * len(c.quantiles), 1, rows)
    return (
        first,
        Phase(kept + count * of_branch, {"tokens": layers, "branches": branches}),
        Phase(kept + 2 * count * of_branch, {"pooled rows": pooled}),
    )


def _token(c: Chronos2Config, keys: int, element: int) -> int:
    """Return the bytes of a token in the layer that takes most, attention to `keys` tokens or feed forward."""
    inner = c.num_heads * c.d_kv
    attention = (6 * c.d_model + 9 * inner) * element + 2 * c.num_heads * keys * FLOAT
    head = (2 * c.d_ff + 5 * len(c.quantiles) * c.patch_size) * max(element, FLOAT)
    return max(attention, (6 * c.d_model + 2 * c.d_ff) * element, head)


def _layer(c: Chronos2Config, element: int) -> int:
    """Return the bytes of temporary weights: a layer's, with the norm's gain in them, beside those that were read."""
    return (7 * c.num_heads * c.d_kv + 2 * c.d_ff) * c.d_model * element
