"""Low-rank adapters (LoRA): trainable layers, and adapter folders in PEFT's format."""
