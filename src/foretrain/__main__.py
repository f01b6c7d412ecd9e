"""`python -m foretrain`: the command line."""

from foretrain.cli.__main__ import run

if __name__ == "__main__":
    run()
