"""The tokenizer behind the model contract: windows of candles in, reconstruction loss out."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from foretrain.data.windows import Windows
from foretrain.errors import ModelError
from foretrain.models.base import Batch, Family, Loss, NoOptions, Trainable
from foretrain.models.hub import release_hash, resolve
from foretrain.models.kronos import inputs
from foretrain.models.kronos.config import (
    PUBLISHED_TOKENIZERS,
    TOKENIZER_PRESETS,
    KronosTokenizerModelConfig,
    TokenizerConfig,
    check_start,
    fitted,
    given,
    read_config,
)
from foretrain.models.kronos.convert import initialise, read_tokenizer, write_release
from foretrain.models.kronos.tokenizer import TokenizerNetwork
from foretrain.models.types import WindowSource


class KronosTokenizer(Trainable):
    """A tokenizer network with collate and loss; it forecasts nothing."""

    family = "kronos_tokenizer"
    network: TokenizerNetwork
    block_lists = ("encoder", "decoder")
    head_parts = ("network.head.",)
    validation_names = ("loss", "reconstruction_mse", "coarse_mse", "quantiser_loss", "codebook_entropy")
    adapter_targets = ("encoder", "decoder", "head")

    def __init__(self, network: TokenizerNetwork) -> None:
        super().__init__()
        self.network = network

    def collate(self, windows: Windows) -> Batch:
        """CPU tensors of a batch; see inputs.py."""
        return inputs.collate(windows, self.network.config.clip)

    def check(self, source: WindowSource) -> None:
        """Raise DataError unless windows hold candles whose columns are all targets."""
        inputs.sequence(inputs.collate(source.windows(0, 1), self.network.config.clip))

    def own_loss(self, batch: Batch) -> Loss:
        """(MSE of the coarse + MSE of the full reconstruction + quantiser loss) / 2, times the bars, and the bars.

        The codebook entropy is no sum over bars: it is that of the micro-batch.
        """
        return self.losses(batch)["loss"]

    def validation_losses(self, batch: Batch) -> dict[str, Loss]:
        """The loss, and its parts: mean squared errors in standard deviations squared, entropy in nats."""
        return self.losses(batch)

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """Every part of the loss by its name in validation_names, each a mean over bars times the bars."""
        bars, observed = inputs.sequence(batch)
        found = self.network.reconstruct(bars)
        weight = observed.sum().to(torch.float32)
        count = weight.clamp(min=1.0)
        target, mask = bars.float(), observed[..., None]

        def mse(values: Tensor) -> Tensor:
            return ((values.float() - target).square() * mask).sum() / (count * bars.shape[-1])

        coarse, full = mse(found.coarse), mse(found.full)
        quantiser = self.network.bsq.loss(found.unit.float(), found.code.float(), observed)
        parts = {
            "loss": (coarse + full + quantiser.total) / 2,
            "reconstruction_mse": full,
            "coarse_mse": coarse,
            "quantiser_loss": quantiser.total,
            "codebook_entropy": quantiser.codebook_entropy,
        }
        return {name: Loss(part * weight, weight) for name, part in parts.items()}

    def save_release(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        """Write config.json and model.safetensors into an existing folder; `state` as from this module's state_dict."""
        if state is not None:
            state = {name.removeprefix("network."): tensor for name, tensor in state.items()}
        write_release(self.network, folder, state)

    def flops_per_window(self, context_length: int, prediction_length: int, variates: int = 1) -> float:
        """Forward operations of a window's bars, whatever the number of columns: encoder once, decoder twice."""
        c, bars = self.network.config, context_length + prediction_length
        bits = c.s1_bits + c.s2_bits
        decoder = len(self.network.decoder) * block_flops(c.d_model, c.ff_dim, bars) + 2 * bars * c.d_model * c.d_in
        pre = 2 * bars * c.s1_bits * c.d_model
        return encoder_flops(self.network, bars) + 2 * decoder + pre + 2 * bars * bits * c.d_model


def block_flops(width: int, inner: int, tokens: int) -> float:
    """Forward operations of one block, attention counted in full."""
    return 2.0 * tokens * (4 * width * width + 3 * width * inner) + 4.0 * tokens * tokens * width


def encoder_flops(network: TokenizerNetwork, bars: int) -> float:
    """Forward operations of turning bars into tokens."""
    c = network.config
    ends = 2.0 * bars * c.d_model * (c.d_in + c.s1_bits + c.s2_bits)
    return len(network.encoder) * block_flops(c.d_model, c.ff_dim, bars) + ends


def build(
    config: KronosTokenizerModelConfig,
    *,
    context_length: int,
    prediction_length: int,
    seed: int,
    device: str | torch.device = "cpu",
    offline: bool = False,
) -> KronosTokenizer:
    """The tokenizer a run trains: randomly initialised (the seed alone decides) or from model_id.

    On device "meta" no weights are made or read. Raises ConfigError for keys that contradict each other, ModelError
    where a release cannot be read.
    """
    check_start(config)
    meta = str(device) == "meta"
    if config.model_id is None:
        network = _empty(random_architecture(config, offline), meta)
        if not meta:
            initialise(network, seed)
        return KronosTokenizer(network)
    if meta and config.model_id in PUBLISHED_TOKENIZERS:
        known = TokenizerConfig(**TOKENIZER_PRESETS[PUBLISHED_TOKENIZERS[config.model_id]])
        return KronosTokenizer(_empty(fitted(config, known), meta))
    folder = resolve(config.model_id, config.revision, offline)
    architecture = fitted(config, read_config(TokenizerConfig, folder / "config.json"))
    model = KronosTokenizer(_empty(architecture, meta) if meta else read_tokenizer(folder, architecture))
    model.parents = {"model": release_hash(folder)}
    return model


def random_architecture(config: KronosTokenizerModelConfig, offline: bool = False) -> TokenizerConfig:
    """The configuration of a randomly initialised tokenizer."""
    if config.architecture_of is not None:
        stored = read_config(TokenizerConfig, resolve(config.architecture_of, None, offline) / "config.json")
        values = {name: getattr(stored, name) for name in TOKENIZER_PRESETS["base"]} | {"clip": stored.clip}
    else:
        values = TOKENIZER_PRESETS[config.preset or "base"]
    return TokenizerConfig(**{**values, **given(config, TokenizerConfig)})


def _empty(config: TokenizerConfig, meta: bool) -> TokenizerNetwork:
    with torch.device("meta" if meta else "cpu"):
        return TokenizerNetwork(config)


def load(folder: Path, *, origin: str | None = None, offline: bool = False, **parts: str) -> KronosTokenizer:
    """The tokenizer of a release folder in float32 on the CPU. Raises ModelError."""
    if parts:
        raise ModelError(f"{origin or folder}: a Kronos tokenizer has no {next(iter(parts))}; leave it out.")
    return KronosTokenizer(read_tokenizer(folder)).eval()


FAMILY = Family(
    name="kronos_tokenizer",
    config=lambda: KronosTokenizerModelConfig,
    options=lambda: NoOptions,
    build=build,
    matches=lambda raw: "n_enc_layers" in raw and "s1_bits" in raw,
    load=load,
    published=frozenset(PUBLISHED_TOKENIZERS),
    columns=inputs.choose_columns,
    needs=inputs.NEEDS,
)
