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

    def describe(self) -> str:
        """The name of the user."""
        return f"make the system user and group {self.name}"

    def is_needed(self) -> bool:
        """Whether there is none."""
        try:
            pwd.getpwnam(self.name)
        except KeyError:
            return True
        return False

    def inspect(self, earlier: Sequence[User]) -> None:
        """Nothing to note: there is no such user."""

    def make(self) -> None:
        """Create it, without a home, a shell or a password."""
        run("useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
            "--shell", "/usr/sbin/nologin", self.name)  # fmt: skip

    def undo(self) -> str:
        """Remove it, unless a process still runs as it."""
        if self.is_needed():
            return ""
        try:
            run("userdel", self.name)
        except CannotChange as error:
            return f"the user {self.name} stays: {error}"
        return ""

    def merged_with(self, earlier: User) -> User:
        """The same user."""
        return self


@define
class Member:
    """Membership of a user in a group."""

    user: str
    group: str

    @property
    def key(self) -> tuple[str, ...]:
        """Both names."""
        return (self.user, self.group)

    def describe(self) -> str:
        """Both names."""
        return f"add {self.user} to the group {self.group}"

    def is_needed(self) -> bool:
        """Whether the user is not in it."""
        try:
            return self.user not in grp.getgrnam(self.group).gr_mem
        except KeyError:
            return True

    def inspect(self, earlier: Sequence[Member]) -> None:
        """Nothing to note: the user is not in it."""

    def make(self) -> None:
        """Add the user. It holds from the next login on."""
        run("usermod", "--append", "--groups", self.group, self.user)

    def undo(self) -> str:
        """Take the user out."""
        if not self.is_needed():
            run("gpasswd", "--delete", self.user, self.group)
        return ""

    def merged_with(self, earlier: Member) -> Member:
        """The same membership."""
        return self
