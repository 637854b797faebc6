"""Whether an observer can tell the client's TLS from a browser's."""

from __future__ import annotations

import datetime

from torknock.operate.finding import Finding, not_ok, ok

_NAME = "TLS hello"

_OLD_AFTER = datetime.timedelta(days=183)
"""Age of a browser's profile, by its release, from which on few browsers still look like it: six months."""

_UPGRADE = "upgrade torknock: contrib/install of a newer version"


def tls_hello(now: float) -> Finding:
    """What the client of this installation says first, at the date *now*."""
    from torknock.channel.browser import profile_date, why_none  # slow to load

    return judge(why_none(), profile_date(), datetime.datetime.fromtimestamp(now, datetime.UTC).date())


def judge(why_none: str | None, released: datetime.date | None, today: datetime.date) -> Finding:
    """The finding where there is no browser's hello, *why_none*, or one that was *released* on that day."""
    if why_none is not None:
        return not_ok(_NAME, f"this TLS hello can be recognised, as no browser's: {why_none}", "run contrib/install")
    if released is None:
        return ok(_NAME, "it is a browser's, of an unknown date")
    month = f"{released:%B %Y}"
    if today - released > _OLD_AFTER:
        return not_ok(_NAME, f"it is that of a browser of {month}: browsers have changed since", _UPGRADE)
    return ok(_NAME, f"it is that of a browser of {month}")
