"""MCP servers of others: asking them for their tools, pinning what was imported, and calling it.

`contract` says what a client of them is; `sdk_client` is the one, on the official SDK, which only `sdk_*` modules and `exchange` touch.
Importing the SDK takes over half a second, so `loading` does it when it is first needed, and nothing else imports those modules.
"""
