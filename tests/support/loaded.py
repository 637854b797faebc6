"""Which modules a process of `torknock` has loaded, and which ones `torknock gate` and `torknock dial` may load."""

from __future__ import annotations

import sys
from pathlib import Path

PROGRAM = """
import sys
before = set(sys.modules)

import atexit
from pathlib import Path

path = Path(sys.argv.pop(1))
loaded = lambda: {name for name, module in sys.modules.items() if module is not None} - before
atexit.register(lambda: path.write_text(" ".join(sorted(loaded()))))

from torknock.cli import main
main()
"""
"""`torknock` that writes down, when it ends, what it has loaded: the first argument is the file."""

_SERVICE = {
    "torknock",
    "torknock.cli",
    "torknock.cli.in_reactor",
    "torknock.cli.service_options",
    "torknock.errors",
    "torknock.interfaces",
    "torknock.kernel",
    "torknock.kernel.capability",
    "torknock.kernel.descriptor_limit",
    "torknock.kernel.interfaces",
    "torknock.kernel.ipv6",
    "torknock.kernel.places",
    "torknock.kernel.private_memory",
    "torknock.kernel.socket_options",
    "torknock.privileged",
    "torknock.service",
    "torknock.service.conversation",
    "torknock.service.descriptors",
    "torknock.service.factory",
    "torknock.service.grammar",
    "torknock.service.interfaces",
    "torknock.service.listener",
    "torknock.service.peers",
    "torknock.service.process",
    "torknock.service.questions",
}

_TRANSLATION = {
    "torknock.kernel.blocking_program",
    "torknock.kernel.routes",
    "torknock.privileged.gate.translating_iptables",
    "torknock.privileged.gate.translating_rules",
    "torknock.privileged.gate.translation",
    "torknock.redact",
}
"""Finds rules of address translation that take a guarded port elsewhere; listing rules needs CAP_NET_ADMIN."""

MAY_LOAD = {
    "gate": _SERVICE | _TRANSLATION | {
        "torknock.cli.gate",
        "torknock.kernel.files",
        "torknock.kernel.lock",
        "torknock.kernel.netlink",
        "torknock.kernel.nftables_state",
        "torknock.kernel.proc",
        "torknock.kernel.program",
        "torknock.kernel.segment",
        "torknock.kernel.syn_reader",
        "torknock.privileged.gate",
        "torknock.privileged.gate.admitted",
        "torknock.privileged.gate.claimed",
        "torknock.privileged.gate.judges",
        "torknock.privileged.gate.kernel",
        "torknock.privileged.gate.listeners",
        "torknock.privileged.gate.loaded",
        "torknock.privileged.gate.nfqueue",
        "torknock.privileged.gate.nftables",
        "torknock.privileged.gate.service",
        "torknock.privileged.gate.silence",
        "torknock.privileged.gate.xtables",
        "torknock.protocol",
        "torknock.protocol.door",
        "torknock.protocol.syn",
        "torknock.protocol.word",
        "torknock.service.access",
        "torknock.service.claim",
        "torknock.service.gate_requests",
        "torknock.service.posture_table",
        "torknock.service.ruleset",
        "torknock.service.sources_table",
    },
    "dial": _SERVICE | {
        "torknock.cli.dial",
        "torknock.privileged.dial",
        "torknock.privileged.dial.connecting",
        "torknock.privileged.dial.ports",
        "torknock.privileged.dial.quotas",
        "torknock.privileged.dial.repair",
        "torknock.privileged.dial.service",
        "torknock.privileged.dial.timestamp",
        "torknock.privileged.dial.tuples",
        "torknock.service.dial_requests",
    },
}  # fmt: skip
"""Our modules that each privileged service may load: what an auditor of CAP_NET_ADMIN reads."""

PACKAGES = {"attr", "attrs", "click", "constantly", "incremental", "twisted", "typing_extensions", "zope"}
"""What else may be loaded that is not Python's own: Twisted and what it is made of, and the command line."""

HEAVY = {"cryptography", "numpy", "OpenSSL", "sqlite3", "stem", "txtorcon"}
"""What no privileged service needs; sqlite3 is Python's own."""


def recording(path: Path) -> list[str]:
    """The command `torknock`, to which arguments are added, that writes to *path* what it has loaded when it ends."""
    return [sys.executable, "-c", PROGRAM, str(path)]


def ours(path: Path) -> set[str]:
    """The modules of `torknock` and `pluggable` that *path* names."""
    return {name for name in path.read_text().split() if name.partition(".")[0] in ("torknock", "pluggable")}


def packages(path: Path) -> set[str]:
    """The packages of others that *path* names; of Python's own those of `HEAVY`."""
    named = {name.partition(".")[0] for name in path.read_text().split()}
    return named - {"torknock", "pluggable"} - (sys.stdlib_module_names - HEAVY)
