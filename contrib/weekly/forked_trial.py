"""Runs trial again and again in forks of one process, which has loaded everything but the code under test.

Each line of its input is a JSON object: `modules`, the names of tests; `seconds`, after which they are ended. Each line
of its output is another: `outcome`, which is "passed", "failed" or "hung", and `output`, the end of what trial said.
The first test that fails ends the run. The code under test is in the working directory.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

_LOADED = (
    "OpenSSL.SSL", "attrs", "click.testing", "cryptography.hazmat.bindings._rust", "cryptography.x509", "hypothesis",
    "hypothesis.strategies", "numpy", "prometheus_client", "rich.console", "segno", "service_identity", "sqlite3",
    "stem.control", "twisted.internet.base", "twisted.internet.endpoints", "twisted.internet.epollreactor",
    "twisted.internet.task", "twisted.logger", "twisted.protocols.tls", "twisted.scripts.trial",
    "twisted.trial.reporter", "twisted.trial.runner", "twisted.trial.unittest", "twisted.web.client",
)  # fmt: skip
"""What is slow to load. None of it installs a reactor: forks must not share one."""

_REACTOR = "twisted.internet.reactor"


def main() -> None:
    """Answer each line of the standard input."""
    for name in _LOADED:
        importlib.import_module(name)
    assert _REACTOR not in sys.modules
    hypothesis = importlib.import_module("hypothesis")
    hypothesis.settings.register_profile("same", derandomize=True, database=None, deadline=None)
    hypothesis.settings.load_profile("same")  # the same examples each time, or a survivor would come and go
    with tempfile.TemporaryDirectory(prefix="torknock-mutation-") as made:
        for line in sys.stdin:
            asked = json.loads(line)
            with tempfile.TemporaryDirectory(dir=made, ignore_cleanup_errors=True) as directory:
                outcome = run(asked["modules"], asked["seconds"], Path(directory))
                output = (Path(directory) / "output").read_text(errors="replace")
            print(json.dumps({"outcome": outcome, "output": output[-6000:]}), flush=True)


def run(modules: Sequence[str], seconds: float, directory: Path) -> str:
    """What becomes of the tests of *modules* in a fork of this process: "passed", "failed" or "hung"."""
    child = os.fork()
    if not child:
        try:
            _be_trial(modules, directory)
        finally:
            os._exit(1)  # trial has left by `os._exit`, unless it could not start
    watched = os.pidfd_open(child)
    try:
        ended = bool(select.select([watched], [], [], seconds)[0])
    finally:
        os.close(watched)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what the tests have started, too
        _, status = os.waitpid(child, 0)
    return "hung" if not ended else "failed" if status else "passed"


def _be_trial(modules: Sequence[str], directory: Path) -> None:
    os.setsid()
    output = os.open(directory / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number, opened in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
        os.dup2(opened, number)
    sys.argv = ["trial", "--exitfirst", "--temp-directory", str(directory / "trial"), *modules]
    trial = importlib.import_module("twisted.scripts.trial")
    try:
        trial.run()
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(int(bool(end.code)))


if __name__ == "__main__":
    main()
