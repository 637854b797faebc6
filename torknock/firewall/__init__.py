"""What this host's firewall does with a SYN: judged from its rules, without sending one."""

from __future__ import annotations

OURS = "torknock-"
"""What the names of torknock's own tables begin with; they are not judged."""
