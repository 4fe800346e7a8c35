"""A network that fails: passes connections on to the service, and breaks each after as many bytes of the answer as it is told."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self


@dataclass(frozen=True, slots=True)
class Break:
    """After how many bytes of answers a connection breaks: closed in the middle, or left open with nothing more coming."""

    after: int
    silently: bool = False


class CuttingProxy:
    """Listens on a loopback port. Each connection meets the next of `breaks`; when there are no more, they hold."""

    def __init__(self, upstream_port: int, breaks: Iterator[Break]) -> None:
        self._upstream_port = upstream_port
        self._breaks = breaks
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.cuts = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for opened in (self._listener, *self._sockets):
            _close(opened)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                downstream, _ = self._listener.accept()
                upstream = socket.create_connection(("127.0.0.1", self._upstream_port))
                self._sockets += [downstream, upstream]
                broken = next(self._breaks, None)
                threading.Thread(target=self._requests, args=(downstream, upstream), daemon=True).start()
                threading.Thread(target=self._answers, args=(upstream, downstream, broken), daemon=True).start()

    def _requests(self, downstream: socket.socket, upstream: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := downstream.recv(65536):
                upstream.sendall(data)
        _close(upstream)

    def _answers(self, upstream: socket.socket, downstream: socket.socket, broken: Break | None) -> None:
        left = broken.after if broken else None
        with contextlib.suppress(OSError):
            while data := upstream.recv(65536):
                if left is not None and len(data) > left:
                    downstream.sendall(data[:left])
                    self.cuts += 1
                    break
                left = None if left is None else left - len(data)
                downstream.sendall(data)
            else:
                _close(downstream)
                return
        _close(upstream)
        if not (broken and broken.silently):
            _close(downstream)


def _close(opened: socket.socket) -> None:
    with contextlib.suppress(OSError):
        opened.shutdown(socket.SHUT_RDWR)  # wakes a thread that reads from it
    opened.close()
