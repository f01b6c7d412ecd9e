"""Low-rank adapters: layers that learn, and folders in peft's format, written, read and merged."""
