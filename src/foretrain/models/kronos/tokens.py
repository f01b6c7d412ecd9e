"""Token cache of a run: tokenises every training window once, for runs that repeat the same windows every epoch.

# n windows of an epoch, T bars of a window
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from foretrain.atomic import remove_leftover
from foretrain.errors import ConfigError, ModelError
from foretrain.models.base import move
from foretrain.models.kronos import inputs
from foretrain.models.kronos.tokenizer import TokenizerNetwork
from foretrain.models.weights import replacing_tensors
from foretrain.notes import Code, Note, warn

FILE = "tokens.safetensors"
PATIENCE = 2.0  # seconds of tokenising after which it is announced
# Windows are tokenised in groups of this size, in the order of the first epoch and independent of the run's batch size:
# the sign of a latent near zero may depend on the group, and a resumed run must read the same tokens.
GROUP = 64

_log = logging.getLogger(__name__)


class TokenCache:
    """Both tokens of every bar, looked up by the window's key."""

    def __init__(self, keys: npt.NDArray[np.uint64], tokens: npt.NDArray[Any]) -> None:
        self._keys = keys  # (n,) ascending
        self._tokens = tokens  # (n, T, 2)

    def look_up(self, keys: npt.NDArray[np.uint64], bars: int) -> Tensor:
        """Return int64 tokens (B, bars, 2) of windows. Raises ModelError for a window that is not in the cache."""
        index = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        if (self._keys[index] != keys).any():
            raise ModelError("a window is not in the token cache: the data changed during the run. Start a new run.")
        return torch.from_numpy(self._tokens[index, :bars].astype(np.int64))

    def __len__(self) -> int:
        return len(self._keys)


def check_epochs(source: Any) -> None:
    """Raise ConfigError unless the TrainingSource samples in epochs, so that windows repeat."""
    if source.config.sampling != "epoch":
        raise ConfigError(
            "model.token_cache: windows drawn at random hardly repeat, so caching their tokens is of no use. Set "
            "data.sampling: epoch, or remove model.token_cache."
        )


def open_token_cache(
    source: Any, folder: Path, tokenizer: TokenizerNetwork, tokenizer_hash: str, clip: float, *, relative: bool = False
) -> TokenCache:
    """Open the cache in a run's folder; create it if it is missing, damaged or made from other inputs.

    source: a TrainingSource in epoch mode. Raises ConfigError for any other.
    """
    check_epochs(source)
    facts = [
        source.fingerprint,
        source.config.model_dump(mode="json", exclude={"stage_to"}),
        source.seed,
        tokenizer_hash,
        clip,
        GROUP,
    ]
    facts += ["relative"] if relative else []  # without it as in versions that had upstream's floor only
    made_from = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    path = folder / FILE
    remove_leftover(path)
    return _read(path, made_from) or _make(path, made_from, source, tokenizer, clip, relative)


def _read(path: Path, made_from: str) -> TokenCache | None:
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get("made_from") != made_from:
                return None
            return TokenCache(file.get_tensor("keys"), file.get_tensor("tokens"))
    except (SafetensorError, OSError):
        return None  # recreated


@torch.no_grad()
def _make(
    path: Path, made_from: str, source: Any, tokenizer: TokenizerNetwork, clip: float, relative: bool
) -> TokenCache:
    device = next(tokenizer.parameters()).device
    bars = source.config.context_length + source.config.prediction_length
    wide = max(tokenizer.config.s1_bits, tokenizer.config.s2_bits) > 15
    keys = np.empty(source.epoch_length, np.uint64)
    tokens = np.zeros((source.epoch_length, bars, 2), np.int32 if wide else np.int16)
    start, told = time.monotonic(), False
    for first in range(0, source.epoch_length, GROUP):
        if not told and (spent := time.monotonic() - start) > PATIENCE:
            told, minutes = True, spent / first * (source.epoch_length - first) / 60
            text = (
                f"model.token_cache: tokenising {source.epoch_length:,} windows before the first step, about "
                f"{minutes:,.1f} more minutes. {path} keeps them, also for a resumed run."
            )
            warn(_log, Note(Code.TOKENISING, text, {"windows": source.epoch_length}))
        windows = source.windows(first, min(GROUP, source.epoch_length - first))
        values, _ = inputs.sequence(move(inputs.collate(windows, clip, relative=relative), device))
        pair = torch.stack(tokenizer.pair(values), -1).cpu().numpy()
        keys[first : first + len(pair)] = windows.key
        tokens[first : first + len(pair), : pair.shape[1]] = pair
    order = np.argsort(keys, kind="stable")
    keys, tokens = keys[order], tokens[order]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_tensors(path) as scratch:
        save_file({"keys": keys, "tokens": tokens}, scratch, metadata={"made_from": made_from})
    return TokenCache(keys, tokens)
