"""A Debian machine of its own for commands that change a host: its network is a namespace, what they write is theirs.

`/etc` is a copy, `/run`, `/var/lib`, `/var/log` and `/usr/local/bin` are private and begin empty, and everybody can
read the checkout at `/srv/torknock`, where `/usr/local/bin/torknock` finds it. tor runs as Debian's unit runs it: as
debian-tor, with the unit's bounding set and no new privileges. There is no systemd. Needs root.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.netns import Namespace, end

ROOT = Path(__file__).parent.parent.parent
CONTROL = "/run/tor/control"
UNIT = (
    "setpriv", "--no-new-privs", "--inh-caps=-all",
    "--bounding-set=-all,+setuid,+setgid,+net_bind_service,+dac_read_search",
)  # fmt: skip
"""What Debian's unit leaves tor: tor@default.service, "Hardening"."""

TOR = (
    "/usr/bin/tor", "--defaults-torrc", "/usr/share/tor/tor-service-defaults-torrc", "-f", "/etc/tor/torrc",
    "--RunAsDaemon", "0", "--Log", "notice stdout",
)  # fmt: skip

_serial = itertools.count()
_NUMBERS = 86

_MOUNTS = """
set -e
mount --make-rprivate /
cp -a /etc {temporary}/etc
sed -i '/^#*SYS_[UG]ID_MAX/d' {temporary}/etc/login.defs
printf 'SYS_UID_MAX %d\nSYS_GID_MAX %d\n' {newest} {newest} >> {temporary}/etc/login.defs
mount --bind {temporary}/etc /etc
mkdir -p /srv/torknock
mount --bind {temporary}/srv /srv
mount --bind {checkout} /srv/torknock
for each in /run /var/log /usr/local/bin; do mount -t tmpfs -o mode=755 none $each; done
mkdir -p {temporary}/lib/tor
mount --bind {temporary}/lib /var/lib
chown debian-tor:debian-tor /var/lib/tor
chmod 700 /var/lib/tor
mkdir -p /run/tor
chown debian-tor:debian-tor /run/tor
chmod 2755 /run/tor
cat > /usr/local/bin/torknock <<'END'
#!/srv/torknock/{python}
import sys
sys.path.insert(0, "/srv/torknock")
from torknock.cli import main
main()
END
chmod 755 /usr/local/bin/torknock
echo ready
exec sleep infinity
"""


def _own_numbers() -> tuple[int, socket.socket]:
    """The highest number that a machine's new users have, and what keeps it and the seven below it for that machine.

    The kernel knows users by their numbers, and processes of every machine are seen on each: userdel refuses to remove
    a user whose number another machine's process has. Other runs of tests have machines at the same time.
    """
    first = os.getpid() * 31 + next(_serial)  # not the one of the machine before: its processes may still be ending
    for each in range(_NUMBERS):
        keeps = socket.socket(socket.AF_UNIX)
        number = (first + each) % _NUMBERS
        try:
            keeps.bind(f"\0torknock-tests-users-{number}")
        except OSError:
            keeps.close()
        else:
            return 207 + 8 * number, keeps
    raise AssertionError(f"there are {_NUMBERS} machines already")


class Debian:
    """The machine in the network namespace *host*; its tor is started by `start_tor`."""

    socks_port = 9050
    """Of Debian's tor."""

    def __init__(self, host: Namespace) -> None:
        self.host = host
        self._directory = tempfile.TemporaryDirectory(prefix="torknock-", ignore_cleanup_errors=True)
        temporary = Path(self._directory.name)
        temporary.chmod(0o755)
        (temporary / "srv" / "torknock").mkdir(parents=True)
        python = Path(sys.executable).relative_to(ROOT)
        newest, self._numbers = _own_numbers()
        script = _MOUNTS.format(temporary=temporary, checkout=ROOT, python=python, newest=newest)
        self._keeper = host.popen(["unshare", "--mount", "bash", "-c", script], stdout=subprocess.PIPE, text=True)
        assert self._keeper.stdout is not None
        if self._keeper.stdout.readline() != "ready\n":
            self.close()
            raise AssertionError("the machine was not made")
        self._tors: list[subprocess.Popen[Any]] = []

    def within(self, command: Sequence[str]) -> list[str]:
        """*command*, as it is run from outside to happen on the machine."""
        return ["nsenter", f"--mount=/proc/{self._keeper.pid}/ns/mnt", "--wd=/", *command]

    def run(self, *command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run *command* here to its end, whatever that is."""
        return subprocess.run(
            ["nsenter", f"--net={self.host.path}", *self.within(command)], input=stdin, capture_output=True, text=True,
            check=False, env={"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        )  # fmt: skip

    def start_tor(self, torrc: str = "", before: Sequence[str] = ()) -> subprocess.Popen[Any]:
        """tor under its unit's restrictions, once it takes commands; *torrc* comes before what is configured.

        *before* is a command that runs the one that follows it, with restrictions of its own.
        """
        with self.path("/etc/tor/torrc").open("a") as file:
            file.write(torrc)
        log = self.path("/var/log/tor.log")
        with log.open("w") as written:
            tor = self.host.popen(self.within([*before, *UNIT, *TOR]), stdout=written, stderr=written)
        self._tors.append(tor)
        gives_up = time.monotonic() + 30
        while "Opened Control listener connection (ready)" not in log.read_text():
            if tor.poll() is not None or time.monotonic() > gives_up:
                raise AssertionError(log.read_text())
            time.sleep(0.05)
        return tor

    def trouble(self, what: str) -> str:
        """*what*, with tor's last words."""
        return f"{what}; tor's last words:\n" + "\n".join(self.path("/var/log/tor.log").read_text().splitlines()[-15:])

    def path(self, inside: str) -> Path:
        """Where the machine's path *inside* is seen from outside."""
        return Path(f"/proc/{self._keeper.pid}/root{inside}")

    def close(self) -> None:
        """End tor and whatever else still runs here, and remove the machine."""
        end(getattr(self, "_tors", []))
        for pid in self._pids():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGTERM)
        end([self._keeper])
        self._directory.cleanup()
        self._numbers.close()

    def _pids(self) -> list[int]:
        mounts = f"/proc/{self._keeper.pid}/ns/mnt"
        with contextlib.suppress(OSError):
            mine = Path(mounts).readlink()
            found = []
            for each in Path("/proc").glob("[0-9]*/ns/mnt"):
                with contextlib.suppress(OSError):
                    if each.readlink() == mine and int(each.parts[2]) != self._keeper.pid:
                        found.append(int(each.parts[2]))
            return found
        return []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
