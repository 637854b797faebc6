"""How a transport without privilege asks a service that has it: lines over a Unix socket, sockets beside them."""

from __future__ import annotations

GATE_SOCKET = "/run/torknock/gate.sock"
"""Where the service that guards ports for bridges listens."""

DIAL_SOCKET = "/run/torknock/dial.sock"
"""Where the service that knocks for clients listens."""
