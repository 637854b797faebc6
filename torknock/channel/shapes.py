"""Shapers for the streams of a transport, with the exchanges of one site."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from twisted.internet.interfaces import IProtocol, IReactorTime

from torknock.channel.held import Timer
from torknock.channel.shaper import BridgeShaper, ClientShaper
from torknock.kernel.files import read_file
from torknock.protocol.exchanges import TEXT_AT_MOST, BadExchanges, Site, parse_site
from torknock.protocol.plan import Chance, Plan, Rhythm

EXCHANGES = "exchanges.json"
"""The file of a site's exchanges, in a directory of the transport's."""


@cache
def shipped() -> Site:
    """The exchanges that torknock has of its own."""
    return parse_site(Path(__file__).with_name(EXCHANGES).read_text(encoding="utf-8"))


def exchanges_in(directory: Path) -> Site:
    """Those in the file of *directory*; the shipped ones where it has none. Raises `BadExchanges`."""
    try:
        return parse_site(read_file(directory / EXCHANGES, TEXT_AT_MOST).decode("utf-8"))
    except FileNotFoundError:
        return shipped()
    except OSError as error:
        raise BadExchanges(f"{directory / EXCHANGES}: {error.strerror or type(error).__name__}") from None
    except UnicodeDecodeError:
        raise BadExchanges(f"{directory / EXCHANGES} is not UTF-8") from None


class Shapes:
    """Makes shapers; each draws from *site*, the shipped one unless named."""

    def __init__(self, clock: IReactorTime, chance: Chance, site: Site | None = None) -> None:
        self._clock, self._chance = clock, chance
        self._site = site

    @property
    def site(self) -> Site:
        """Whose exchanges they are."""
        return self._site or shipped()

    def plan(self) -> Plan:
        """What a client does on one connection of channel `tls`, whose bridge sends no session tickets."""
        return Plan(self.site, self._chance, tickets=True)

    def web_plan(self, first_at_most: int) -> Plan:
        """What a client does on one of channel `web`, where the first answer has at most *first_at_most* octets."""
        return Plan(self.site, self._chance, first_at_most=first_at_most)

    def timer(self) -> Timer:
        """A timer of the transport's clock."""
        return Timer(self._clock)

    def client(self, upper: IProtocol, plan: Plan, opening: bytes = b"", awaited: int = 0) -> ClientShaper:
        """The client's end above a channel; *opening* and *awaited* see `ClientShaper`."""
        return ClientShaper(self._clock, upper, plan, opening, awaited)

    def bridge(self, upper: IProtocol, first: int = 0) -> BridgeShaper:
        """The bridge's end above a channel; *first* see `BridgeShaper`."""
        return BridgeShaper(self._clock, upper, Rhythm(self.site, self._chance), first)
