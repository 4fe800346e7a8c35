"""Chooses the event loop of Daphne's reactor: uvloop where it is installed. Imported before daphne.server, which would install its own."""

from __future__ import annotations

import asyncio
import sys

from twisted.internet import asyncioreactor

try:
    import uvloop
except ImportError:  # not built for this platform
    _loop: asyncio.AbstractEventLoop = asyncio.new_event_loop()
else:
    _loop = uvloop.new_event_loop()

if "twisted.internet.reactor" not in sys.modules:
    asyncio.set_event_loop(_loop)
    asyncioreactor.install(_loop)
