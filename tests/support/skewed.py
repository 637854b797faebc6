"""Runs `torknock server` on a host whose wall clock is wrong: by the seconds that stand in the file argv[1].

The file is read whenever the date is asked for, so that a test can step the clock of one process; the rest of argv is
for `torknock server`. Steady clocks go on as they do when a real clock is set.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from torknock.cli import torknock

_right = time.time


def skewed() -> float:
    """The date that this process takes for true."""
    return _right() + float(Path(sys.argv[1]).read_text())


if __name__ == "__main__":
    time.time = skewed
    torknock(["server", *sys.argv[2:]])
