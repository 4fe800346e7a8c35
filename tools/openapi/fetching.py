"""Getting a document from its address, through the guarded client."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import httpx

from agentbackend.foundation.outbound import OutboundError, OutboundRefusedError, OutboundTooLargeError, guarded_client
from tools.openapi.reading import MAX_BYTES, DocumentError
from tools.process import outbound_policy

FETCH_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Fetched:
    """A document, and the address that it came from in the end."""

    url: str
    data: bytes


async def fetch_document(url: str) -> Fetched:
    """The document at this address; redirects are followed where they may lead. Raises DocumentError."""
    headers = {"accept": "application/json, application/yaml, text/yaml, */*"}
    try:
        async with asyncio.timeout(FETCH_SECONDS):
            async with guarded_client(
                outbound_policy(),
                max_response_bytes=MAX_BYTES,
                max_connections=2,
                follow_redirects=True,
                headers=headers,
            ) as client:
                response = await client.get(url)
    except OutboundTooLargeError as error:
        raise DocumentError(f"The document has more than {MAX_BYTES // (1024 * 1024)} MiB.") from error
    except OutboundRefusedError as error:
        raise DocumentError(
            f"The address may not be reached: {error}. An operator can add its host to OUTBOUND_ALLOWED_HOSTS."
        ) from error
    except (TimeoutError, httpx.TimeoutException, OutboundError) as error:
        raise DocumentError(f"The address did not answer within {FETCH_SECONDS:g} seconds.") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DocumentError("The address cannot be reached: check its host and port.") from error
    if response.status_code != 200:
        raise DocumentError(f"The address answered with status {response.status_code} instead of a document.")
    return Fetched(str(response.url), response.content)
