"""Changes to the accounts of a host: a system user, and a user's membership in a group."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Sequence

from attrs import define

from torknock.operate.setup.changes import CannotChange
from torknock.operate.setup.programs import run


@define
class User:
    """A system user, with a group of its name."""

    name: str

    @property
    def key(self) -> tuple[str, ...]:
        """Its name."""
        return (self.name,)

    def told(self) -> str:
        """Its name."""
        return f"make the system user and group {self.name}"

    def wanted(self) -> bool:
        """Whether there is none."""
        try:
            pwd.getpwnam(self.name)
        except KeyError:
            return True
        return False

    def look(self, earlier: Sequence[User]) -> None:
        """There is none."""

    def make(self) -> None:
        """Make it: no home, no shell, no password."""
        run("useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
            "--shell", "/usr/sbin/nologin", self.name)  # fmt: skip

    def undo(self) -> str:
        """Remove it, unless a process still runs as it."""
        if self.wanted():
            return ""
        try:
            run("userdel", self.name)
        except CannotChange as error:
            return f"the user {self.name} stays: {error}"
        return ""

    def since(self, earlier: User) -> User:
        """The same user."""
        return self


@define
class Member:
    """A user who is in a group."""

    user: str
    group: str

    @property
    def key(self) -> tuple[str, ...]:
        """Both names."""
        return (self.user, self.group)

    def told(self) -> str:
        """Both names."""
        return f"add {self.user} to the group {self.group}"

    def wanted(self) -> bool:
        """Whether the user is not in it."""
        try:
            return self.user not in grp.getgrnam(self.group).gr_mem
        except KeyError:
            return True

    def look(self, earlier: Sequence[Member]) -> None:
        """The user is not in it."""

    def make(self) -> None:
        """Add the user. It holds from the next login on."""
        run("usermod", "--append", "--groups", self.group, self.user)

    def undo(self) -> str:
        """Take the user out."""
        if not self.wanted():
            run("gpasswd", "--delete", self.user, self.group)
        return ""

    def since(self, earlier: Member) -> Member:
        """The same membership."""
        return self
