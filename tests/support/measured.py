"""What a program with an environment of its own needs, so that `contrib/coverage` measures it too."""

from __future__ import annotations

import os


def measured() -> dict[str, str]:
    """The variables of coverage; none where nothing is measured."""
    return {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
