"""The command line: `foretrain VERB`, or `python -m foretrain.cli VERB` under torchrun."""

from foretrain.cli.app import app
from foretrain.cli.main import main

__all__ = ["app", "main"]
