"""Paths of a host: where Linux, Debian and tor have things, and where torknock puts its own. Each stands here once."""

from __future__ import annotations

from pathlib import Path

PROGRAMS = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
"""Where programs are looked for, whatever PATH of the environment says: root's alone."""

TORKNOCK = Path("/usr/local/bin/torknock")
"""The command, as `contrib/install` makes it, and units and torrc name it."""

SYSTEMD_RUNS = Path("/run/systemd/system")
"""A directory that is there if systemd runs this host (sd_booted(3))."""

UNITS = Path("/etc/systemd/system")
"""Where an administrator's units are."""

APPARMOR_TOR = Path("/etc/apparmor.d/local/system_tor")
"""What is added to AppArmor's profile of tor (Debian)."""

APPARMOR_TOR_BROWSER = Path("/etc/apparmor.d/local/torbrowser.Tor.tor")
"""The same of the tor of Tor Browser, where torbrowser-launcher installed it (Debian)."""

APPARMOR_ENABLED = Path("/sys/module/apparmor/parameters/enabled")
"""Y if the kernel has AppArmor switched on."""

SYSCTLS_IPV4 = Path("/proc/sys/net/ipv4")
"""Settings of the kernel for TCP, of both IP versions (ip-sysctl)."""

DATA_DIRECTORY = Path("/var/lib/tor")
"""tor's DataDirectory, unless torrc names another (Debian)."""

_PT_STATE, _OWN = "pt_state", "torknock"


def profile_of(local: Path) -> Path:
    """The AppArmor profile to which *local* adds."""
    return local.parent.parent / local.name


def keyring_within(data_directory: Path) -> Path:
    """The keyring's directory, unless `ServerTransportOptions` name another: in tor's *data_directory*."""
    return keyring_of_state(data_directory / _PT_STATE)


def keyring_of_state(state: Path) -> Path:
    """The same, where *state* is the directory that tor gives to its transports."""
    return state / _OWN


def data_directory_of(keyring: Path) -> Path | None:
    """tor's DataDirectory, which the directory *keyring* is in; None if tor's transports do not keep it there."""
    state = keyring.absolute().parent
    return state.parent if state.name == _PT_STATE else None


SITE_SOCKET, PLAIN_SOCKET, TUNNEL_SOCKET = "site.sock", "plain.sock", "tunnel.sock"
"""In the directory of a bridge's site: where the web server listens, with TLS and without; where the bridge does."""
