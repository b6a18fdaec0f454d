"""TLS of the listening socket, with certificates that can be replaced while it listens."""

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What a TLS server shows of itself, and what it asks of its clients."""

    certfile: Path
    """PEM, the whole chain; the key as well when there is no ``keyfile``."""
    keyfile: Path | None = None
    ca_certs: Path | None = None
    """PEM of the authorities that vouch for clients."""
    client_certificate: ssl.VerifyMode = ssl.CERT_NONE
    ciphers: str | None = None
    """For TLS 1.2, in OpenSSL's notation."""

    def context(self) -> ssl.SSLContext:
        """Made from the files as they are now. Raises ValueError that names what is at fault."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = self.client_certificate
        if self.ciphers is not None:
            try:
                context.set_ciphers(self.ciphers)
            except ssl.SSLError:
                raise ValueError(f"ssl_ciphers: OpenSSL knows none of {self.ciphers[:80]!r}") from None
        try:
            # With a password given, OpenSSL does not ask for one at the terminal.
            context.load_cert_chain(self.certfile, self.keyfile, password="")
        except OSError as error:
            files = " and ".join(str(path) for path in (self.certfile, self.keyfile) if path is not None)
            raise ValueError(f"no certificate with its unencrypted key in {files}: {_reason(error)}") from None
        if self.ca_certs is not None:
            try:
                context.load_verify_locations(self.ca_certs)
            except OSError as error:
                raise ValueError(f"no certificates of authorities in {self.ca_certs}: {_reason(error)}") from None
        return context

    def stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Differs when a file has been written or replaced."""
        return tuple(_stamp(path) for path in (self.certfile, self.keyfile, self.ca_certs) if path is not None)


class FreshTls:
    """A context to listen with that shows whatever ``refresh`` has found last."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises ValueError when there is nothing to begin with."""
        self._files = files
        self._stamp = files.stamp()
        self._newest = files.context()
        self.listening = files.context()
        # Handshakes are handed a whole new context. Loading into the one in use could leave it, for a moment or
        # after an error, with the new certificate and the old key.
        self.listening.sni_callback = self._hand_over

    def refresh(self) -> None:
        """Take over files that have changed; as long as they do not fit together, the old ones are shown."""
        stamp = self._files.stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._newest = self._files.context()
        except ValueError as error:
            log.warning("certificate kept: its new files cannot be used", extra={"reason": str(error)})
        else:
            log.info("certificate replaced", extra={"file": str(self._files.certfile)})

    def _hand_over(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._newest


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _reason(error: OSError) -> str:
    return str(error.strerror or error)
