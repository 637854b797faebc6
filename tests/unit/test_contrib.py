"""Tests of what contrib has for a host: it is sound, and is installed with the package."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parents[2]
CONTRIB = ROOT / "contrib"


class Case(SynchronousTestCase):
    """With a directory for what is tried."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, self.directory)

    def run_(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run *command* to its end, whatever that is."""
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


class TorTests(Case):
    """What tor and its profile are told."""

    def test_tor_takes_the_samples(self) -> None:
        """As they are; it warns that root runs it, and that nobody can be contacted."""
        for sample in ("bridge", "client"):
            file = CONTRIB / "torrc" / f"{sample}.torrc"
            done = self.run_("tor", "--verify-config", "-f", file, "--DataDirectory", self.directory / sample)
            self.assertEqual(done.returncode, 0, done.stdout)
            warned = [
                line
                for line in done.stdout.splitlines()
                if "[warn]" in line and not re.search("as root|ContactInfo", line)
            ]
            self.assertEqual(warned, [])

    def test_the_profile_compiles(self) -> None:
        """Debian's profile of tor, with the lines that are added to it."""
        profiles = self.directory / "apparmor.d"
        shutil.copytree("/etc/apparmor.d", profiles)
        shutil.copy(CONTRIB / "apparmor" / "system_tor", profiles / "local" / "system_tor")
        parser = ("apparmor_parser", "--base", profiles, "--skip-kernel-load", "--skip-cache")
        done = self.run_(*parser, profiles / "system_tor")
        self.assertEqual(done.returncode, 0, done.stderr)
        named = self.run_(*parser, "--preprocess", profiles / "system_tor").stdout
        self.assertIn("/opt/torknock/bin/torknock ix,", named)

    def test_the_profile_of_tor_browser_compiles(self) -> None:
        """With the lines that are added to it; Debian's package torbrowser-launcher has a profile of this form."""
        profiles = self.directory / "apparmor.d"
        shutil.copytree("/etc/apparmor.d", profiles)
        shutil.copy(CONTRIB / "apparmor" / "torbrowser.Tor.tor", profiles / "local" / "torbrowser.Tor.tor")
        profile = profiles / "torbrowser.Tor.tor"
        profile.write_text(TORBROWSER)
        parser = ("apparmor_parser", "--base", profiles, "--skip-kernel-load", "--skip-cache")
        done = self.run_(*parser, profile)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_the_line_of_tor_browser_keeps_its_own_transports(self) -> None:
        """What torrc says of an option replaces what the defaults say, unless a + stands before it."""
        defaults, torrc = self.directory / "defaults", self.directory / "torrc"
        defaults.write_text("ClientTransportPlugin obfs4 exec /usr/bin/obfs4proxy\n")
        for plus, kept in (("", False), ("+", True)):
            torrc.write_text(f"{plus}ClientTransportPlugin torknock exec /usr/local/bin/torknock client\n")
            command = ("tor", "--defaults-torrc", defaults, "-f", torrc, "--hush", "--dump-config", "short")
            dumped = self.run_(*command, "--DataDirectory", self.directory / "data").stdout
            self.assertIn("ClientTransportPlugin torknock", dumped)
            self.assertEqual("ClientTransportPlugin obfs4" in dumped, kept)


TORBROWSER = """
#include <tunables/global>
@{torbrowser_installation_dir}=@{HOME}/.local/share/torbrowser/tbb/{i686,x86_64}/tor-browser_*
@{torbrowser_home_dir}=@{torbrowser_installation_dir}/Browser
profile torbrowser_tor @{torbrowser_home_dir}/TorBrowser/Tor/tor {
  #include <abstractions/base>
  network tcp,
  owner @{torbrowser_home_dir}/TorBrowser/Data/Tor/** rw,
  #include <local/torbrowser.Tor.tor>
}
"""


class InstallTests(Case):
    """The package, and the script that installs it."""

    def test_the_wheel_has_what_setup_writes(self) -> None:
        """The units and the profile."""
        built = self.run_(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", self.directory)
        self.assertEqual(built.returncode, 0, built.stderr)
        [wheel] = self.directory.glob("*.whl")
        names = zipfile.ZipFile(wheel).namelist()
        for directory in ("systemd", "apparmor"):
            for file in (CONTRIB / directory).iterdir():
                self.assertIn(f"torknock/contrib/{directory}/{file.name}", names)

    def test_the_script_is_sound(self) -> None:
        """It refuses what it does not know, and changes nothing then."""
        self.assertEqual(self.run_("bash", "-n", CONTRIB / "install").returncode, 0)
        done = self.run_(CONTRIB / "install", "--nonsense")
        self.assertEqual(
            (done.returncode, done.stderr), (2, "contrib/install: takes --remove or nothing, not --nonsense\n")
        )

    def test_tor_is_not_started_by_its_package(self) -> None:
        """policy-rc.d says no to tor alone, and is as it was afterwards, also after a break."""
        policy = self.directory / "policy-rc.d"
        script = (CONTRIB / "install").read_text()
        functions = script[script.index("forbid_start() {") : script.index('if [ "${1:-}" = --remove ]')]

        def shell(call: str) -> None:
            paths = f"set -eu\npolicy={policy}\nformer_policy={policy}.before-torknock\n"
            done = self.run_("bash", "-c", f"{paths}{functions}\n{call}")
            self.assertEqual((done.returncode, done.stderr), (0, ""))

        def asked(service: str) -> int:
            return self.run_("/bin/sh", policy, service, "start").returncode

        def state() -> dict[str, str]:
            return {file.name: file.read_text() for file in self.directory.iterdir()}

        for before in ("", "#!/bin/sh\n[ $1 != cron ] || exit 101\nexit 104\n"):
            if before:
                policy.write_text(before)
                policy.chmod(0o755)
            then = state()
            shell("forbid_start")
            self.assertEqual([asked("tor"), asked("tor.service"), asked("tor@default.service")], [101] * 3)
            self.assertEqual((asked("cron"), asked("ssh")), (101, 104) if before else (0, 0))
            shell("restore_policy")
            self.assertEqual(state(), then)
            shell("restore_policy")
            self.assertEqual(state(), then)
            shell("forbid_start")  # and then broken off; the next call
            shell("forbid_start; restore_policy")
            self.assertEqual(state(), then)


class PinTests(Case):
    """What `contrib/install` installs as root."""

    def setUp(self) -> None:
        super().setUp()
        self.project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        self.run_pins, self.build_pins = self.pins("run"), self.pins("build")

    def pins(self, name: str) -> dict[str, str]:
        """The version of each package of a file, all of whose lines must be understood."""
        text = (CONTRIB / "requirements" / f"{name}.txt").read_text()
        found = {}
        for line in filter(None, re.sub(r"(?m)^ *#.*\n", "", text).replace("\\\n", "").splitlines()):
            pin = re.fullmatch(r"([a-z0-9-]+)==([^ ;]+)(?: ; [^#;]+?)?((?: +--hash=sha256:[0-9a-f]{64})+)", line)
            assert pin is not None, line
            found[pin[1]] = pin[2]
        return found

    def check(self, requirements: Iterable[str], pins: dict[str, str]) -> None:
        for each in map(Requirement, requirements):
            if each.marker is None or each.marker.evaluate({"extra": ""}):
                self.assertTrue(each.specifier.contains(pins[canonicalize_name(each.name)]), each)

    def test_they_cover_the_project(self) -> None:
        """Every requirement and every build back-end has a pin that satisfies it."""
        self.check(self.project["project"]["dependencies"], self.run_pins)
        self.check(self.project["build-system"]["requires"], self.build_pins)
        self.assertIn("setuptools", self.build_pins)  # builds stem

    def test_they_cover_what_those_need(self) -> None:
        """As far as the versions that are installed here tell."""
        for name in self.run_pins:
            with contextlib.suppress(PackageNotFoundError):  # what is for another platform
                self.check(requires(name) or (), self.run_pins)
        self.check(requires("hatchling") or (), self.build_pins)

    def test_nothing_else_is_installed(self) -> None:
        """Each call of pip has hashes and wheels only, or no index at all; no file names an index."""
        script = (CONTRIB / "install").read_text()
        self.assertEqual(script.count("bin/pip"), 1)
        calls = [line for line in script.splitlines() if line.startswith('"${pip[@]}"')]
        self.assertEqual(len(calls), 3, calls)
        for call in calls:
            self.assertTrue("${pinned[@]}" in call or ("--no-index" in call and "--no-deps" in call), call)
        self.assertIn("pinned=(--require-hashes --only-binary :all:)", script)
        for file in (CONTRIB / "requirements").glob("*.txt"):
            self.assertNotRegex(file.read_text(), "://|--index|--find-links|--trusted", file)

    def test_another_file_is_refused(self) -> None:
        """pip looks at the hash of what it is given, a wheel or a source, before anything of it runs."""
        text = (CONTRIB / "requirements" / "run.txt").read_text()
        for name, file in (("mdurl", "mdurl-{}-py3-none-any.whl"), ("stem", "stem-{}.tar.gz")):
            pinned = self.directory / "pinned.txt"
            pinned.write_text(re.findall(rf"(?m)^{name}==(?:.*\\\n)+.*\n", text)[0])
            (self.directory / file.format(self.run_pins[name])).write_bytes(b"another")
            done = self.run_(
                sys.executable, "-m", "pip", "download", "--no-index", "--find-links", self.directory, "--no-deps",
                "--require-hashes", "--dest", self.directory / "taken", "--requirement", pinned,
            )  # fmt: skip
            self.assertIn("DO NOT MATCH THE HASHES", done.stderr)


class PackageTests(Case):
    """The Debian package, and the container that is made of it."""

    def test_the_package_has_the_version_of_the_project(self) -> None:
        """`contrib/debian/changelog` is where Debian's tools read it."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        newest = (CONTRIB / "debian" / "changelog").read_text("utf-8").splitlines()[0]
        self.assertIn(f"({project['version']})", newest)

    def test_the_maintainer_scripts_are_sound(self) -> None:
        """`sh` can read each of them."""
        for name in ("preinst", "postinst", "prerm", "postrm"):
            done = self.run_("sh", "-n", CONTRIB / "debian" / f"torknock.{name}")
            self.assertEqual((done.returncode, done.stderr), (0, ""), name)

    def test_the_container_says_what_is_wrong_with_its_environment(self) -> None:
        """One line, before anything is written."""
        cases: list[tuple[dict[str, str], str]] = [
            ({}, "ADDRESS is not set: give the public address of this host, as in --env ADDRESS=192.0.2.7"),
            ({"PT_PORT": "70000"}, "PT_PORT is 70000: give a port from 1 to 65535"),
            ({"PT_PORT": "443 x"}, "PT_PORT is 443 x: give a port from 1 to 65535"),
            ({"NICKNAME": "a b"}, "NICKNAME is a b: give 1 to 19 letters and digits"),
            (
                {"EMAIL": "a@example.org\nExitRelay 1"},
                "EMAIL has a line break or a control character in it: remove it",
            ),
        ]
        for variables, message in cases:
            environment = {"PATH": "/usr/bin:/bin"} | ({"ADDRESS": "192.0.2.7"} if variables else {}) | variables
            done = subprocess.run(
                [CONTRIB / "container" / "entrypoint"], env=environment, capture_output=True, text=True, check=False
            )
            self.assertEqual((done.returncode, done.stdout, done.stderr), (1, "", f"torknock: {message}\n"))
