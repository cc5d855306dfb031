"""``python -m data``."""

from data.cli import main

main(prog_name="python -m data")
