"""Gateway authentication: who calls, proven by the gateway's signature, before any room sees the request."""
