"""Which of tor's log lines say why it refuses a configuration or a transport. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

_SHOWN = 3
"""Lines of a reason, the latest."""

_LEVEL = re.compile(r"\[(debug|info|notice|warn|err)\] (.*)")
_SUMMARY = "Reading config failed--see warnings above"
_TRANSPORT = re.compile(r"torknock|managed proxy|pluggable transport", re.IGNORECASE)

_CONSEQUENCE = re.compile(
    r"changed state: |having PID \d+ (?:terminated|has exited|is being terminated)|died in state |failed at launch"
    r"|failed the configuration protocol|was spawned successfully, but|is not launched"
)
"""What tor logs about a transport after it has failed, whatever the reason."""


_ADVICE = re.compile(r"Only one bridge \(transport: '[^']*'\) is configured\. You should have at least two for conflux")
"""Since 0.4.8, of every client with one bridge whose transport is not snowflake."""


def is_advice(message: str) -> bool:
    """Whether *message*, a warning of tor's, names no fault."""
    return _ADVICE.search(message) is not None


def why_refused(output: str) -> str:
    """Why tor refused its configuration, from the *output* of `tor --verify-config`; a sentence without a full stop.

    The reason is the run of warnings and errors at the end: tor stops at the first fault. Secrets of bridge lines are
    left out.
    """
    reasons: list[str] = []
    for line in output.splitlines():
        found = _LEVEL.search(line)
        if found is not None and found[1] in ("warn", "err"):
            reasons.append(found[2])
        elif found is not None:
            reasons.clear()
    return _joined(reason for reason in reasons if not reason.startswith(_SUMMARY)) or "tor gives no reason"


def why_failed(complaints: Iterable[str]) -> str | None:
    """Why tor's transport failed, from the messages that tor logged meanwhile; None if they do not mention it.

    What tor or the transport says of the fault goes before what tor says of its consequences.
    """
    ours = [told for told in complaints if _TRANSPORT.search(told)]
    return _joined(told for told in ours if not _CONSEQUENCE.search(told)) or _joined(ours[-1:]) or None


def _joined(reasons: Iterable[str]) -> str:
    told = [re.sub(r"key=\S+", "key=...", reason).rstrip(". ") for reason in reasons]
    return "; ".join(list(dict.fromkeys(told))[-_SHOWN:])
