"""`python -m mock_a2a_server`: serve the agent until SIGTERM, or until what it was started by is gone.

Settings, all from the environment: A2A_MOCK_PORT (8001), A2A_MOCK_HOST (127.0.0.1), A2A_MOCK_URL (how others reach it),
A2A_MOCK_PAUSE_SECONDS (0.1), and for TLS A2A_MOCK_CERT_FILE, A2A_MOCK_KEY_FILE, A2A_MOCK_CLIENT_CA_FILE (callers then need a
certificate that it has signed).
"""

from __future__ import annotations

import logging
import os
import signal
import ssl
import sys
import threading

import uvicorn

from mock_a2a_server.application import application

logger = logging.getLogger("mock_a2a_server")


def main() -> None:
    """Serve. With `--until-stdin-closes`: end when whoever holds the other end of standard input does."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="sample agent: %(message)s")
    logging.getLogger("a2a").setLevel(logging.WARNING)
    port = int(_setting("A2A_MOCK_PORT", "8001"))
    host = _setting("A2A_MOCK_HOST", "127.0.0.1")
    certificate, key = _setting("A2A_MOCK_CERT_FILE"), _setting("A2A_MOCK_KEY_FILE")
    clients = _setting("A2A_MOCK_CLIENT_CA_FILE")
    url = _setting("A2A_MOCK_URL", f"{'https' if certificate else 'http'}://127.0.0.1:{port}").rstrip("/")
    if "--until-stdin-closes" in sys.argv[1:]:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    logger.info("serving on %s", url)
    uvicorn.run(
        application(url, pause_seconds=float(_setting("A2A_MOCK_PAUSE_SECONDS", "0.1"))),
        host=host,
        port=port,
        log_level="warning",
        timeout_graceful_shutdown=1,
        ssl_certfile=certificate or None,
        ssl_keyfile=key or None,
        ssl_ca_certs=clients or None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if clients else ssl.CERT_NONE,
    )


def _setting(name: str, default: str = "") -> str:
    return os.environ.get(name, "").strip() or default


def _end_with_stdin() -> None:
    while sys.stdin.buffer.read(1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
