#!/usr/bin/python3 -I
"""The command torknock, with the Python packages that the Debian package carries before those of the system."""

import platform
import sys

sys.path[:0] = ["/usr/lib/torknock/common", f"/usr/lib/torknock/{platform.machine()}"]

from torknock.cli import main  # noqa: E402  from there

main()
