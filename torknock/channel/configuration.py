"""The path of OpenSSL's configuration, for commands that start a server; imports nothing that loads OpenSSL."""

from __future__ import annotations

from pathlib import Path

OPENSSL_CONF = Path(__file__).with_name("openssl.cnf")
"""To be named by the environment variable `OPENSSL_CONF` before OpenSSL is loaded (config(5ssl))."""
