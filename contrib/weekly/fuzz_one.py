"""Fuzzes one parser, for its coverage (atheris, libFuzzer): TARGET CORPUS [OPTION OF LIBFUZZER ...].

Ends with a status other than 0 at the first fault, and names the input in the corpus's directory that shows it.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import atheris

from torknock.channel.configuration import OPENSSL_CONF

if __name__ == "__main__":
    os.environ["OPENSSL_CONF"] = str(OPENSSL_CONF)  # read when OpenSSL is loaded, by what is imported next
    with atheris.instrument_imports(include=["torknock", "pluggable"]):
        from contrib.weekly.targets import TARGETS

    target, corpus = TARGETS[sys.argv[1]], Path(sys.argv[2])
    for seed in target.seeds:
        (corpus / hashlib.sha256(seed).hexdigest()).write_bytes(seed)
    atheris.Setup([sys.argv[0], str(corpus), *sys.argv[3:]], target.check)
    atheris.Fuzz()
