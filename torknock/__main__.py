"""`python -m torknock` is the command `torknock`."""

from __future__ import annotations

from torknock.cli import main

if __name__ == "__main__":
    main()
