"""Tools that are an HTTP endpoint of somebody else's; settings as in docs/http_tools.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from agentbackend.foundation.outbound import OutboundError, OutboundRefusedError
from tools.handlers.contract import UnusableHandlerError
from tools.http_endpoint.answer import UnusableAnswerError, read_answer, read_excerpt, without_secrets
from tools.http_endpoint.failures import exception_failure, status_failure
from tools.http_endpoint.request import MisconfiguredError, Outgoing, build_request
from tools.http_endpoint.sending import send
from tools.http_endpoint.settings import EndpointSettings, InvalidSettingsError, read_settings
from tools.invocation import ToolInvocation
from tools.process import outbound_policy


class HttpEndpointHandler:
    """Makes one request of a call through the guarded client.

    Each call is one request: whether it is made again is the door's business, which knows the tool's side effects, its retries
    and the time that is left. The failures say whether that can help, and when.
    """

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise UnusableHandlerError unless requests can be made with these settings; a name's address is checked at each call."""
        endpoint = _read(settings)
        origin = endpoint.url.origin
        try:
            outbound_policy().check_written_host(origin.raw_host.decode("ascii"), endpoint.url.port)
        except OutboundRefusedError as error:
            raise UnusableHandlerError(
                f"url: {error}, and OUTBOUND_ALLOWED_HOSTS does not list it; an operator of the service can add it there."
            ) from error

    async def execute(self, settings: Mapping[str, Any], arguments: dict[str, Any], invocation: ToolInvocation) -> Any:
        """Make the request; the answer's value, or ToolError with what the model can do about it."""
        endpoint = _read(settings)
        try:
            request = build_request(endpoint, arguments, invocation)
        except MisconfiguredError as error:
            raise UnusableHandlerError(str(error)) from error
        try:
            value = await _value(endpoint, request, invocation)
            return without_secrets(value, request.secrets)
        except (UnusableAnswerError, OutboundError, httpx.HTTPError, httpx.InvalidURL) as error:
            failure = exception_failure(error, endpoint, invocation)
        raise failure


async def _value(endpoint: EndpointSettings, request: Outgoing, invocation: ToolInvocation) -> Any:
    response = await send(request, follow_redirects=endpoint.follow_redirects, seconds=invocation.seconds_left + 1)
    try:
        if response.status_code in endpoint.success_statuses:
            return await read_answer(response, endpoint)
        said = await read_excerpt(response, request.secrets)
        raise status_failure(response, said, endpoint, invocation)
    finally:
        await response.aclose()


def _read(settings: Mapping[str, Any]) -> EndpointSettings:
    try:
        return read_settings(settings)
    except InvalidSettingsError as error:
        raise UnusableHandlerError(str(error)) from error
