"""Chromium without a window, driven over a pipe (Chrome DevTools Protocol): each visit has connections of its own."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.netns import Namespace, end

CHROMIUM = "/usr/bin/chromium"
_ANSWERS_WITHIN = 60.0


class BrowserFailed(Exception):
    """Chromium did not do what it was asked."""


class Browser:
    """A running Chromium that speaks over the descriptors *to* and *of*."""

    def __init__(self, to: int, of: int) -> None:
        self._to, self._of = to, of
        self._number = 0
        self._inbox = b""
        os.set_blocking(of, False)

    def visit(self, pages: list[str], pauses: list[float]) -> None:
        """Load *pages* one after the other, in a profile of its own; after each, wait as many seconds as *pauses*."""
        context = self._call("Target.createBrowserContext")["browserContextId"]
        try:
            target = self._call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
            session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            self._call("Page.enable", session)
            for url, pause in zip(pages, pauses, strict=True):
                self._call("Page.navigate", session, url=url)
                self._wait(lambda told: told.get("method") == "Page.loadEventFired")
                time.sleep(pause)
        finally:
            self._call("Target.disposeBrowserContext", browserContextId=context)

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        self._number += 1
        number = self._number
        command = {"id": number, "method": method, "params": parameters}
        if session is not None:
            command["sessionId"] = session
        os.write(self._to, json.dumps(command).encode() + b"\0")
        answer = self._wait(lambda told: told.get("id") == number)
        if "error" in answer:
            raise BrowserFailed(f"{method}: {answer['error'].get('message')}")
        return answer["result"]

    def _wait(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + _ANSWERS_WITHIN
        while time.monotonic() < deadline:
            while b"\0" in self._inbox:
                message, _, self._inbox = self._inbox.partition(b"\0")
                told: dict[str, Any] = json.loads(message)
                if wanted(told):
                    return told
            try:
                piece = os.read(self._of, 1 << 16)
            except BlockingIOError:
                time.sleep(0.005)
                continue
            if not piece:
                raise BrowserFailed("Chromium ended")
            self._inbox += piece
        raise BrowserFailed(f"Chromium did not answer within {_ANSWERS_WITHIN:.0f} s")


@contextmanager
def browser(where: Namespace, name: str, address: str, spki: str) -> Iterator[Browser]:
    """A Chromium in *where*, for which *name* is at *address* and nothing else is anywhere.

    It trusts the key whose SubjectPublicKeyInfo has the SHA-256 *spki*, in base64.
    """
    commands, to = os.pipe()
    of, answers = os.pipe()
    with tempfile.TemporaryDirectory(prefix="torknock-bench-browser-") as profile:
        switches = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe",
            "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-quic",
            f"--user-data-dir={profile}", f"--host-resolver-rules=MAP {name} {address}, MAP * ~NOTFOUND",
            f"--ignore-certificate-errors-spki-list={spki}",
        ]  # fmt: skip
        # Chromium reads its commands from descriptor 3 and answers on 4.
        shell = f'exec 3<&{commands} 4>&{answers}; exec "$@"'
        running = where.popen(
            ["/bin/sh", "-c", shell, "sh", CHROMIUM, *switches],
            pass_fds=(commands, answers),
            stderr=open(os.devnull, "w"),  # noqa: SIM115  the child's
        )
        os.close(commands)
        os.close(answers)
        try:
            yield Browser(to, of)
        finally:
            end([running])
            os.close(to)
            os.close(of)
