"""Makes the changes of a plan, has tor take them up, and undoes them (`torknock.operate.setup.planned_changes`)."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from attrs import frozen
from stem import ControllerError

from torknock.kernel.places import PROGRAMS, keyring_within
from torknock.kernel.proc import Process as Running
from torknock.kernel.proc import transport_of
from torknock.keyring.file import KeyringMissing, KeyringUnreadable
from torknock.keyring.issued import Issued
from torknock.keyring.line_errors import LineUnknown
from torknock.keyring.lines import Keyring
from torknock.operate.setup.changes import CannotSetUp, Change, Reader
from torknock.operate.setup.daemons import is_outdated
from torknock.operate.setup.doors import ListedDoor
from torknock.operate.setup.file_changes import Block, File
from torknock.operate.setup.place import Place
from torknock.operate.setup.programs import run
from torknock.operate.setup.record import Record
from torknock.operate.setup.torrc_options import BridgeSettings, known_options
from torknock.operate.sides import Side
from torknock.protocol.bridge_line import BridgeLine, Scheme, parse_fingerprint, write_address, write_bridge_line
from torknock.protocol.door import Door, Posture
from torknock.service.access import ACCESS, EVERYWHERE, AccessDenied, read, uid_of
from torknock.service.posture_table import posture_table
from torknock.service.sources_table import sources_table
from torknock.tor.control import RunningTor, tor_at
from torknock.tor.inspect import TorFacts, TorUnreachable
from torknock.tor.reasons import why_refused

_REGISTERED_WITHIN = 30.0
_STARTS_WITHIN = 5.0
_HAS_KEYS_WITHIN = 30.0
"""tor makes its keys when it first becomes a bridge, before it knows its fingerprint."""
_LEFT_WITHIN = 5.0
_POLLED_EVERY = 0.25


@contextmanager
def applying(changes: list[Change], tor: RunningTor, record: Record, side: Side) -> Iterator[None]:
    """Make *changes*, have *tor* take them up, and keep them once this ends.

    Raises `TorknockError`: if tor does not take its new configuration, its transport does not start, or anything is
    raised within this, all is as it was before.
    """
    with ExitStack() as taken_back, record.making(changes):
        verify(tor.config_file, tor.defaults_file)
        taken_back.callback(_reload_former, tor)  # after the changes are taken back
        start_transport(tor, side)
        yield
        taken_back.pop_all()
    for change in changes:
        if isinstance(change, File) and change.reader is Reader.TOR:
            _remove_tables(_tables(change.before or "") - _tables(change.text))


def _reload_former(tor: RunningTor) -> None:
    """Reload *tor* with the configuration that it had before a set-up failed."""
    with suppress(CannotSetUp, ControllerError):  # what made it fail is raised
        verify(tor.config_file, tor.defaults_file)
        tor.reload()


def transport_runs(tor: RunningTor, side: Side) -> bool:
    """Whether tor runs the installed version of the transport."""
    if not wait_until(lambda: _transport(tor, side) is not None, _STARTS_WITHIN):
        return False
    running = _transport(tor, side)
    return running is not None and not is_outdated(running.pid)


def start_transport(tor: RunningTor, side: Side) -> None:
    """Reload *tor*, and wait until its transport runs with the new configuration. Raises `CannotSetUp` if it does not.

    A bridge's transport that runs is ended: tor starts it again, with its new options. So
    is one that is older than what is installed. One that tor has given up is started by a further reload.
    """
    running = _transport(tor, side)
    stays = running is not None and side is Side.CLIENT and not is_outdated(running.pid)  # it takes any bridge's line
    with tor.heard():
        tor.reload()
        if not tor.reads_within(_REGISTERED_WITHIN):
            raise CannotSetUp("tor does not read its configuration again", "restart it")
        if stays:
            return
        if running is not None:
            with suppress(ProcessLookupError):
                os.kill(running.pid, signal.SIGTERM)
        gives_up = time.monotonic() + _REGISTERED_WITHIN
        while not tor.registers_within(_STARTS_WITHIN):
            if tor.failed or time.monotonic() > gives_up:
                reason = tor.complaint or f"nothing within {_REGISTERED_WITHIN:.0f} s"
                raise CannotSetUp(f"tor has not started the transport. It said: {reason}")
            if _transport(tor, side) is None:
                tor.reload()


@frozen
class FirstLine:
    """The bridge line that a set-up prints."""

    name: str
    text: str
    """For torrc."""
    keyring: Path
    made: bool
    """Whether it was issued just now."""


def first_line(tor: RunningTor, settings: BridgeSettings, now: float) -> FirstLine:
    """The first bridge line of *settings*, issued if it does not exist. Raises `TorknockError`."""
    wait_until(lambda: tor.fingerprint is not None, _HAS_KEYS_WITHIN)
    facts = tor.facts()
    if facts.data_directory is None or (fingerprint := tor.fingerprint) is None:
        raise CannotSetUp("tor does not know its fingerprint yet", "try again in a minute")
    directory = keyring_within(facts.data_directory)
    with Keyring.open(directory, create=True) as keyring:
        before = {issued.name for issued in keyring.lines()}
        issued = _first_live_line(keyring, settings.line_name, now)
        keyring.make_known_at(issued.name, str(settings.line_address[0]))
        keyring.set_setting("address", write_address(*settings.line_address))
        keyring.set_setting("fingerprint", parse_fingerprint(fingerprint))
    text = write_bridge_line(BridgeLine(*settings.line_address, parse_fingerprint(fingerprint), issued.line))
    return FirstLine(issued.name, text, directory, issued.name not in before)


def _first_live_line(keyring: Keyring, name: str, now: float) -> Issued:
    """The live line *name*, issued if it does not exist; if that has ended, *name*-2, and so on."""
    for number in itertools.count(1):
        called = name if number == 1 else f"{name}-{number}"
        try:
            issued = keyring.get(called)
        except LineUnknown:
            return keyring.add(called, expires=None, now=now)
        if issued.is_live(now):
            return issued
    raise AssertionError


def ignored_lines(facts: TorFacts, posture: Posture, now: float) -> list[str]:
    """The names of the live lines of scheme `knock` that open nothing with *posture*, as far as is known."""
    if posture.hides_judging or facts.data_directory is None:
        return []
    directory = keyring_within(facts.data_directory)
    with suppress(KeyringMissing, KeyringUnreadable), Keyring.open(directory, create=False) as keyring:
        return [issued.name for issued in keyring.live(now) if issued.line.scheme is Scheme.KNOCK]
    return []


def undo(place: Place, control: str | None, password: str | None) -> Iterator[str]:
    """Undo what was changed for the tor of *place*, newest first; yields what could not be undone, and what is left.

    Then the tor at *control* reads its configuration again; None if it does not run.
    """
    record = place.record
    tables, changes = _tables(known_options(place.snippet)), record.changes()
    yield from record.undo()
    if not any(isinstance(change, (File, Block)) and change.reader is Reader.TOR for change in changes):
        return
    if control is not None:
        try:
            with tor_at(control, password) as tor:
                yield from _verify_without(changes, tor)
                tor.reload()
                wait_until(lambda: tor.facts().of_torknock("ServerTransportPlugin") is None, _LEFT_WITHIN)
        except TorUnreachable as error:
            yield f"{error}; if it runs, it still has the former configuration: reload or restart it"
        except CannotSetUp as error:
            yield f"{error}; so tor was not reloaded, and still has the former configuration"
    if tables:
        _remove_tables(tables | _of_users(changes))
        yield "the keyring with the issued lines is kept: pt_state/torknock in tor's DataDirectory"


def _verify_without(changes: list[Change], tor: RunningTor) -> Iterator[str]:
    """Verify what *tor* reads without *changes*; a directory of theirs that torrc includes by now is made again.

    Raises `CannotSetUp`.
    """
    try:
        verify(tor.config_file, tor.defaults_file)
    except CannotSetUp:
        made = [Path(each) for change in changes if isinstance(change, File) and change.reader is Reader.TOR
                for each in change.made if not Path(each).exists()]  # fmt: skip
        for directory in made:
            directory.mkdir()
        try:
            verify(tor.config_file, tor.defaults_file)
        except CannotSetUp:
            for directory in reversed(made):
                directory.rmdir()
            raise
        yield f"{made[-1]} stays, for {tor.config_file} includes it"


def verify(config_file: Path, defaults_file: Path | None) -> None:
    """Have another tor read its configuration: the one that runs would end over a wrong one. Raises `CannotSetUp`."""
    if shutil.which("tor", path=PROGRAMS) is None:
        return
    command = ["tor", "--verify-config", "-f", str(config_file)]
    if defaults_file is not None:
        command += ["--defaults-torrc", str(defaults_file)]
    done = run(*command, check=False)
    if done.status:
        raise CannotSetUp(f"tor would not take the configuration: {why_refused(done.output)}")


def configured(config_file: Path, defaults_file: Path | None) -> list[tuple[str, str]]:
    """What tor's configuration amounts to: options that differ from tor's defaults, and their values.

    An option may be there more than once. Raises `CannotSetUp` if tor would not take it.
    """
    verify(config_file, defaults_file)
    command = ["tor", "-f", str(config_file), "--hush", "--dump-config", "short"]
    if defaults_file is not None:
        command += ["--defaults-torrc", str(defaults_file)]
    lines = (line.partition(" ") for line in run(*command).output.splitlines())
    return [(name, value) for name, _, value in lines]


def _transport(tor: RunningTor, side: Side) -> Running | None:
    pid = tor.facts().pid
    return None if pid is None else transport_of(pid, side.verb)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether *condition* becomes true within *seconds*."""
    gives_up = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > gives_up:
            return False
        time.sleep(_POLLED_EVERY)  # noqa: TID251  a command of root's, which has no reactor
    return True


def _tables(options: str) -> set[str]:
    """The tables of the port that the lines of torrc in *options* hide."""
    ports = map(int, re.findall(r"ListenAddr torknock 0\.0\.0\.0:(\d+)", options))
    doors = [Door(EVERYWHERE, port) for port in ports]
    return {name for door in doors for name in (door.table, posture_table(door))}


def _of_users(changes: list[Change]) -> set[str]:
    """The tables of the users whose doors are in *changes*, and that no other tor's door is listed for."""
    try:
        listed = {each.user for each in read(ACCESS)}
    except AccessDenied:
        listed = set()
    users = {change.user for change in changes if isinstance(change, ListedDoor)} - listed
    return {sources_table(uid) for uid in map(uid_of, users) if uid is not None}


def _remove_tables(tables: set[str]) -> None:
    """Remove those of *tables* that a bridge has left, once it has had the time to take them away itself."""
    if shutil.which("nft", path=PROGRAMS) is None or not tables:
        return

    def left() -> set[str]:
        return tables & set(run("nft", "list", "tables", "inet", check=False).output.split())

    if not wait_until(lambda: not left(), _LEFT_WITHIN):
        for table in left():
            run("nft", "delete", "table", "inet", table, check=False)
