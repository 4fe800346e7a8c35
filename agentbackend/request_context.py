"""django-structlog's middleware, made to agree with the rest of the service on the request's id and on what may be in a log."""

from __future__ import annotations

import structlog
from django.http import HttpRequest, HttpResponse
from django_structlog.middlewares import RequestMiddleware

from audit.console_actor import request_id


class RequestContextMiddleware(RequestMiddleware):  # type: ignore[misc]
    """Binds `request_id` and `user_id` to what is logged while Django handles a request."""

    def prepare(self, request: HttpRequest) -> None:
        """Before the view: the id is the one that the whole service uses, not one of the package's making."""
        super().prepare(request)
        _bind(request)

    def handle_response(self, request: HttpRequest, response: HttpResponse) -> None:
        """After the view. The package forgets everything here, but Django logs refusals after the last middleware."""
        super().handle_response(request, response)
        _bind(request)
        found = request_id(request)
        if found:
            response.headers.setdefault("X-Request-ID", found)

    @staticmethod
    def format_request(request: HttpRequest) -> str:
        """Without the query string: a user's message may stand there."""
        return f"{request.method} {request.path}"


def _bind(request: HttpRequest) -> None:
    found = request_id(request)
    if found:
        structlog.contextvars.bind_contextvars(request_id=found)
