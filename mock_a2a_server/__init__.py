"""A small A2A agent to try delegations with: a program of its own, on the official SDK, that needs nothing of this service.

`python -m mock_a2a_server` serves it; README.md says what it can be asked.
"""
