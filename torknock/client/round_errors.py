"""What a round of SYNs fails with, and which of its errors is told to people."""

from __future__ import annotations

from twisted.internet.error import ConnectError, ConnectionRefusedError, TCPTimedOutError

from torknock.errors import TorknockError
from torknock.interfaces import Slipped


class WrongPeer(TorknockError):
    """What accepted the connection is not the bridge, for this *reason*: the token was not taken by the bridge."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"something other than the bridge answered: {reason}")


class BridgeSilent(TorknockError):
    """The bridge did not admit this client; its cause is the error of the last SYN.

    *refused* says whether an answer came; *again_in* is the number of seconds until the next SYN may leave.
    """

    def __init__(self, text: str, refused: bool, again_in: float = 0.0) -> None:
        super().__init__(text)
        self.refused = refused
        self.again_in = again_in


class NotTheBridge(BridgeSilent):
    """As `BridgeSilent`; a SYN of the round was answered, but not by the bridge."""

    def __init__(self, reason: WrongPeer, again_in: float) -> None:
        super().__init__(
            f"{reason}. Either the bridge did not take the token (used by another device with this line, a revoked "
            "line, a wrong clock) and the port's ordinary service answered, or the connection is being intercepted. "
            "Nothing secret was sent",
            refused=True,
            again_in=again_in,
        )


class HungUp(TorknockError):
    """The bridge admitted this client, and ended the connection without a word: its service refuses clients."""

    def __init__(self) -> None:
        super().__init__("the bridge let this client in, then hung up: its tor hibernates, or does not run")


class RoundErrors:
    """The errors of one round's SYNs."""

    def __init__(self) -> None:
        self.last: Exception | None = None
        """The one that counts; None if there is none."""
        self._wrong: WrongPeer | None = None

    def note(self, error: Exception) -> None:
        """A SYN failed with *error*. What the bridge said, or did not say, tells more than `Slipped`."""
        if self.last is None or not isinstance(error, Slipped):
            self.last = error
        if isinstance(error, WrongPeer):
            self._wrong = error

    def backing_off(self, again_in: float) -> BridgeSilent:
        """What the next round fails with if it begins *again_in* seconds too early."""
        what = f"backing off after failed attempts; next attempt in {again_in:.0f} s"
        return self._silent(f"{what} ({self._how()})", again_in)

    def failure(self, attempts: int, reasons: str, again_in: float) -> BridgeSilent:
        """What the round fails with after so many *attempts*, for which *reasons* may be the reason."""
        if self._wrong is not None:
            error: BridgeSilent = NotTheBridge(self._wrong, again_in)
            error.__cause__ = self.last
            return error
        what = f"the bridge accepted none of {attempts} connection attempts ({self._how()}); {reasons}"
        return self._silent(what, again_in)

    def _silent(self, text: str, again_in: float) -> BridgeSilent:
        error = BridgeSilent(text, isinstance(self.last, (ConnectionRefusedError, WrongPeer)), again_in)
        error.__cause__ = self.last
        return error

    def _how(self) -> str:
        if isinstance(self.last, ConnectionRefusedError):
            return "it refused"
        if isinstance(self.last, (TorknockError, ConnectError)) and not isinstance(self.last, TCPTimedOutError):
            return str(self.last)
        return "nothing came back"
