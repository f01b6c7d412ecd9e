"""What a forecast of Kronos takes in memory; generate.py decodes samples in pieces.

# N series, C context bars, W = min(C, bars that the predictor attends to), S samples, H horizon, V tokens
"""

from __future__ import annotations

from foretrain.errors import ConfigError
from foretrain.models.kronos.config import COLUMNS, TokenizerConfig
from foretrain.models.kronos.layers import MAX_SCORES
from foretrain.models.kronos.model import KronosNetwork
from foretrain.models.kronos.options import KronosOptions, sample_counts
from foretrain.models.memory import BatchSize, Phase, Piece
from foretrain.models.request import ForecastRequest

FLOAT = 4  # bytes
_INPUT = 80  # bytes of a column of a bar: stacked, collated, lifted, normalised and the temporaries of these
_STAMPS = 160  # of the calendar of a bar
_SCORE = 16  # of an attention score: of context and own tokens, joined, and their softmax
_CHOICE = 100  # of a token's probability while one is drawn: filtered, sorted, cumulated in float64
_CANDLE = 60  # of a column of a sampled bar: in the units of the data, repaired, by row, sorted with its place


def phases(
    network: KronosNetwork, tokenizer: TokenizerConfig, size: BatchSize, request: ForecastRequest, element: int
) -> tuple[Phase, ...]:
    """Return the phases of a forecast, whose pieces are samples. element: bytes of a weight of the predictor."""
    c, t, options, horizon = network.config, tokenizer, request.options_of(KronosOptions), request.prediction_length
    if options.compat:
        raise ConfigError("max_memory: with compat=true all paths are drawn jointly, so that pieces would change them.")
    drawn, asked = sample_counts(request.num_samples, options)
    window = min(options.max_context or c.max_context, size.steps)
    every = 1 if options.mode == "exact" else options.re_anchor_every
    heads = max(c.n_heads, t.n_heads)
    inputs = size.windows * (len(COLUMNS) * _INPUT + _STAMPS) * (size.steps + horizon)
    candles = size.windows * max(asked, drawn) * horizon * len(COLUMNS) * _CANDLE
    prefilled = (16 * c.d_model + 3 * c.ff_dim) * element  # of a token in a block
    cached = 2 * (c.n_layers + 1) * c.d_model * element
    coded = (16 * t.d_model + 3 * t.ff_dim) * FLOAT
    kept = inputs + size.windows * (size.steps * c.d_model * element + window * cached)
    vocabulary = 2 ** max(c.s1_bits, c.s2_bits)
    sample = horizon * (cached + c.d_model * element + 64) + prefilled + vocabulary * _CHOICE
    longest = options.max_context or c.max_context
    if every is not None and size.steps + horizon - 1 > longest:  # windows are recomputed, of each sample
        sample += longest * (prefilled + cached)
    scores = size.windows * heads * _SCORE * (window + horizon)  # of a new token of a sample
    most = MAX_SCORES * _SCORE
    decoded = size.windows * horizon * (coded + 2 * t.n_dec_layers * t.d_model * FLOAT)
    of_tokens = Piece(size.windows * sample + min(scores, most), 1, drawn)
    capped = drawn * horizon * scores > most  # bars are decoded all at once, but for their scores
    return (
        Phase(inputs + size.windows * size.steps * coded),
        Phase(kept + size.windows * max(size.steps * 12 * c.d_model * element, window * prefilled)),
        Phase(kept + candles, {"samples": of_tokens}),
        Phase(
            kept + candles + size.windows * window * (coded + 2 * t.n_dec_layers * t.d_model * FLOAT)
            + most * capped,
            {"samples": Piece(decoded + horizon * scores * (not capped), 1, drawn)},
        ),
    )  # fmt: skip
