"""`foretrain` and `python -m foretrain.cli`, by themselves or under a launcher."""

from __future__ import annotations

import os
import sys

from foretrain.cli.main import main
from foretrain.distributed.launchers import count_of_several


def _main_of_many() -> None:
    """main() as one of several processes. All is written and closed when it ends; in an ordinary exit torch's threads
    of a process group are now and then still running when they are torn down ("terminate called without an active
    exception"), which launchers take for a failed run."""
    try:
        main()
    except SystemExit as leave:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(leave.code if isinstance(leave.code, int) else int(leave.code is not None))


def run() -> None:
    """Run the command in this process, one of several or not."""
    (_main_of_many if count_of_several(os.environ) else main)()


if __name__ == "__main__":
    run()
