"""The reactor in which trial runs, as what torknock takes it for."""

from __future__ import annotations

from typing import cast

from twisted.internet import reactor as installed

from torknock.kernel.interfaces import IReactor

reactor = cast(IReactor, installed)
