"""The error for an operation that cannot become a tool."""


class UnusableOperationError(Exception):
    """This operation cannot become a tool; the text is the reason, for the person who imports."""
