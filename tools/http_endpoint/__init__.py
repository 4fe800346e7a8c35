"""Tools that are an HTTP endpoint of somebody else's: settings, the request that a call becomes, the answer that it gets.

`settings` reads and checks what an administrator wrote, `request` builds, `sending` sends through the guarded client, `answer` reads, and
`failures` says to the model what went wrong. `tools.handlers.http_endpoint` joins them.
"""
