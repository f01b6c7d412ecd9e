"""`python -m foretrain.cli`, which is how torchrun starts it."""

from __future__ import annotations

import os
import sys

from foretrain.cli.main import main


def _main_of_many() -> None:
    """main() as torchrun starts it. All is written and closed when it ends; in an ordinary exit torch's threads of a
    process group are now and then still running when they are torn down ("terminate called without an active
    exception"), which torchrun takes for a failed run."""
    try:
        main()
    except SystemExit as leave:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(leave.code if isinstance(leave.code, int) else int(leave.code is not None))


def run() -> None:
    """Run the command in this process, one of several or not."""
    (_main_of_many if os.environ.get("WORLD_SIZE", "1") not in ("", "1") else main)()


if __name__ == "__main__":
    run()
