"""Listening with TLS, and with client certificates: what Twisted's own `ssl:` endpoint cannot be told.

The description is `mutualtls:PORT:interface=ADDRESS:certificate=FILE:key=FILE`, and with `:clients=FILE` callers must show a certificate
that one of those in the file has signed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from OpenSSL import SSL, crypto
from twisted.internet import endpoints, ssl

PREFIX = "mutualtls"


class TlsFilesError(Exception):
    """The certificates or the key cannot be used; the text names the setting."""


def description(host: str, port: int, *, certificate: str, key: str, clients: str) -> str:
    """What `server_from_string` listens by."""
    said = {"interface": host, "certificate": certificate, "key": key, "clients": clients}
    quoted = [f"{name}={endpoints.quoteStringArgument(value)}" for name, value in said.items() if value]
    return ":".join([PREFIX, str(port), *quoted])


def server_from_string(reactor: Any, text: str) -> Any:
    """As Twisted's function of that name, which knows all other descriptions. Raises TlsFilesError."""
    if not text.startswith(f"{PREFIX}:"):
        return endpoints.serverFromString(reactor, text)
    (_, port), said = endpoints._parse(text)
    context = tls_options(said["certificate"], said["key"], said.get("clients", ""))
    return endpoints.SSL4ServerEndpoint(reactor, int(port), context, interface=said.get("interface", ""))


def tls_options(certificate: str, key: str, clients: str) -> Any:
    """The server's side of TLS 1.2 and newer. Raises TlsFilesError."""
    chain = _certificates("TLS_CERT_FILE", certificate)
    try:
        # of an encrypted key it would ask at the terminal
        secret = crypto.load_privatekey(crypto.FILETYPE_PEM, Path(key).read_bytes(), passphrase=b"")
    except (OSError, crypto.Error, ValueError, TypeError) as error:
        raise TlsFilesError("TLS_KEY_FILE: holds no private key that can be read (PEM, not encrypted).") from error
    options = ssl.CertificateOptions(
        privateKey=secret,
        certificate=chain[0],
        extraCertChain=chain[1:],
        trustRoot=_trust(clients) if clients else None,
        raiseMinimumTo=ssl.TLSVersion.TLSv1_2,
    )
    try:
        options.getContext().check_privatekey()
    except SSL.Error as error:
        raise TlsFilesError("TLS_KEY_FILE: is not the key of the certificate in TLS_CERT_FILE.") from error
    return options


def _trust(clients: str) -> Any:
    found = [ssl.Certificate(one) for one in _certificates("TLS_CLIENT_CA_FILE", clients)]
    return ssl.trustRootFromCertificates(found)


def _certificates(setting: str, file: str) -> list[Any]:
    end = b"-----END CERTIFICATE-----"
    try:
        parts = Path(file).read_bytes().split(end)[:-1]
        found = [crypto.load_certificate(crypto.FILETYPE_PEM, part + end + b"\n") for part in parts]
    except (OSError, crypto.Error) as error:
        raise TlsFilesError(f"{setting}: holds no certificates that can be read (PEM).") from error
    if not found:
        raise TlsFilesError(f"{setting}: holds no certificates that can be read (PEM).")
    return found
