"""What a call gave, as a value for the model: structured content, else text; what is neither is named with its type and size."""

from __future__ import annotations

from collections.abc import Sequence

from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    TextContent,
    TextResourceContents,
)

from tools.mcp_client.contract import RemoteAnswer

_MAX_LABEL = 200


def answer_of(result: CallToolResult) -> RemoteAnswer:
    """The structured content where there is some, else all parts as text; of a failed call the text."""
    if result.is_error:
        return RemoteAnswer(_text_of(result.content) or "It gave no reason.", failed=True)
    if result.structured_content is not None:
        return RemoteAnswer(result.structured_content)
    return RemoteAnswer(_text_of(result.content))


def _text_of(parts: Sequence[ContentBlock]) -> str:
    return "\n".join(_part(part) for part in parts)


def _part(part: ContentBlock) -> str:
    if isinstance(part, TextContent):
        return part.text
    if isinstance(part, ImageContent):
        return _left_out("An image", part.mime_type, part.data)
    if isinstance(part, AudioContent):
        return _left_out("A sound", part.mime_type, part.data)
    if isinstance(part, EmbeddedResource):
        return _resource(part.resource)
    return f"[A link to a resource: {_label(part.name)}, {_label(part.uri)}.]"


def _resource(resource: TextResourceContents | BlobResourceContents) -> str:
    if isinstance(resource, TextResourceContents):
        return resource.text
    return _left_out(f"The resource {_label(resource.uri)}", resource.mime_type or "", resource.blob)


def _left_out(what: str, mime_type: str, base64_text: str) -> str:
    size = len(base64_text) * 3 // 4
    return f"[{what} ({_label(mime_type) or 'of no type'}, about {size} bytes) was left out: only text is passed on.]"


def _label(text: str) -> str:
    return text if len(text) <= _MAX_LABEL else text[:_MAX_LABEL] + "..."
