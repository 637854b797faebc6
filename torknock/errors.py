"""The errors that a person has to read: what is wrong, and what to do about it."""

from __future__ import annotations


class TorknockError(Exception):
    """Something that a person can act on.

    Its text is one line: *what* is wrong and where, then, after a semicolon, the *remedy*. A program that needs only
    one of them reads the attribute. Neither holds a secret or the address of a client.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what, remedy)
        self.what = what
        self.remedy = remedy
        """What to do, in the imperative; "" if that is not known."""

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}" if self.remedy else self.what
