"""What the guarded client raises beside the HTTP library's own errors. No text names a resolved address."""


class OutboundError(Exception):
    """The guard ended a request. Deliberately no kind of HTTP error: nobody should try it again."""


class OutboundRefusedError(OutboundError):
    """The target, a redirect or the form of the answer is not allowed."""


class OutboundTooLargeError(OutboundError):
    """The answer, decompressed, is longer than the client reads."""


class OutboundTimeoutError(OutboundError):
    """The request as a whole took longer than it may."""


class OutboundPolicyError(ValueError):
    """A setting of the policy cannot be read; the text begins with the setting's name."""
