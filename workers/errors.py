"""Every exception of ours, in one tree.

PostroomError
├── ConfigurationError          a setting is wrong; the start stops with its name, what was expected, what came
│   └── UnsafeRedisError        Redis would lose messages (no AOF, an evicting policy)
├── RefusedError                the request was understood and will not be done; nothing was stored
│   ├── InvalidEnvelopeError    what is on the wire is not an envelope
│   ├── ConflictError           the same id with another body
│   ├── OverloadedError         the tenant's bytes, or Redis' memory, are used up: try again later
│   ├── SuspendedError          the tenant is suspended
│   └── TooLateError            a cancel came after the turn had begun or ended
├── NotFoundError               no such tenant, message or agent, or not yours: the same answer
├── NotAcceptedError            Redis, or its replicas, did not confirm: publish again under the same id
├── GivenUpError                a service cannot be kept running; nothing is lost
├── NotSettledError             Redis refuses for good to write how a turn ended
├── RedisUnavailableError       Redis did not answer a question: ask again
├── DeadlineError               the answer did not come in time; the message goes on
└── LettaUnavailableError       the Letta server cannot be reached
"""


class PostroomError(Exception):
    """The root of the tree above."""


class ConfigurationError(PostroomError):
    """A setting is wrong."""


class UnsafeRedisError(ConfigurationError):
    """Redis would lose messages as it is set up."""


class RefusedError(PostroomError):
    """Understood, and will not be done."""

    def __init__(self, message: str, *, where: str | None = None) -> None:
        super().__init__(f"{where}: {message}" if where else message)
        self.where = where


class InvalidEnvelopeError(RefusedError):
    """Not an envelope: `where` names the field."""


class ConflictError(RefusedError):
    """The same id with another body."""


class OverloadedError(RefusedError):
    """No room now."""


class SuspendedError(RefusedError):
    """The tenant is suspended."""


class TooLateError(RefusedError):
    """The turn had begun or ended."""


class NotFoundError(PostroomError):
    """Unknown, or another tenant's: nobody learns which."""


class NotAcceptedError(PostroomError):
    """Redis did not confirm. Publishing again under the same id is safe."""


class GivenUpError(PostroomError):
    """A service died again and again before it was ready."""


class NotSettledError(PostroomError):
    """A key of another type, or an error in a script: trying again would end the same."""


class RedisUnavailableError(PostroomError):
    """Redis did not answer. Asking again is safe."""


class DeadlineError(PostroomError):
    """The answer did not come in time."""


class LettaUnavailableError(PostroomError):
    """The Letta server cannot be reached."""

    def __init__(self, message: str, *, answered: bool = False) -> None:
        super().__init__(message)
        self.answered = answered
        """Whether it did answer, with an error of its own: the question may be the reason."""
