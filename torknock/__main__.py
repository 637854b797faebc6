"""`python -m torknock` is the command `torknock`."""

from torknock.cli import main

main()
