"""Addresses of the AG-UI endpoint."""

from __future__ import annotations

from channels.routing import URLRouter
from django.urls import re_path

from orchestration.consumers import CancelConsumer, EventsConsumer, NoSuchAddressConsumer, RunEventsConsumer
from orchestration.engine import Engine

_RUN = r"runs/(?P<run_id>[\x21-\x2e\x30-\x7e]{1,128})"


def agui_router(engine: Engine) -> URLRouter:
    """The consumers under `/ag-ui/`; they expect gateway authentication around them."""
    run = rf"^ag-ui/{_RUN}"
    return URLRouter(
        [
            re_path(r"^ag-ui/events$", EventsConsumer.as_asgi(engine=engine)),
            re_path(rf"{run}/events$", RunEventsConsumer.as_asgi(engine=engine)),
            re_path(rf"{run}/cancel$", CancelConsumer.as_asgi(engine=engine)),
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
            re_path(r"", NoSuchAddressConsumer.as_asgi(engine=engine)),
        ]
    )
