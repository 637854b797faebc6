"""Changes to what runs: a unit of systemd, or, without systemd, a process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attrs import define, evolve, field

from torknock.operate.setup import daemons
from torknock.operate.setup.changes import CannotChange
from torknock.operate.setup.daemons import StartedProcess
from torknock.operate.setup.programs import run


@define
class Unit:
    """A systemd unit that is enabled and started: a service, or a socket with its service."""

    name: str
    before: bool = False
    """It was enabled before."""

    @property
    def key(self) -> tuple[str, ...]:
        """Its name."""
        return (self.name,)

    def describe(self) -> str:
        """Its name."""
        return f"enable {self.name}, and start it with what is installed now"

    def is_needed(self) -> bool:
        """Whether it is disabled or stopped, or runs an older unit file or version of torknock."""
        for verb in ("is-enabled", "is-active"):
            if run("systemctl", "--quiet", verb, self.name, check=False).status:
                return True
        asked = ("--property=NeedDaemonReload", "--property=MainPID", "--value", self.name, self._service)
        shown = run("systemctl", "show", *asked, check=False).output.split()
        return "yes" in shown or any(daemons.is_outdated(int(word)) for word in shown if word.isdecimal())

    def inspect(self, earlier: Sequence[Unit]) -> None:
        """Whether it is enabled."""
        self.before = not run("systemctl", "--quiet", "is-enabled", self.name, check=False).status

    def make(self) -> None:
        """Have systemd read it, and start it again: a socket starts only while its service does not run."""
        run("systemctl", "daemon-reload")
        run("systemctl", "enable", self.name)
        if self._service != self.name:
            run("systemctl", "stop", self._service)
        run("systemctl", "restart", self.name)

    def undo(self) -> str:
        """Stop it, with the service that it started; one that was there before is started again by its user."""
        if not self.before:
            run("systemctl", "disable", "--now", self.name, check=False)
        run("systemctl", "stop", self._service, check=False)
        return ""

    def merged_with(self, earlier: Unit) -> Unit:
        """Enabled before both."""
        return evolve(self, before=earlier.before)

    @property
    def _service(self) -> str:
        return self.name.replace(".socket", ".service")


@define
class Process:
    """A service that is started directly, on a host without systemd."""

    command: list[str]
    user: str
    socket: str
    group: int
    """The group whose members may open the socket; 0 for all users."""
    log: str
    started: dict[str, int] = field(factory=dict)

    @property
    def key(self) -> tuple[str, ...]:
        """Where it listens."""
        return (self.socket,)

    def describe(self) -> str:
        """The command, which must be started at boot too."""
        command = " ".join(self.command)
        return f"start, as there is no systemd here (see to it that it is started at boot):\n    {command}"

    def is_needed(self) -> bool:
        """Whether nothing listens, or a process with other arguments or of an older version."""
        pid = daemons.listener_pid(self.socket)
        if pid is None or daemons.is_outdated(pid):
            return True
        program = next(at for at, word in enumerate(self.command) if at and not word.startswith("-"))
        return not daemons.has_arguments(pid, self.command[program + 1 :])

    def inspect(self, earlier: Sequence[Process]) -> None:
        """Nothing to note: what listens is replaced."""

    def make(self) -> None:
        """End what listens, start the service, and wait until it listens."""
        daemons.end_listener(self.socket)
        started = daemons.start(self.command, self.socket, self.user, self.group, Path(self.log))
        if started is None:
            raise CannotChange(f"the service that listens on {self.socket} does not start", f"see {self.log}")
        self.started = {"pid": started.pid, "since": started.since}

    def undo(self) -> str:
        """End it, unless another process has its id by now."""
        if self.started:
            daemons.end(StartedProcess(**self.started))
        else:  # interrupted before its id was recorded
            daemons.end_listener(self.socket)
        return ""

    def merged_with(self, earlier: Process) -> Process:
        """The earlier one was ended."""
        return self
