"""Each real gate does what `IGate` says, with real packets: in process, by `torknock gate`, and without privilege."""

from __future__ import annotations

from pathlib import Path

from tests.kernel.test_gate_service import Case
from tests.support.bridge import POWERLESS
from tests.support.gate_contract import GateContract
from tests.support.gate_process import GateProcess


class OwnGateTests(GateContract, Case):
    """`DoorTable`, with CAP_NET_ADMIN."""

    before: tuple[str, ...] = ()
    helper: str | None = None

    def setUp(self) -> None:
        super().setUp()
        helper = self.path if self.helper is None else Path(self.helper)
        guarded = GateProcess(self.bridge, self.client, self.before, helper, self.directory)
        self.addCleanup(guarded.end)
        self.guarded = guarded


class ServiceGateTests(OwnGateTests):
    """`Lease`, without it."""

    before = POWERLESS


class FilterGateTests(OwnGateTests):
    """`FilterGate`, without it and without a service."""

    before = POWERLESS
    helper = "/nonexistent/gate.sock"
