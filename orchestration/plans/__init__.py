"""Plans: several tool calls that the model hands in at once, which feed each other and run as far as possible side by side.

A plan comes as a call of the built-in tool `make_plan`. `reading` checks it as a whole before anything runs, `carrying_out` runs it,
`progress` is what the client sees of it in the shared state and what the model is told in the end.
"""
