"""What of this host a set-up depends on: its tor, its init system, its AppArmor, and how torknock is installed."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from attrs import frozen

from torknock.kernel.files import directory_of_others
from torknock.kernel.places import APPARMOR_ENABLED, APPARMOR_TOR, SYSTEMD_RUNS
from torknock.operate.setup.changes import CannotSetUp
from torknock.operate.setup.config_files import read_or_empty
from torknock.operate.setup.place import TORRC, Place
from torknock.operate.setup.programs import run
from torknock.tor.control import RunningTor

TOR_USER = "debian-tor"


@frozen
class Host:
    """What of this host a plan depends on."""

    place: Place
    tor_user: str
    program: Path
    systemd: bool
    apparmor: bool

    @classmethod
    def of(cls, tor: RunningTor | None, program: Path, user: str | None = None) -> Host:
        """The one where this runs as *program*; without *tor*, as Debian has it.

        *user* is whose tor starts the program, if not tor's own. Raises `CannotSetUp`.
        """
        if " " in str(program):
            raise CannotSetUp(f"tor cannot start {program}, because of the space in it", "install torknock elsewhere")
        apparmor = APPARMOR_TOR.parent.is_dir() and read_or_empty(APPARMOR_ENABLED).strip() == "Y"
        config_file, tor_user = (TORRC, TOR_USER) if tor is None else (tor.config_file, tor.user)
        _check_runs(program, user or tor_user)
        _check_ours(program)
        return cls(Place.of(config_file), tor_user, program, SYSTEMD_RUNS.is_dir(), apparmor)


def _check_runs(program: Path, user: str) -> None:
    """Raise `CannotSetUp` unless *user*, if there is one of that name, can run *program*, which is tried."""
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        return
    become: tuple[str, ...] = ()
    if account.pw_uid != os.geteuid():
        become = ("setpriv", f"--reuid={user}", f"--regid={account.pw_gid}", "--init-groups", "--no-new-privs")
    if run(*become, str(program), "--version", check=False).status:
        raise CannotSetUp(
            f"{user} cannot run {program}, and so cannot its tor",
            "install torknock where every user can run it: "
            "contrib/install does, and so does pipx with PIPX_HOME=/opt/pipx PIPX_BIN_DIR=/usr/local/bin",
        )


def _check_ours(program: Path) -> None:
    """Raise `CannotSetUp` if a user other than root could replace *program*, which root's services are started from."""
    for path in (program, program.resolve()):
        if (place := directory_of_others(path, (0, os.geteuid()))) is not None:
            raise CannotSetUp(
                f"{place} can be changed by users other than root, and root's services would run what they put there",
                "install torknock in a place of root's: contrib/install and the Debian package do",
            )
