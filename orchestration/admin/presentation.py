"""How runs, messages and events look in the console: small pieces of HTML, each bounded in size."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import orjson
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from orchestration.models import Interrupt, Run, Step

LONGEST_TEXT = 20_000  # characters of one value that a page shows

STATUS_COLOURS = {
    "open": "warning",
    "resolved": "success",
    "queued": "info",
    "running": "info",
    "started": "info",
    "interrupted": "warning",
    "finished": "success",
    "failed": "danger",
    "cancelled": "default",
}


def status_badge(row: Run | Step | Interrupt) -> SafeString:
    """The status of a run or step as a coloured label."""
    context = {"text": row.status, "type": STATUS_COLOURS.get(row.status, "default")}
    return SafeString(render_to_string("unfold/helpers/label.html", context))


def identifier(value: str) -> SafeString:
    """An identifier that takes one line in a table, however long it is."""
    return format_html('<span class="console-id" title="{0}">{0}</span>', value)


def moment(at: datetime | None) -> str:
    """A moment in UTC, to the second; empty when there is none."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if at else ""


def duration(row: Any) -> str:
    """From `started_at` to `finished_at`; empty while it is going on."""
    if row.started_at is None or row.finished_at is None:
        return ""
    seconds = (row.finished_at - row.started_at).total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60)} s"


def short(text: str, characters: int = 80) -> str:
    """The text's beginning, on one line."""
    return Truncator(" ".join(text[: characters * 8].split())).chars(characters)


def bounded(text: str) -> str:
    """The text, cut where a page has to end; says how much is missing."""
    if len(text) <= LONGEST_TEXT:
        return text
    return f"{text[:LONGEST_TEXT]}\n… {len(text) - LONGEST_TEXT:,} more characters"


def json_block(value: Any) -> SafeString:
    """A JSON value, indented."""
    if value in (None, {}, []):
        return SafeString("")
    return code_block(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def code_block(text: str) -> SafeString:
    """A text as it is."""
    return format_html('<pre class="console-code">{}</pre>', bounded(text))


def unfolding(title: str, content: SafeString) -> SafeString:
    """Content behind a line that unfolds."""
    return format_html('<details class="console-fold"><summary>{}</summary>{}</details>', title, content)


def link(url_name: str, key: Any, text: str | SafeString) -> SafeString:
    """A link to a page of the console."""
    return format_html('<a class="console-link" href="{}">{}</a>', reverse(url_name, args=[key]), text)


def audit_link(search: str, text: str | SafeString) -> SafeString:
    """A link to a search of the audit trail."""
    address = f"{reverse('admin:audit_auditevent_changelist')}?{urlencode({'q': search})}"
    return format_html('<a class="console-link" href="{}">{}</a>', address, text)


def conversation(messages: Iterable[dict[str, Any]]) -> SafeString:
    """AG-UI messages, one below the other."""
    rows = ((message.get("role", ""), _message_content(message)) for message in messages)
    return format_html_join("", '<div class="console-message" data-role="{0}"><b>{0}</b>{1}</div>', rows)


def _message_content(message: dict[str, Any]) -> SafeString:
    parts = []
    content = message.get("content")
    if isinstance(content, str) and content and message.get("role") == "tool":
        parts.append(code_block(_indented(content)))
    elif isinstance(content, str) and content:
        parts.append(format_html('<p class="console-text">{}</p>', bounded(content)))
    elif content:
        parts.append(json_block(content))
    for call in message.get("toolCalls", ()):
        function = call.get("function", {})
        arguments = code_block(_indented(function.get("arguments", "")))
        parts.append(unfolding(f"calls {function.get('name', '?')}", arguments))
    return format_html_join("", "{}", ((part,) for part in parts))


def _indented(text: str) -> str:
    try:
        return orjson.dumps(orjson.loads(text), option=orjson.OPT_INDENT_2).decode()
    except orjson.JSONDecodeError:
        return text


def event_log(lines: Iterable[tuple[int, bytes]]) -> SafeString:
    """Stored events with their numbers; each unfolds to its JSON."""
    rows = ((number, *_event_parts(line)) for number, line in lines)
    return format_html_join(
        "",
        '<details class="console-event"><summary><span>{}</span><b>{}</b><i>{}</i></summary>'
        '<pre class="console-code">{}</pre></details>',
        rows,
    )


def _event_parts(line: bytes) -> tuple[str, str, str]:
    """Type, preview and indented JSON of a stored event."""
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        return "unreadable", "", repr(line[:LONGEST_TEXT])
    preview = next((event[name] for name in ("delta", "toolCallName", "stepName", "message") if name in event), "")
    indented = bounded(orjson.dumps(event, option=orjson.OPT_INDENT_2).decode())
    return str(event.get("type", "?")), short(str(preview)), indented
