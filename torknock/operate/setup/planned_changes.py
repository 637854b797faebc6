"""What must be changed on a host for a hidden bridge, or for a client of one."""

from __future__ import annotations

import pwd

from torknock.kernel.places import APPARMOR_TOR, APPARMOR_TOR_BROWSER, profile_of
from torknock.operate.setup.account_changes import Member, User
from torknock.operate.setup.changes import CannotSetUp, Change, Reader
from torknock.operate.setup.doors import FILTERED_UNIT, access_changes, door_of
from torknock.operate.setup.file_changes import Block, File
from torknock.operate.setup.place import SNIPPET, includes
from torknock.operate.setup.service_changes import Process, Unit
from torknock.operate.setup.shipped_files import profile, unit_file
from torknock.operate.setup.site_directory import site_changes
from torknock.operate.setup.this_host import Host
from torknock.operate.setup.torrc_options import HEAD, known_options
from torknock.operate.sides import Side
from torknock.tor.inspect import TorFacts

_SERVICE_USER = "torknock"


def plan(side: Side, options: str, host: Host, group: int) -> list[Change]:
    """What must be changed on *host* for *options* in torrc.

    *group* is tor's, which alone may read the options besides root. Raises `CannotSetUp`.
    """
    service = _service(side.service, host, group)
    if side is Side.BRIDGE:
        service[1:1] = _doors(options, host)  # the service finds them when it starts
        service += site_changes(options, host.place.suffix, host.tor_user)
    changes: list[Change] = []
    if host.apparmor:
        changes.append(Block(str(APPARMOR_TOR), profile(APPARMOR_TOR.name, host.program), Reader.APPARMOR))
    place = host.place
    if place.name and includes(place.config_file, SNIPPET):
        raise CannotSetUp(
            f"{place.config_file} includes {SNIPPET}, which is another tor's", "take that %include out, and try again"
        )
    changes.append(
        File(str(place.snippet), HEAD + options, 0o640, group, Reader.TOR, known_options(place.snippet) or None)
    )
    if not includes(place.config_file, place.snippet):
        changes.append(Block(str(place.config_file), f"%include {place.snippet}\n", Reader.TOR))
    # torrc first: if this is interrupted, a client's tor connects to the bridge alone
    return _needed([*service, *changes] if side is Side.BRIDGE else [*changes, *service])


def plan_by_hand(facts: TorFacts, host: Host) -> list[Change]:
    """What must be changed for a bridge whose lines in torrc are a person's: what its service may guard."""
    names = ("ServerTransportListenAddr", "ServerTransportOptions")
    options = "".join(f"{name} torknock {facts.of_torknock(name) or ''}\n" for name in names)
    return _needed([User(_SERVICE_USER), *_doors(options, host)])


def plan_for_user(user: str, host: Host) -> list[Change]:
    """What must be changed on *host* for a tor of *user*'s own, such as Tor Browser's. Raises `CannotSetUp`."""
    try:
        pwd.getpwnam(user)
    except KeyError:
        raise CannotSetUp(f"there is no user {user} on this host") from None
    changes = [*_service("dial", host, 0), Member(user, _SERVICE_USER)]
    if profile_of(APPARMOR_TOR_BROWSER).exists():
        rules = profile(APPARMOR_TOR_BROWSER.name, host.program)
        changes.append(Block(str(APPARMOR_TOR_BROWSER), rules, Reader.APPARMOR))
    return _needed(changes)


def _needed(changes: list[Change]) -> list[Change]:
    """Those of *changes* that are still to be made; with a unit file, also the units."""
    needed = [change.is_needed() for change in changes]
    files = any(it and isinstance(change, File) and change.reader is Reader.SYSTEMD
                for it, change in zip(needed, changes, strict=True))  # fmt: skip
    return [change for it, change in zip(needed, changes, strict=True) if it or (files and isinstance(change, Unit))]


def _service(service: str, host: Host, group: int) -> list[Change]:
    """The changes that have a privileged service run."""
    changes: list[Change] = [User(_SERVICE_USER)]
    if not host.systemd:
        return [*changes, _process(service, host.place.socket(service), host, group)]
    for kind in ("service", "socket"):
        changes.append(unit_file(f"torknock-{service}.{kind}", host, host.place.suffix))
    return [*changes, Unit(f"torknock-{service}{host.place.suffix}.socket")]


def _doors(options: str, host: Host) -> list[Change]:
    door = door_of(options, host.tor_user)
    unit = unit_file(FILTERED_UNIT, host) if host.systemd else None
    return [] if door is None else access_changes(door, host.place.owner(host.tor_user), _SERVICE_USER, unit)


def _process(service: str, path: str, host: Host, group: int) -> Process:
    capability = "-all,+net_admin"
    allowed = []
    if service == "dial":
        allowed = ["--user", host.tor_user] if host.tor_user != "root" else []
        allowed += ["--group", _SERVICE_USER]
    command = [
        "setpriv", f"--reuid={_SERVICE_USER}", f"--regid={_SERVICE_USER}", "--clear-groups", "--no-new-privs",
        f"--inh-caps={capability}", f"--ambient-caps={capability}", f"--bounding-set={capability}",
        str(host.program), service, "--socket", path, *allowed,
    ]  # fmt: skip
    log = f"/var/log/torknock-{service}{host.place.suffix}.log"
    return Process(command, _SERVICE_USER, path, group if service == "gate" else 0, log)
