"""TLS towards one remote agent: the certificate that we show, and whom we believe."""

from __future__ import annotations

import os
import ssl
import tempfile
from contextlib import suppress
from typing import Final

from cryptography import x509

from a2a.contract import RemoteAgentError, Target
from agentbackend.foundation.outbound import policy as outbound
from tools.process import outbound_policy

_MAX_CERTIFICATES: Final = 50


def tls_context(target: Target) -> ssl.SSLContext | None:
    """The context for connections to it; None where the process's own will do. Raises RemoteAgentError."""
    agent = target.agent
    if not agent.client_certificate and not agent.trusted_ca:
        return None
    # without authorities of its own: a context like the process's, which is shared and must not be changed
    own = ssl.create_default_context(cadata=agent.trusted_ca) if agent.trusted_ca else None
    context = own or outbound.tls_context(outbound_policy().ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if agent.client_certificate:
        _show(context, target)
    return context


def problem_of_authorities(text: str) -> str:
    """Why a text cannot be the certificates that are trusted; empty when it can."""
    try:
        found = x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        return "It holds no certificates in PEM (-----BEGIN CERTIFICATE-----)."
    if len(found) > _MAX_CERTIFICATES:
        return f"It holds more than {_MAX_CERTIFICATES} certificates."
    if "PRIVATE KEY" in text:
        return "It holds a private key, which does not belong here."
    return ""


def _show(context: ssl.SSLContext, target: Target) -> None:
    """Load our certificate; the library reads files only, so it stands in one, for the moment and for us alone."""
    agent, credentials = target.agent, target.credentials
    parts = [credentials[agent.client_certificate]]
    if agent.client_key:
        parts.append(credentials[agent.client_key])
    pem = "\n".join(part.replace("\\n", "\n") for part in parts) + "\n"
    descriptor, path = tempfile.mkstemp(prefix="agentbackend-")  # 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(pem)
        context.load_cert_chain(path, password="")  # of an encrypted key it would ask at the terminal
    except (ssl.SSLError, OSError, ValueError):
        raise RemoteAgentError(
            f"The client certificate for the agent {agent.name!r} cannot be used: an operator must set it anew."
        ) from None
    finally:
        with suppress(OSError):
            os.unlink(path)
