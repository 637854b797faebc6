"""What the certificate of a site means for new lines of channel `web`."""

from __future__ import annotations

from pathlib import Path

from torknock.bridge.site_certificate import look
from torknock.errors import TorknockError


class NoPublicSite(TorknockError):
    """A line of channel `web` cannot be issued."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"a line of channel web needs {reason}", remedy)


def pin_for(directory: str | None, name: str | None) -> tuple[bytes | None, str]:
    """The pin for a line of the site in *directory* whose clients ask for host *name*, and a warning, or "".

    None if clients can trust a public certificate. It blocks. Raises `NoPublicSite` and `SiteUnusable`.
    """
    if not directory:
        remedy = (
            "run torknock setup bridge --site, or add site=DIR to ServerTransportOptions of torknock in torrc and "
            "restart tor"
        )
        raise NoPublicSite("a site, and this bridge has none", remedy)
    if name is None:
        raise NoPublicSite("the site's name", "name it with --sni, such as --sni www.example.org")
    shown = look(Path(directory), name)
    if shown.trusted:
        warning = "its certificate is for an IP address: Certificate Transparency publishes it, and so the bridge"
        return None, f"site: {warning}" if shown.names_address else ""
    return shown.spki_hash, (
        f"site: its certificate is not publicly trusted for {name}, so the line contains its key's pin; keep the key "
        "when you renew the certificate (certbot --reuse-key), or the line opens nothing"
    )
