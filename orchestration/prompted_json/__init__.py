"""Prompted JSON mode: for models without tool calling.

The prompt describes the tools (`orchestration.prompting`), the model answers with JSON objects, and this package makes model events of
them, so that a run does not know the difference. `messages` is the way in, `reading` takes streamed text apart, `meaning` says what an
object asks for, `port` joins them to a ModelPort. docs/prompting.md describes the form.
"""
