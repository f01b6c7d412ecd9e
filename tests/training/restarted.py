"""Script of test_launch.py for torchrun: `foretrain train`, but rank 1 is killed once, after its second checkpoint."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from foretrain.cli import main


def die(folder: Path) -> None:
    """Kill this process as soon as the run has two checkpoints."""
    while len(list(folder.glob("checkpoints/step-*"))) < 2:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


folder = Path(sys.argv.pop(1))
if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    threading.Thread(target=die, args=(folder,), daemon=True).start()
sys.argv = ["foretrain", "train", *sys.argv[1:], f"output_dir={folder}"]
main()
