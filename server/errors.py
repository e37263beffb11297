"""Errors of the server: what a client, an option or a settings file can get wrong."""

from __future__ import annotations

from collections.abc import Mapping

from ultraflash.models.errors import UltraflashError


class ProtocolError(UltraflashError):
    """A message on the stream that the protocol does not allow.

    Attributes:
        event_id: the ``event_id`` of the offending event, where it carried one.
    """

    code = "protocol_error"

    def __init__(self, message: str, *, param: str | None = None, event_id: str | None = None) -> None:
        super().__init__(message, param=param)
        self.event_id = event_id


class BadJson(ProtocolError):
    """A text frame that is not one JSON object."""

    code = "bad_json"


class BadMedia(ProtocolError):
    """A binary frame that this session did not announce, or cannot read."""

    code = "bad_media"


class UnknownEvent(ProtocolError):
    """An event type that does not exist."""

    code = "unknown_event"


class UnknownField(ProtocolError):
    """A field that the event does not have."""

    code = "unknown_field"


class MissingField(ProtocolError):
    """A field that the event must carry."""

    code = "missing_field"


class InvalidField(ProtocolError):
    """A field whose value is of the wrong type or out of range."""

    code = "invalid_field"


class UnexpectedEvent(ProtocolError):
    """An event that is known but makes no sense now, such as a second ``session.start``."""

    code = "unexpected_event"


class UnknownSession(ProtocolError):
    """A session that has ended or never was."""

    code = "unknown_session"


class BadToken(ProtocolError):
    """A token that is wrong, has expired, or was given out for something else."""

    code = "bad_token"


class NotTheOwner(ProtocolError):
    """A viewer that wants to steer."""

    code = "not_the_owner"


class OwnerPresent(ProtocolError):
    """A second owner for a session whose first one is connected."""

    code = "owner_present"
    retryable = True


class RecordingFailed(ProtocolError):
    """A recording that cannot be begun."""

    code = "recording_failed"


class RecordingNotReady(UltraflashError):
    """A recording that is still being written."""

    code = "recording_not_ready"
    retryable = True


class Unsupported(ProtocolError):
    """A choice that the protocol knows and this server cannot serve; the message says what it can."""

    code = "unsupported"


class AckOutOfRange(ProtocolError):
    """An acknowledgement of a frame that has not been sent."""

    code = "ack_out_of_range"


class TooManyPending(ProtocolError):
    """More changes than can wait for one group."""

    code = "too_many_pending"
    retryable = True


class TooManyErrors(ProtocolError):
    """A connection that sends one bad message after the other."""

    code = "too_many_errors"


class StartTimeout(ProtocolError):
    """A connection that never started a session."""

    code = "start_timeout"


class Busy(UltraflashError):
    """No room for another live stream at the moment."""

    code = "busy"
    retryable = True


class NotReady(UltraflashError):
    """The worker is loading, warming up or restarting."""

    code = "not_ready"
    retryable = True


class EngineRestarting(UltraflashError):
    """The worker died in the middle of a stream and is being replaced."""

    code = "engine_restarting"
    retryable = True


class EngineFault(UltraflashError):
    """The engine could not make the next group of this stream."""

    code = "engine_fault"


class ConnectionLost(UltraflashError):
    """A server that a client cannot reach, or not any more."""

    code = "connection_lost"
    retryable = True


class Refused(UltraflashError):
    """What a server has said against a client's request; ``code`` is the server's."""

    code = "refused"

    def __init__(self, message: str, *, code: str, retryable: bool) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable


class BadOption(UltraflashError):
    """A command-line option whose value cannot be used."""

    code = "bad_option"


class UnsafeBinding(UltraflashError):
    """Listening beyond this machine without a way to tell who is asking."""

    code = "unsafe_binding"


_HTTP_STATUS: Mapping[type[UltraflashError], int] = {
    UnknownSession: 404,
    BadToken: 403,
    RecordingNotReady: 409,
}


def http_status(error: UltraflashError) -> int:
    """Status of a response that reports an error."""
    return _HTTP_STATUS.get(type(error), 503 if error.retryable else 400)
