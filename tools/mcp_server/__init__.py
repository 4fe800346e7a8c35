"""The registry as an MCP server: `/mcp` lists and calls tools for any MCP client, by the caller's role.

Stateless: each POST is served by itself, nothing is kept between requests, so any process can take any of them. `application`
stands on the raw ASGI scope behind gateway authentication, `exchange` answers one request through the registry and the door, and the
official SDK speaks the protocol between them. `open_requests` is all that the rest of the service needs to know; it does not import
the SDK, which takes a second.
"""
