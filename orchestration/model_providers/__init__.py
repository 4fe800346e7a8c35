"""Providers of models beside the service's own, what models cost, and how a model's name says whose it is.

`rows` are the tables, `documents` how they are changed, `catalogue` what the run path sees of them.
"""
