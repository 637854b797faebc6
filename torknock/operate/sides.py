"""The two sides of torknock, as the operator's commands name them. Pure."""

from __future__ import annotations

from torknock.protocol.word import Word


class Side(Word):
    """What a tor is for torknock: a hidden bridge, or a client of hidden bridges."""

    BRIDGE = "bridge"
    CLIENT = "client"

    @property
    def verb(self) -> str:
        """The verb of its transport: `torknock server` or `torknock client`."""
        return "server" if self is Side.BRIDGE else "client"

    @property
    def service(self) -> str:
        """The verb of the privileged service that its transport asks: `torknock gate` or `torknock dial`."""
        return "gate" if self is Side.BRIDGE else "dial"

    @property
    def plugin(self) -> str:
        """The option of torrc that names its transport."""
        return f"{self.verb.capitalize()}TransportPlugin"

    @property
    def setup_command(self) -> str:
        """The command that sets it up."""
        return f"torknock setup {self}" + (" - < line.txt" if self is Side.CLIENT else "")
