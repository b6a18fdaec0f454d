"""Certificates for tests, made by the openssl command."""

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificate:
    """PEM files."""

    cert: Path
    key: Path


def authority(folder: Path, name: str) -> Certificate:
    """One that can sign others."""
    made = _files(folder, name)
    _openssl(made, name, "-addext", "basicConstraints=critical,CA:TRUE")
    return made


def signed(folder: Path, name: str, by: Certificate) -> Certificate:
    """For 127.0.0.1, or for a client called ``name``."""
    made = _files(folder, name)
    _openssl(made, name, "-addext", "subjectAltName=IP:127.0.0.1", "-CA", str(by.cert), "-CAkey", str(by.key))
    return made


def _files(folder: Path, name: str) -> Certificate:
    return Certificate(folder / f"{name}.pem", folder / f"{name}.key")


def _openssl(made: Certificate, name: str, *options: str) -> None:
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    files = ["-keyout", str(made.key), "-out", str(made.cert), "-days", "2", "-subj", f"/CN={name}"]
    subprocess.run([*request, *files, *options], check=True, capture_output=True)
