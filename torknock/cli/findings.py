"""How findings are written: for a terminal, and as JSON. The verbs `doctor`, `check line` and `setup bridge` use it."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from torknock.operate.finding import Finding, State, exit_status

_COLOURS = {State.OK: "green", State.NOT_OK: "red", State.UNKNOWN: "yellow"}


def in_json(findings: Sequence[Finding]) -> str:
    """One JSON object: the exit status, and each of *findings* with its name, state, reason, remedy and duration."""
    listed = [
        {"name": it.name, "state": it.state.value, "why": it.why, "remedy": it.remedy, "ms": it.ms} for it in findings
    ]
    return json.dumps({"status": exit_status(it.state for it in findings), "findings": listed})


def in_text(findings: Sequence[Finding]) -> str:
    """A line for each of *findings*, and below them what to do about those that are not ok. Not empty."""
    width = max(len(it.name) for it in findings)
    lines = [
        f"{click.style(f'{it.state.value:<7}', fg=_COLOURS[it.state])}  {it.name:<{width}}  {it.why}"
        + ("" if it.ms is None else f" ({it.ms} ms)")
        for it in findings
    ]
    if remedies := [f"  {it.name:<{width}}  {it.remedy}" for it in findings if it.remedy]:
        lines += ["", "What to do:", *remedies]
    return "\n".join(lines)
