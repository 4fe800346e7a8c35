"""Addresses of the AG-UI endpoint."""

from __future__ import annotations

from channels.routing import URLRouter
from django.urls import re_path

from orchestration.approval_consumers import ApprovalConsumer, ApprovalsConsumer
from orchestration.consumers import CancelConsumer, EventsConsumer, NoSuchAddressConsumer, RunEventsConsumer
from orchestration.engine import Engine
from orchestration.thread_consumers import (
    AgentConnectConsumer,
    AgentRunConsumer,
    AgentStopConsumer,
    InfoConsumer,
    ThreadArchiveConsumer,
    ThreadConsumer,
    ThreadPartConsumer,
    ThreadsConsumer,
)

# Ids are any visible ASCII characters, "/" among them: a pattern ends with what follows the id.
_RUN = r"runs/(?P<run_id>[\x21-\x7e]{1,128})"
_THREAD = r"(?P<thread_id>[\x21-\x7e]{1,128})"
_APPROVAL = r"approvals/(?P<approval_id>[0-9a-fA-F-]{1,64})"
_AGENT = r"agent/(?P<agent>[-a-zA-Z0-9_]{1,64})"


def agui_router(engine: Engine) -> URLRouter:
    """The consumers under `/ag-ui/`; they expect gateway authentication around them."""
    run = rf"^ag-ui/{_RUN}"
    return URLRouter(
        [
            re_path(r"^ag-ui/events$", EventsConsumer.as_asgi(engine=engine)),
            re_path(rf"{run}/events$", RunEventsConsumer.as_asgi(engine=engine)),
            re_path(rf"{run}/cancel$", CancelConsumer.as_asgi(engine=engine)),
            re_path(r"^ag-ui/approvals$", ApprovalsConsumer.as_asgi(engine=engine)),
            re_path(rf"^ag-ui/{_APPROVAL}$", ApprovalConsumer.as_asgi(engine=engine)),
            re_path(r"^ag-ui/info$", InfoConsumer.as_asgi(engine=engine)),
            re_path(rf"^ag-ui/{_AGENT}/run$", AgentRunConsumer.as_asgi(engine=engine)),
            re_path(rf"^ag-ui/{_AGENT}/connect$", AgentConnectConsumer.as_asgi(engine=engine)),
            re_path(rf"^ag-ui/{_AGENT}/stop/{_THREAD}$", AgentStopConsumer.as_asgi(engine=engine)),
            re_path(r"^ag-ui/threads$", ThreadsConsumer.as_asgi(engine=engine)),
            re_path(rf"^ag-ui/threads/{_THREAD}/archive$", ThreadArchiveConsumer.as_asgi(engine=engine)),
            re_path(
                rf"^ag-ui/threads/{_THREAD}/(?P<part>messages|events|state)$", ThreadPartConsumer.as_asgi(engine=engine)
            ),
            re_path(rf"^ag-ui/threads/{_THREAD}$", ThreadConsumer.as_asgi(engine=engine)),
            re_path(r"", NoSuchAddressConsumer.as_asgi(engine=engine)),
        ]
    )


class PostedEventsConsumer(EventsConsumer):
    """No run begins by GET here: a link elsewhere would be enough to make a browser send its session with it."""

    methods = ("POST",)


def playground_router(engine: Engine) -> URLRouter:
    """What the playground asks with a console session instead of gateway headers."""
    return URLRouter(
        [
            re_path(r"^playground/events$", PostedEventsConsumer.as_asgi(engine=engine)),
            re_path(rf"^playground/{_RUN}/events$", RunEventsConsumer.as_asgi(engine=engine)),
            re_path(rf"^playground/{_RUN}/cancel$", CancelConsumer.as_asgi(engine=engine)),
            re_path(rf"^playground/{_AGENT}/run$", AgentRunConsumer.as_asgi(engine=engine)),
            re_path(rf"^playground/{_AGENT}/connect$", AgentConnectConsumer.as_asgi(engine=engine)),
            re_path(rf"^playground/{_APPROVAL}$", ApprovalConsumer.as_asgi(engine=engine)),
            re_path(r"^playground/threads$", ThreadsConsumer.as_asgi(engine=engine)),
            re_path(r"", NoSuchAddressConsumer.as_asgi(engine=engine)),
        ]
    )
