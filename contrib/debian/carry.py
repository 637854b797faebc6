"""Unpacks the Python packages that the Debian package carries: `python contrib/debian/carry.py SOURCE TARGET`.

`TARGET/common` gets torknock and what has no compiled parts, `TARGET/MACHINE` the rest for one processor. Compiled
parts for several versions of Python lie side by side, since the names of their files have the version in them.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

MACHINES = ("x86_64", "aarch64")
PYTHONS = ("3.11", "3.13")
"""Of Debian 12 and 13."""

PLATFORMS = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014")
"""What the C library of Debian 12 runs."""

FROM_DEBIAN = "numpy"
"""The package depends on Debian's instead."""

FROM_SOURCE = "stem"
"""It is published as source only, and built by the pinned setuptools."""

PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def main() -> None:
    """Fetch what run.txt pins, build torknock and stem, and unpack all of it."""
    source, target = (Path(each).resolve() for each in sys.argv[1:])
    wheels = target.with_name("wheels")
    wheels.mkdir()
    pinned = list(_pinned((source / "contrib" / "requirements" / "run.txt").read_text("utf-8")))
    for machine in MACHINES:
        for python in PYTHONS:
            fitting = [
                _line(requirement, hashes)
                for requirement, hashes in pinned
                if requirement.name not in (FROM_DEBIAN, FROM_SOURCE) and _fits(requirement, machine, python)
            ]
            _fetch(fitting, machine, python, wheels)
    _build([_line(*each) for each in pinned if each[0].name == FROM_SOURCE], source, wheels)
    for wheel in sorted(wheels.glob("*.whl")):
        platform = wheel.stem.rsplit("-", 1)[1]
        machine = next((each for each in MACHINES if platform.endswith(each)), "common")
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(target / machine, [each for each in packed.namelist() if not _left_out(each)])


def _left_out(name: str) -> bool:
    """Whether *name*, a path in a wheel, is what torknock never imports: examples, and other projects' own tests."""
    return ".data/" in name or not {"newsfragments", "test", "tests"}.isdisjoint(name.split("/")[:-1])


def _pinned(text: str) -> Iterator[tuple[Requirement, str]]:
    """Each requirement of a file that pip-compile has written, and its options of hashes."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            requirement, _, hashes = line.partition("--hash")
            yield Requirement(requirement), f"--hash{hashes}"


def _line(requirement: Requirement, hashes: str) -> str:
    return f"{requirement.name}{requirement.specifier} {hashes}"


def _fits(requirement: Requirement, machine: str, python: str) -> bool:
    environment = {"platform_machine": machine, "python_version": python, "python_full_version": f"{python}.0"}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def _fetch(requirements: list[str], machine: str, python: str, wheels: Path) -> None:
    platforms = [f"--platform={each}_{machine}" for each in PLATFORMS]
    versions = (f"--python-version={python}", "--implementation=cp", "--only-binary=:all:")
    _pip(requirements, "download", "--no-deps", *platforms, *versions, f"--dest={wheels}")


def _build(requirements: list[str], source: Path, wheels: Path) -> None:
    options = ("--no-deps", "--no-build-isolation", f"--wheel-dir={wheels}")
    _pip(requirements, "wheel", *options)
    subprocess.run([*PIP, "wheel", *options, str(source)], check=True)


def _pip(requirements: list[str], verb: str, *options: str) -> None:
    listed = "\n".join(requirements) + "\n"
    command = [*PIP, verb, "--require-hashes", "--no-cache-dir", *options, "--requirement=/dev/stdin"]
    subprocess.run(command, input=listed.encode(), check=True)


if __name__ == "__main__":
    main()
