"""Processes that can have no memory that is writable and executable, as below systemd's MemoryDenyWriteExecute."""

from __future__ import annotations

import subprocess
import sys

_RESTRICT = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, linux/prctl.h
    sys.exit(os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[1], sys.argv[1:])
"""

MDWE = (sys.executable, "-c", _RESTRICT)
"""What a command is put behind; its children are restricted, too (prctl(2), PR_SET_MDWE)."""


def why_not() -> str | None:
    """Why a process cannot be restricted here; None if it can."""
    done = subprocess.run([*MDWE, "true"], capture_output=True, text=True, check=False)
    return f"PR_SET_MDWE needs Linux 6.3: {done.stderr.strip()}" if done.returncode else None
