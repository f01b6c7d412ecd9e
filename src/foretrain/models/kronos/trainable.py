"""The tokenizer as a trainable model (models/base.py): windows of candles in, reconstruction loss out."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from foretrain.data.windows import Windows
from foretrain.models.base import Batch, Loss
from foretrain.models.kronos import inputs
from foretrain.models.kronos.config import KronosTokenizerModelConfig, TokenizerConfig
from foretrain.models.kronos.tokenizer import TokenizerNetwork
from foretrain.models.release import ReleaseModel
from foretrain.models.types import WindowSource


class KronosTokenizer(ReleaseModel):
    """A tokenizer network with collate and loss; it cannot forecast."""

    family = "kronos_tokenizer"
    network: TokenizerNetwork
    config: TokenizerConfig
    network_class, section = TokenizerNetwork, KronosTokenizerModelConfig
    block_lists = ("encoder", "decoder")
    head_parts = ("network.head.",)
    validation_names = ("loss", "reconstruction_mse", "coarse_mse", "quantiser_loss", "codebook_entropy")
    adapter_targets = ("encoder", "decoder", "head")

    @classmethod
    def random_config(
        cls, section: KronosTokenizerModelConfig, context_length: int, prediction_length: int, offline: bool
    ) -> TokenizerConfig:
        """Return the config of a random start, without unknown keys of the config.json it was read from."""
        return replace(section.random_architecture("base", offline), extra={})

    def collate(self, windows: Windows) -> Batch:
        """Return the CPU tensors of a batch; see inputs.py."""
        return inputs.collate(windows, self.config.clip, relative=self.config.relative)

    def check(self, source: WindowSource) -> None:
        """Raise DataError unless windows hold candles whose columns are all targets."""
        inputs.sequence(inputs.collate(source.windows(0, 1), self.config.clip, relative=self.config.relative))

    def native_loss(self, batch: Batch) -> Loss:
        """(MSE of the coarse + MSE of the full reconstruction + quantiser loss) / 2 as sum and weight over bars.

        The codebook entropy is not a sum over bars: it is computed from the whole micro-batch.
        """
        return self.losses(batch)["loss"]

    def validation_losses(self, batch: Batch) -> dict[str, Loss]:
        """Return the loss and its parts: mean squared errors of normalised values, entropy in nats."""
        return self.losses(batch)

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """Return each loss in validation_names; the sum of a Loss is the mean over bars times the number of bars."""
        bars, observed = inputs.sequence(batch)
        outputs = self.network.reconstruct(bars)
        weight = observed.sum().to(torch.float32)
        count = weight.clamp(min=1.0)
        target, mask = bars.float(), observed[..., None]

        def mse(values: Tensor) -> Tensor:
            return ((values.float() - target).square() * mask).sum() / (count * bars.shape[-1])

        coarse, full = mse(outputs.coarse), mse(outputs.full)
        quantiser = self.network.bsq.loss(outputs.unit.float(), outputs.code.float(), observed)
        parts = {
            "loss": (coarse + full + quantiser.total) / 2,
            "reconstruction_mse": full,
            "coarse_mse": coarse,
            "quantiser_loss": quantiser.total,
            "codebook_entropy": quantiser.codebook_entropy,
        }
        return {name: Loss(part * weight, weight) for name, part in parts.items()}

    def flops_per_window(self, context_length: int, prediction_length: int, variates: int = 1) -> float:
        """Forward FLOPs of a window: encoder once, decoder twice; independent of the number of columns."""
        c, bars = self.config, context_length + prediction_length
        bits = c.s1_bits + c.s2_bits
        decoder = len(self.network.decoder) * block_flops(c.d_model, c.ff_dim, bars) + 2 * bars * c.d_model * c.d_in
        pre = 2 * bars * c.s1_bits * c.d_model
        return encoder_flops(self.network, bars) + 2 * decoder + pre + 2 * bars * bits * c.d_model


def block_flops(width: int, inner: int, tokens: int) -> float:
    """Forward FLOPs of one block; attention counts as full, not causal."""
    return 2.0 * tokens * (4 * width * width + 3 * width * inner) + 4.0 * tokens * tokens * width


def encoder_flops(network: TokenizerNetwork, bars: int) -> float:
    """Forward FLOPs of encoding bars to tokens."""
    c = network.config
    ends = 2.0 * bars * c.d_model * (c.d_in + c.s1_bits + c.s2_bits)
    return len(network.encoder) * block_flops(c.d_model, c.ff_dim, bars) + ends


FAMILY = KronosTokenizer.as_family(columns=inputs.choose_columns, needs=inputs.NEEDS)
