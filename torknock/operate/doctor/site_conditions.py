"""Conditions of a bridge's site: its web server, its certificate, and the lines that depend on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from torknock.bridge.site_certificate import SiteCertificate, SiteUnusable, look
from torknock.keyring.file import KeyringMissing, KeyringUnreadable
from torknock.keyring.lines import Keyring
from torknock.keyring.site_settings import SITE
from torknock.operate.doctor.host import AS_ROOT
from torknock.operate.finding import Finding, not_ok, ok, unknown
from torknock.operate.line_table import REISSUE
from torknock.protocol.bridge_line import Channel, Line

_ANY_NAME = "localhost"
"""What is asked for where no line says a name."""


def site(keyring: Path, now: float) -> list[Finding]:
    """Whether clients of the lines in *keyring* get through its site; nothing if the bridge has none. It blocks."""
    try:
        with Keyring.open(keyring, create=False) as opened:
            directory = opened.setting(SITE)
            lines = [issued.line for issued in opened.live(now)]
    except (OSError, KeyringMissing, KeyringUnreadable):
        return []  # which is another condition
    if not directory:
        return []
    channels = Counter(line.channel for line in lines)
    findings = [_shown(Path(directory), [line for line in lines if line.channel is Channel.WEB], now)]
    if number := channels[Channel.TLS]:
        why = f"{number} of {len(lines)} live lines show a certificate of the bridge's own, not the site"
        findings.append(ok("tls lines", f"{why}; {REISSUE}"))
    return findings


def _shown(directory: Path, lines: Sequence[Line], now: float) -> Finding:
    """What the web server shows for each name in *lines*."""
    for name in sorted({line.sni or _ANY_NAME for line in lines} or {_ANY_NAME}):
        try:
            shown = look(directory, name)
        except SiteUnusable as error:
            if isinstance(error.__context__, PermissionError):
                return unknown("site", "this user may not connect to the web server's socket", AS_ROOT)
            return not_ok("site", error.reason, error.remedy)
        if wrong := _wrong(shown, [line for line in lines if line.sni == name], now):
            return wrong
    return ok("site", "its web server answers, with TLS 1.3 and the key that the lines are for")


def _wrong(shown: SiteCertificate, lines: Sequence[Line], now: float) -> Finding | None:
    """What is wrong with *shown* for *lines*, which all name its host."""
    if shown.version != "TLSv1.3":
        return not_ok("site", f"it speaks {shown.version}", "nginx: ssl_protocols TLSv1.2 TLSv1.3; and reload it")
    if shown.expires <= datetime.fromtimestamp(now, UTC):
        return not_ok("site", "its certificate has expired", "renew it, with the same key if lines have a pin")
    if any(line.pin is None for line in lines) and not shown.trusted:
        why = "its certificate is not publicly trusted, and lines without a pin depend on that"
        return not_ok("site", why, "get one from a public authority, or issue these lines again")
    if any(line.pin not in (None, shown.spki_hash) for line in lines):
        why = "its key is another one than that of lines with a pin, which open nothing"
        return not_ok("site", why, "put the former key back (certbot --reuse-key keeps it), or issue these lines again")
    if shown.names_address:
        why = "its certificate is for an IP address, which Certificate Transparency publishes"
        return not_ok("site", why, "use a certificate for a host name")
    return None
