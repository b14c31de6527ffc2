"""`python -m wingbeat`, the same as the `wingbeat` command."""

from wingbeat.cli import main

main()
