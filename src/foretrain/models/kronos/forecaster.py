"""The predictor as a forecasting model (models/base.py): windows of candles in, cross-entropy or sampled candles out.

# B windows, T tokens of a training window, N series, S samples, H horizon, Q levels, M target rows
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foretrain.data.windows import Windows
from foretrain.errors import ConfigError, DataError, ModelError, UnreadableError
from foretrain.models.base import Batch, Forecast, ForecastRequest, Loss, Streams
from foretrain.models.hub import facts_of, release_hash, resolve
from foretrain.models.kronos import inputs
from foretrain.models.kronos.config import (
    OURS,
    PREDICTOR_PRESETS,
    PUBLISHED,
    TOKENIZER_PRESETS,
    KronosConfig,
    KronosModelConfig,
    TokenizerConfig,
)
from foretrain.models.kronos.generate import CandlePrompt, generate
from foretrain.models.kronos.memory import phases
from foretrain.models.kronos.model import KronosNetwork, summed_cross_entropy
from foretrain.models.kronos.options import KronosOptions, sample_counts
from foretrain.models.kronos.paths import summarise
from foretrain.models.kronos.stream import KronosStream
from foretrain.models.kronos.tokenizer import TokenizerNetwork
from foretrain.models.kronos.tokens import TokenCache, check_epochs, open_token_cache
from foretrain.models.kronos.trainable import block_flops, encoder_flops
from foretrain.models.memory import BatchSize, Phase
from foretrain.models.release import ReleaseModel, start_network
from foretrain.models.types import WindowSource
from foretrain.nn.scaling import WIDE_RANGE, deviations
from foretrain.nn.unused import attach
from foretrain.notes import Code, Note, warn

_log = logging.getLogger(__name__)


class Kronos(ReleaseModel, Streams):
    """A predictor network and its frozen tokenizer.

    The tokenizer is not a registered submodule, so optimizer, weight average, checkpoints and train()/eval() do not
    affect it. It moves with the predictor's device and stays in float32, since rounding a latent may change its token.
    """

    family = "kronos"
    network: KronosNetwork
    config: KronosConfig
    network_class, section, options = KronosNetwork, KronosModelConfig, KronosOptions
    block_lists = ("transformer",)
    head_parts = (".head.",)
    embedding_parts = (".emb_s", ".time_emb.")
    value_range = WIDE_RANGE
    validation_names = ("loss", "s1_cross_entropy", "s2_cross_entropy")
    adapter_targets = ("embedding.fusion_proj", "transformer", "dep_layer", "head")

    def __init__(self, network: KronosNetwork, tokenizer: TokenizerNetwork) -> None:
        super().__init__(network)
        bits = [(c.s1_bits, c.s2_bits) for c in (network.config, tokenizer.config)]
        if bits[0] != bits[1]:
            ours, theirs = (f"{first} + {second}" for first, second in bits)
            raise ModelError(
                f"the predictor reads tokens of {ours} bits, this tokenizer writes {theirs}. Name the one that the "
                "predictor was trained with."
            )
        self._frozen = [tokenizer.eval().requires_grad_(False)]
        self.token_cache = False
        self.cached_tokens: TokenCache | None = None

    @classmethod
    def build(
        cls,
        config: KronosModelConfig,
        *,
        context_length: int,
        prediction_length: int,
        seed: int,
        device: str | torch.device = "cpu",
        offline: bool = False,
    ) -> Kronos:
        """Build the predictor that a run trains, as ReleaseModel.build does, with its tokenizer.

        max_context is set to the tokens of a window, unless the config sets it or the checkpoint's is larger. Raises
        ConfigError for contradictory keys or a missing tokenizer, ModelError if a release cannot be read.
        """
        config.check_start()
        meta = str(device) == "meta"
        tokenizer, tokenizer_parents = _tokenizer_of(config, meta, offline)
        reads, trained = tokenizer.config, context_length + prediction_length - 1
        clip = config.clip or reads.clip

        def random() -> KronosConfig:
            longest = config.max_context or trained
            bits = {"s1_bits": reads.s1_bits, "s2_bits": reads.s2_bits}
            floor = config.given().get("scale_floor", reads.scale_floor)
            return config.random_architecture(
                "small", offline, **bits, clip=clip, scale_floor=floor, max_context=longest
            )

        def fitted(stored: KronosConfig) -> KronosConfig:
            longest = config.max_context or max(stored.max_context, trained)
            return replace(config.adjusted(stored), max_context=longest, clip=clip)

        network, parents = start_network(
            KronosNetwork,
            config,
            seed=seed,
            meta=meta,
            offline=offline,
            random=random,
            fitted=fitted,
            read_config=lambda folder: _stored(folder, config.model_id),
        )
        model = cls(network, tokenizer)
        model.parents, model.token_cache = {**parents, **tokenizer_parents}, config.token_cache
        model.adapted = dict(network.adapted)
        return model

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        origin: str | None = None,
        offline: bool = False,
        tokenizer: str | None = None,
        **others: str,
    ) -> Kronos:
        """Load the predictor of a release folder with its tokenizer, in float32 on the CPU and eval mode.

        The tokenizer is `tokenizer` (a folder or hub id), else the folder's own, else that of the published model
        `origin`. Warns if it is known to differ from the one that the predictor was trained with. Raises ModelError.
        """
        if others:
            raise ModelError(
                f"{origin or folder}: a Kronos predictor has no {next(iter(others))}; its part is tokenizer."
            )
        inside = folder / "tokenizer"
        if tokenizer is None and not inside.is_dir():
            if origin not in PUBLISHED:
                raise ModelError(
                    f"{origin or folder}: a Kronos predictor needs its tokenizer, and has no folder `tokenizer`. "
                    'Name one: tokenizer="NeoQuasar/Kronos-Tokenizer-base" (on the command line --tokenizer).'
                )
            tokenizer = PUBLISHED[origin][1]
        source = inside if tokenizer is None else resolve(tokenizer, None, offline)
        network = KronosNetwork.read_release(folder, _stored(folder, origin))
        model = cls(network, TokenizerNetwork.read_release(source))
        if (known := _trained_with(folder)) and source != inside and release_hash(source) not in known:
            text = (
                f"{tokenizer} is not the tokenizer that {origin or folder} was trained with; forecasts with another "
                "one mean little."
            )
            warn(_log, Note(Code.TOKENIZER_DIFFERS, text))
        return model.eval()

    @property
    def tokenizer(self) -> TokenizerNetwork:
        """The frozen tokenizer."""
        return self._frozen[0]

    @property
    def other_weights(self) -> int:
        """See Trainable: those of the tokenizer."""
        return sum(p.numel() * p.element_size() for p in self.tokenizer.parameters())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        device = next(self.network.parameters()).device
        if device.type != "meta":
            self.tokenizer.to(device)
        return self

    @property
    def max_context_length(self) -> int:
        """Bars of context the predictor attends to."""
        return self.config.max_context

    @property
    def smallest_deviation(self) -> float | None:
        """Deviation below which the constant that upstream adds to it may exceed 1% of it; see Forecaster."""
        return None if self.config.relative else inputs.EPS / inputs.SHARE

    def floored(self, values: Tensor, observed: Tensor) -> Tensor:
        """See Forecaster: of small deviations, those to which more than a hundredth is added."""
        small = super().floored(values, observed)
        mean = torch.where(observed, values, 0.0).double().sum(1) / observed.sum(1).clamp(min=1)
        return small & (inputs.EPS * mean.abs() > inputs.SHARE * deviations(values, observed).squeeze(1))

    def window_factors(self, windows: Windows) -> Tensor | None:
        """See Forecaster; the columns of a candle stay consistent."""
        factors = super().window_factors(windows)
        return None if factors is None else inputs.shared_factors(windows, factors)

    @property
    def bucket_length(self) -> int:
        """1, since every bar is a token."""
        return 1

    def check(self, source: WindowSource) -> None:
        """Raise DataError unless windows contain candles whose columns are all targets, ConfigError if token_cache is
        set without epochs."""
        inputs.sequence(inputs.collate(source.windows(0, 1), self.config.clip, relative=self.config.relative))
        if self.token_cache:
            check_epochs(source)

    def prepare(self, source: WindowSource, folder: Path) -> None:
        """With token_cache: open the run's cache of tokens or create it (tokens.py)."""
        if self.token_cache:
            self.cached_tokens = open_token_cache(
                source,
                folder,
                self.tokenizer,
                self.parents["tokenizer"],
                self.config.clip,
                relative=self.config.relative,
            )

    def collate(self, windows: Windows) -> Batch:
        """Return the CPU tensors of a batch; see inputs.py. With a token cache, training batches also contain

        tokens (B, T, 2) int64 first and second tokens of context and future, 0 for padding windows.
        """
        batch = inputs.collate(windows, self.config.clip, relative=self.config.relative)
        if self.cached_tokens is not None and windows.source is not None:
            bars = batch["context"].shape[1] + windows.future.shape[1]
            tokens = self.cached_tokens.look_up(windows.key[: len(windows) - windows.num_padding_windows], bars)
            batch["tokens"] = F.pad(tokens, (0, 0, 0, 0, 0, windows.num_padding_windows))
        return batch

    def native_loss(self, batch: Batch) -> Loss:
        """(Cross-entropy of the first + of the second token) / 2, summed over every bar but a window's first.

        The second head gets first tokens sampled from the model in training mode, the true ones in eval mode.
        """
        return self.losses(batch)["loss"]

    def validation_losses(self, batch: Batch) -> dict[str, Loss]:
        """Return the loss and the cross-entropy of each token, in nats per bar."""
        return self.losses(batch)

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """Return each loss in validation_names. Bars that were not observed are inputs, never targets."""
        s1, s2, observed = self.tokens(batch)
        stamps = inputs.sequence_stamps(batch)
        logits = self.network(
            s1[:, :-1],
            s2[:, :-1],
            None if stamps is None else stamps[:, :-1],
            use_teacher_forcing=not self.training,
            s1_targets=s1[:, 1:],
        )
        scored = observed[:, 1:].to(torch.float32)
        first, second = (
            summed_cross_entropy(x, y, scored) for x, y in zip(logits, (s1[:, 1:], s2[:, 1:]), strict=True)
        )
        weight = scored.sum()
        total = (first + second) / 2
        if stamps is None:  # no calendar: the time embeddings are unused
            total = attach(total, list(self.network.time_emb.parameters()))
        return {
            "loss": Loss(total, weight),
            "s1_cross_entropy": Loss(first, weight),
            "s2_cross_entropy": Loss(second, weight),
        }

    @torch.no_grad()
    def tokens(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return first and second tokens (B, T) of a training batch, and which bars were observed (B, T) bool."""
        bars, observed = inputs.sequence(batch)
        if "tokens" in batch:
            return batch["tokens"][..., 0], batch["tokens"][..., 1], observed
        if bars.is_meta:  # shapes are counted: the tokenizer stays where it is, and "meta" has no autocast
            s1, s2 = TokenizerNetwork.empty(self.tokenizer.config, "meta").pair(bars.float())
            return s1, s2, observed
        with torch.autocast(bars.device.type, enabled=False):
            s1, s2 = self.tokenizer.pair(bars.float())
        return s1, s2, observed

    def forecast(self, batch: Batch, request: ForecastRequest) -> Forecast:
        """Quantiles, mean and sample paths of the target rows; options are KronosOptions.

        A row's draws are seeded by (seed, its window's key, sample), whatever else is in the batch.
        """
        options = request.options_of(KronosOptions)
        count, rows = len(batch["context"]), len(batch["target_window"])
        size = BatchSize(rows, count, -(-rows // max(count, 1)), batch["context"].shape[1])
        candles = self.candles(
            batch,
            request.prediction_length,
            num_samples=request.num_samples,
            seed=request.seed,
            options=options,
            at_once=self.at_once(size, request).get("samples"),
        )
        targets = batch["target_window"], batch["target_column"]
        repairs = bool(request.repair_candles)
        return summarise(candles, targets, request.quantile_levels, repairs=repairs, positive=batch.get("positive"))

    def candles(
        self,
        batch: Batch,
        prediction_length: int,
        *,
        num_samples: int | None = None,
        seed: int = 0,
        options: KronosOptions | None = None,
        at_once: int | None = None,
    ) -> Tensor:
        """Sample candles (N, S, H, 6) in the units of the data; NaN for windows without an observed bar.

        at_once: most samples that are decoded at a time.
        """
        options = options or KronosOptions()
        stamps = batch.get("future_stamps")
        if stamps is not None and stamps.shape[1] < prediction_length - 1:
            raise DataError(
                f"these windows carry {stamps.shape[1]} time stamps after the cutoff, but {prediction_length} bars are "
                "asked for; stack them with that prediction_length."
            )
        prompt = CandlePrompt(
            bars=batch["context"],
            lengths=batch.get("lengths"),
            stamps=batch.get("context_stamps"),
            future_stamps=None if stamps is None else stamps[:, :prediction_length],
            keys=batch["key"],
        )
        drawn, asked = sample_counts(num_samples, options)
        generated = generate(
            self.network,
            self.tokenizer,
            prompt,
            prediction_length,
            num_samples=drawn,
            seed=seed,
            options=options,
            at_once=at_once,
        )
        candles = generated.bars * batch["scale"][:, None, None] + batch["loc"][:, None, None]
        return candles.expand(-1, asked, -1, -1)

    def memory_phases(self, size: BatchSize, request: ForecastRequest) -> tuple[Phase, ...]:
        """See Forecaster."""
        return phases(self.network, self.tokenizer.config, size, request, self.element_size)

    def stream(
        self, windows: Windows, *, max_context: int | None = None, re_anchor_every: int | None = None
    ) -> KronosStream:
        """Return a stream whose caches start with these windows, and to which bars can be appended."""
        return KronosStream(self, windows, max_context=max_context, re_anchor_every=re_anchor_every)

    def save_release(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        """Write the predictor to an existing folder and the tokenizer to its subfolder `tokenizer`."""
        super().save_release(folder, state)
        (folder / "tokenizer").mkdir(exist_ok=True)
        self.tokenizer.write_release(folder / "tokenizer")

    def flops_per_window(self, context_length: int, prediction_length: int, variates: int = 1) -> float:
        """Forward FLOPs of a window, tokenising included; independent of the number of columns."""
        c, bars = self.config, context_length + prediction_length
        tokens, width = bars - 1, self.config.d_model
        blocks = c.n_layers * block_flops(width, c.ff_dim, tokens)
        dependency = 8.0 * tokens * width * width + 4.0 * tokens * tokens * width
        ends = 2.0 * tokens * width * (2 * width + 2**c.s1_bits + 2**c.s2_bits)
        return encoder_flops(self.tokenizer, bars) + blocks + dependency + ends

    def pass_flops(self, context_length: int, prediction_length: int, variates: int = 1) -> tuple[float, float]:
        """FLOPs of each pass of a window; the tokenizer has no backward pass, and with a token cache no forward."""
        encoder = encoder_flops(self.tokenizer, context_length + prediction_length)
        forward, backward = super().pass_flops(context_length, prediction_length, variates)
        return forward - (self.cached_tokens is not None) * encoder, backward * (1 - encoder / forward)


def _stored(folder: Path, origin: str | None) -> KronosConfig:
    """Read a release's config; for a published model, max_context comes from its preset if the file lacks it."""
    stored = KronosConfig.read(folder / "config.json")
    if origin in PUBLISHED and stored.max_context == OURS["max_context"]:
        known = PREDICTOR_PRESETS[PUBLISHED[origin][0]]
        return replace(stored, max_context=known.get("max_context", stored.max_context))
    return stored


def _tokenizer_of(config: KronosModelConfig, meta: bool, offline: bool) -> tuple[TokenizerNetwork, dict[str, str]]:
    """Return the run's frozen tokenizer and its hash, as parents."""
    name, revision = config.tokenizer, config.tokenizer_revision
    if name is None and config.model_id in PUBLISHED:
        name = PUBLISHED[config.model_id][1]
    if name is None and config.model_id is not None:
        inside = resolve(config.model_id, config.revision, offline) / "tokenizer"
        name = str(inside) if inside.is_dir() else None
    if name is None:
        raise ConfigError(
            "model.tokenizer: a Kronos predictor needs its tokenizer; give a folder, a hub id such as "
            "NeoQuasar/Kronos-Tokenizer-base, or stage:NAME of an earlier stage."
        )
    if meta and not Path(name).exists():
        return TokenizerNetwork.empty(TokenizerConfig(**TOKENIZER_PRESETS["base"]), "meta"), {}
    folder = resolve(name, revision, offline)
    return TokenizerNetwork.read_release(folder), {"tokenizer": release_hash(folder)}


def _trained_with(folder: Path) -> set[str]:
    """Return the hashes of the tokenizer that a release was trained with; empty if unknown."""
    known = {release_hash(folder / "tokenizer")} if (folder / "tokenizer" / "config.json").is_file() else set()
    try:
        return known | {str(facts_of(folder)["parents"]["tokenizer"]["hash"])}
    except UnreadableError:
        raise
    except (ModelError, KeyError, TypeError):
        return known  # a release of upstream has no release.json


FAMILY = Kronos.as_family(columns=inputs.choose_columns, needs=inputs.NEEDS, with_times=True)
