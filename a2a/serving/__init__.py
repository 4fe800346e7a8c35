"""Our agents as A2A servers: tasks that callers give us, carried out as runs.

Nothing is kept in memory between requests: a task is a row and its run, so any process can answer for it. The official SDK speaks
the protocol (`a2a.sdk_server`, `a2a.sdk_cards`); everything else works on documents of the specification.
"""
