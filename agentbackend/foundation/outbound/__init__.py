"""The guarded outbound client: HTTP to addresses that others have chosen (tools, remote agents, key sets).

`OutboundPolicy` says what may be reached; `guarded_client` makes an `httpx.AsyncClient` that keeps to it. The
twin for SDKs that are built on httpx2 stands in `httpx2_client`, apart because importing httpx2 costs a
start-up its time.
"""

from agentbackend.foundation.outbound.errors import (
    OutboundError,
    OutboundPolicyError,
    OutboundRefusedError,
    OutboundTimeoutError,
    OutboundTooLargeError,
)
from agentbackend.foundation.outbound.httpx_client import GuardedClient, guarded_client
from agentbackend.foundation.outbound.limits import read_bounded
from agentbackend.foundation.outbound.policy import OutboundPolicy

__all__ = [
    "GuardedClient",
    "OutboundError",
    "OutboundPolicy",
    "OutboundPolicyError",
    "OutboundRefusedError",
    "OutboundTimeoutError",
    "OutboundTooLargeError",
    "guarded_client",
    "read_bounded",
]
