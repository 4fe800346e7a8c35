"""The official SDK as a server: its dispatchers speak JSON-RPC and HTTP+JSON, our `TaskService` answers.

The only module that knows the SDK's messages on this side: what comes in becomes documents, what goes out is made of them. An error
that is none of the protocol's is told as an internal one, without its text.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from datetime import UTC
from typing import Any, Final, TypeVar, cast

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message as ProtoMessage
from opentelemetry import propagate
from starlette.requests import Request
from starlette.responses import Response

from a2a import types
from a2a.auth.user import User
from a2a.cards import KEY_SET_PATH, card_of
from a2a.sdk_cards import signed_card
from a2a.server.context import ServerCallContext
from a2a.server.request_handlers.request_handler import RequestHandler, validate_request_params
from a2a.server.routes.common import ServerCallContextBuilder
from a2a.server.routes.jsonrpc_dispatcher import JsonRpcDispatcher
from a2a.server.routes.rest_dispatcher import RestDispatcher
from a2a.serving.task_service import Call, Sending, TaskService
from a2a.signing_keys import SigningKeys
from a2a.task_store import Filters
from a2a.tasks import Document, Fault, TaskError, TaskState
from a2a.utils import errors
from agentbackend.foundation.problems import ActsNext, Problem
from audit.actor import Actor

logger = logging.getLogger(__name__)

LARGEST_PAGE: Final = 100
_PAGE: Final = 50
_CALL: Final = "agentbackend.call"
_BASE: Final = "agentbackend.base"

_ERRORS: Final[dict[Fault, type[errors.A2AError]]] = {
    Fault.TASK_NOT_FOUND: errors.TaskNotFoundError,
    Fault.TASK_NOT_CANCELABLE: errors.TaskNotCancelableError,
    Fault.UNSUPPORTED_OPERATION: errors.UnsupportedOperationError,
    Fault.CONTENT_TYPE_NOT_SUPPORTED: errors.ContentTypeNotSupportedError,
    Fault.INVALID_PARAMS: errors.InvalidParamsError,
    Fault.INTERNAL: errors.InternalError,
}
_ROUTES: Final = (
    ("POST", r"message:send", "on_message_send"),
    ("POST", r"message:stream", "on_message_send_stream"),
    ("POST", r"tasks/(?P<id>[^/]+):cancel", "on_cancel_task"),
    ("GET", r"tasks/(?P<id>[^/]+):subscribe", "on_subscribe_to_task"),
    ("POST", r"tasks/(?P<id>[^/]+):subscribe", "on_subscribe_to_task"),
    ("GET", r"tasks/(?P<id>[^/]+)/pushNotificationConfigs/(?P<push_id>[^/]+)", "get_push_notification"),
    ("DELETE", r"tasks/(?P<id>[^/]+)/pushNotificationConfigs/(?P<push_id>[^/]+)", "delete_push_notification"),
    ("POST", r"tasks/(?P<id>[^/]+)/pushNotificationConfigs", "set_push_notification"),
    ("GET", r"tasks/(?P<id>[^/]+)/pushNotificationConfigs", "list_push_notifications"),
    ("GET", r"tasks/(?P<id>[^/]+)", "on_get_task"),
    ("GET", r"tasks", "list_tasks"),
    ("GET", r"extendedAgentCard", "handle_authenticated_agent_card"),
)
_PATTERNS: Final = [(method, re.compile(pattern), name) for method, pattern, name in _ROUTES]

_STATES: Final = frozenset(types.TaskState.keys())

Operation = TypeVar("Operation", bound=Callable[..., Awaitable[Any]])


class _WithoutContents(logging.Filter):
    """The SDK writes into its log what callers sent, their credentials among it: what is left is what kind of fault it was."""

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else record.levelname.lower()
        record.msg, record.args, record.exc_info = f"the A2A SDK could not serve a request ({kind})", (), None
        record.levelno, record.levelname = logging.INFO, "INFO"  # what is ours to mend is logged where it happens
        return True


for _name in ("server.routes.jsonrpc_dispatcher", "server.routes.rest_dispatcher", "utils.error_handlers"):
    logging.getLogger(f"a2a.{_name}").addFilter(_WithoutContents())


class Protocol:
    """Both bindings for all agents. `answer` finds the one that a request is for."""

    def __init__(self, service: TaskService, keys: SigningKeys) -> None:
        handler = _Handler(service, keys)
        builder = _ContextBuilder()
        self._json_rpc = JsonRpcDispatcher(handler, builder)
        self._rest = RestDispatcher(handler, builder)

    def operation(self, method: str, rest: str) -> Callable[[Request], Awaitable[Response]] | None:
        """What answers a request to the part of the address after the agent's; None when nothing is there.

        Raises Problem when it is there for other methods.
        """
        if not rest:
            if method != "POST":
                raise Problem("method_not_allowed", headers=((b"allow", b"POST"),))
            return self._json_rpc_answered
        found = [(wanted, name, match) for wanted, pattern, name in _PATTERNS if (match := pattern.fullmatch(rest))]
        # "tasks/{id}" matches what ends in :cancel or :subscribe, too; those come first.
        for wanted, name, match in found:
            if wanted == method:
                return functools.partial(self._answered, name, match.groupdict())
        if found:
            allowed = ", ".join(dict.fromkeys(wanted for wanted, _, _ in found))
            raise Problem("method_not_allowed", headers=((b"allow", allowed.encode()),))
        return None

    async def _json_rpc_answered(self, request: Request) -> Response:
        document = await _read(request)
        params = document.get("params") if isinstance(document, dict) else None
        if isinstance(params, dict):
            _check_state(params.get("status"))
        response: Response = await self._json_rpc.handle_requests(request)
        return response

    async def _answered(self, name: str, arguments: dict[str, str], request: Request) -> Response:
        request.scope["path_params"] = arguments
        await _read(request)
        _check_state(request.query_params.get("status"))
        response: Response = await getattr(self._rest, name)(request)
        return response


async def _read(request: Request) -> Any:
    """The body, if it is JSON; what else it may be, the dispatcher tells as the protocol says it. Raises Problem."""
    try:
        return await request.json() if request.method == "POST" else None
    except RecursionError:
        raise Problem("invalid_json", "The body is nested too deeply.", field="(body)") from None
    except ValueError:
        return None


def _check_state(state: object) -> None:
    """The SDK passes over a state that it does not know, so that all tasks would be listed. Raises Problem."""
    if isinstance(state, str) and state and state not in _STATES:
        raise Problem("invalid_input", "Expected a state of tasks, such as TASK_STATE_WORKING.", field="status")


class _Caller(User):
    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def user_name(self) -> str:
        return self._actor.id


class _ContextBuilder(ServerCallContextBuilder):
    """The caller comes from the scope, where gateway authentication put it."""

    def build(self, request: Request) -> ServerCallContext:
        scope = request.scope
        headers = dict(request.headers)
        call = Call(scope["actor"], scope["a2a_agent"], scope["request_id"], propagate.extract(headers))
        state = {"headers": headers, _CALL: call, _BASE: scope["a2a_base"]}
        return ServerCallContext(user=_Caller(call.actor), state=state)


def _call(context: ServerCallContext) -> Call:
    call: Call = context.state[_CALL]
    return call


def _told(error: Exception) -> errors.A2AError:
    """What the caller is told of an error."""
    if isinstance(error, errors.A2AError):
        return error
    if isinstance(error, TaskError):
        return _ERRORS[error.fault](error.message)
    if isinstance(error, Problem):
        return _of_problem(error)
    logger.error("an A2A request failed", exc_info=error)
    return errors.InternalError("The service failed to handle the request.")


def _of_problem(problem: Problem) -> errors.A2AError:
    data = {"code": problem.code, "retryable": problem.kind.retryable}
    if problem.code == "thread_busy":
        message = "Another task of this context is being worked on; send this one when it has ended."
        return errors.UnsupportedOperationError(message, data)
    if problem.code == "not_found":  # a context of somebody else
        return errors.InvalidParamsError("message.contextId: there is no such context.", data)
    if problem.kind.acts_next is ActsNext.PERSON:
        return errors.UnsupportedOperationError(problem.detail, data)
    if problem.kind.acts_next is ActsNext.CALLER:
        return errors.InvalidParamsError(problem.detail, data)
    return errors.InternalError(problem.detail, data)


def _handled(operation: Operation) -> Operation:
    """An operation whose errors are all the protocol's; it checks the required fields first."""

    @functools.wraps(operation)
    async def wrapper(self: _Handler, params: Any, context: ServerCallContext) -> Any:
        try:
            return await operation(self, params, context)
        except Exception as error:
            raise _told(error) from error

    return cast("Operation", validate_request_params(wrapper))


async def _events(documents: AsyncIterator[Document]) -> AsyncGenerator[Any, None]:
    """`StreamResponse` documents as the SDK's events."""
    try:
        async with aclosing(documents) as opened:  # type: ignore[type-var]
            async for document in opened:
                response = ParseDict(document, types.StreamResponse())
                yield getattr(response, str(response.WhichOneof("payload")))
    except Exception as error:
        raise _told(error) from error


def _document(message: ProtoMessage) -> Document:
    document: Document = MessageToDict(message)
    return document


class _Handler(RequestHandler):
    """The SDK's operations, each a call of the service."""

    def __init__(self, service: TaskService, keys: SigningKeys) -> None:
        self._service = service
        self._keys = keys

    @_handled
    async def on_message_send(self, params: types.SendMessageRequest, context: ServerCallContext) -> Any:
        answer = await self._service.send(_call(context), _sending(params))
        response = ParseDict(answer, types.SendMessageResponse())
        return getattr(response, str(response.WhichOneof("payload")))

    @validate_request_params
    async def on_message_send_stream(
        self, params: types.SendMessageRequest, context: ServerCallContext
    ) -> AsyncGenerator[Any, None]:
        try:
            sending = _sending(params)
        except TaskError as error:
            raise _told(error) from error
        async for event in _events(self._service.send_streaming(_call(context), sending)):
            yield event

    @validate_request_params
    async def on_subscribe_to_task(
        self, params: types.SubscribeToTaskRequest, context: ServerCallContext
    ) -> AsyncGenerator[Any, None]:
        async for event in _events(self._service.subscribe(_call(context), params.id)):
            yield event

    @_handled
    async def on_get_task(self, params: types.GetTaskRequest, context: ServerCallContext) -> Any:
        found = await self._service.get(_call(context), params.id, _history_length(params))
        return ParseDict(found, types.Task())

    @_handled
    async def on_list_tasks(self, params: types.ListTasksRequest, context: ServerCallContext) -> Any:
        size = params.page_size if params.HasField("page_size") else _PAGE
        if not 1 <= size <= LARGEST_PAGE:
            raise TaskError(Fault.INVALID_PARAMS, f"pageSize: expected 1 to {LARGEST_PAGE}.")
        filters = Filters(
            context_id=params.context_id,
            state=_state(params.status),
            after=params.status_timestamp_after.ToDatetime(tzinfo=UTC)
            if params.HasField("status_timestamp_after")
            else None,
            page_size=size,
            token=params.page_token,
        )
        documents, total, token = await self._service.page(
            _call(context), filters, history_length=_history_length(params), artifacts=params.include_artifacts
        )
        answer = types.ListTasksResponse(next_page_token=token, page_size=size, total_size=total)
        for document in documents:
            answer.tasks.append(ParseDict(document, types.Task()))
        return answer

    @_handled
    async def on_cancel_task(self, params: types.CancelTaskRequest, context: ServerCallContext) -> Any:
        return ParseDict(await self._service.cancel(_call(context), params.id), types.Task())

    @_handled
    async def on_create_task_push_notification_config(
        self, params: types.TaskPushNotificationConfig, context: ServerCallContext
    ) -> Any:
        stored = await self._service.put_push_config(_call(context), params.task_id, _document(params))
        return ParseDict(stored, types.TaskPushNotificationConfig())

    @_handled
    async def on_get_task_push_notification_config(
        self, params: types.GetTaskPushNotificationConfigRequest, context: ServerCallContext
    ) -> Any:
        found = await self._service.push_config(_call(context), params.task_id, params.id)
        return ParseDict(found, types.TaskPushNotificationConfig())

    @_handled
    async def on_list_task_push_notification_configs(
        self, params: types.ListTaskPushNotificationConfigsRequest, context: ServerCallContext
    ) -> Any:
        found = await self._service.push_configs(_call(context), params.task_id)
        return ParseDict({"configs": found}, types.ListTaskPushNotificationConfigsResponse())

    @_handled
    async def on_delete_task_push_notification_config(
        self, params: types.DeleteTaskPushNotificationConfigRequest, context: ServerCallContext
    ) -> None:
        await self._service.remove_push_config(_call(context), params.task_id, params.id)

    @_handled
    async def on_get_extended_agent_card(
        self, params: types.GetExtendedAgentCardRequest, context: ServerCallContext
    ) -> Any:
        base = context.state[_BASE]
        card = card_of(_call(context).agent, base, extended=True)
        return ParseDict(signed_card(card, self._keys.active, base + KEY_SET_PATH), types.AgentCard())


def _sending(params: types.SendMessageRequest) -> Sending:
    given = params.configuration
    has_push = given.HasField("task_push_notification_config")
    return Sending(
        message=_document(params.message),
        return_immediately=given.return_immediately,
        history_length=_history_length(given),
        push_config=_document(given.task_push_notification_config) if has_push else None,
    )


def _history_length(params: Any) -> int | None:
    if not params.HasField("history_length"):
        return None
    length: int = params.history_length
    if length < 0:
        raise TaskError(Fault.INVALID_PARAMS, "historyLength: must not be negative.")
    return length


def _state(value: int) -> TaskState | None:
    name = types.TaskState.Name(value) if value else ""
    if not name:
        return None
    try:
        return TaskState(name.removeprefix("TASK_STATE_").lower())
    except ValueError:  # a state that no task of ours has
        raise TaskError(Fault.INVALID_PARAMS, f"status: tasks here are never {name}.") from None
