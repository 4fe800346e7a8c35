"""Guardrails: what text is held against (`policy`), how whole texts (`screen`) and streamed ones (`gate`) are checked. No database here."""
