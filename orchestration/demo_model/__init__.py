"""The scripted demo model: it speaks the wire format of chat completions, so that the whole real path runs without a provider."""
