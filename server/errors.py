"""Errors of the server: what a client, an option or a settings file can get wrong."""

from __future__ import annotations

from ultraflash.models.errors import UltraflashError


class ServerError(UltraflashError):
    """What can go wrong in a server.

    Attributes:
        status: of a REST response that reports it; None is 503 where trying again may help, else 400.
    """

    status: int | None = None


class ProtocolError(ServerError):
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
    status = 404


class BadToken(ProtocolError):
    """A token that is wrong, has expired, or was given out for something else."""

    code = "bad_token"
    status = 403


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


class RecordingNotReady(ServerError):
    """A recording that is still being written."""

    code = "recording_not_ready"
    status = 409
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


class Busy(ServerError):
    """No room for another live stream at the moment.

    Attributes:
        retry_after_s: when there may be, where that can be said.
    """

    code = "busy"
    retryable = True

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message, param=param)
        self.retry_after_s = retry_after_s


class NotReady(UltraflashError):
    """The worker is loading, warming up or restarting.

    Attributes:
        retry_after_s: when it may be ready, where that can be said.
    """

    code = "not_ready"
    retryable = True

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message, param=param)
        self.retry_after_s = retry_after_s


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


class Unauthorized(ProtocolError):
    """A request without an API key, or with one that does not exist, has expired or was revoked."""

    code = "unauthorized"
    status = 401


class LimitReached(Busy):
    """A key that uses all it may at the moment; the message says the limit."""

    code = "limit_reached"
    status = 429


class OverLimit(ProtocolError):
    """A wish that is beyond what its key may ever have; the message says the limit."""

    code = "over_limit"


class UnknownKey(UltraflashError):
    """A key that is not there, or not active any more."""

    code = "unknown_key"


class KeyNameTaken(UltraflashError):
    """A name that an active key has already."""

    code = "key_name_taken"


class RestError(ServerError):
    """What a REST request can get wrong.

    Attributes:
        headers: of the response.
    """

    status = 400

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: int | None = None) -> None:
        """``retry_after_s`` says when the same request may succeed, where that can be said."""
        super().__init__(message, param=param)
        self.headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}


class BadBody(RestError):
    """A body that is neither JSON nor a form, or a field in it that cannot be used."""

    code = "invalid_request"


class UnsupportedField(RestError):
    """A wish that the convention knows and this engine cannot fulfil; the message says what it can."""

    code = "unsupported"


class BodyTooLarge(RestError):
    """A body above the limit."""

    code = "body_too_large"
    status = 413


class PromptRefused(RestError):
    """A prompt that the engine does not take; code and message are the engine's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message, param="prompt")
        self.code = code


class ReferenceRefused(RestError):
    """An upload that no video can start from; code and message are the worker's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message, param="input_reference")
        self.code = code
        self.status = 413 if code == "reference_too_large" else 400


class UnknownVideo(RestError):
    """A job that was deleted, that has been forgotten, or that never was."""

    code = "video_not_found"
    status = 404


class VideoNotReady(RestError):
    """A file of a job that has not finished, or an extension of it."""

    code = "video_not_ready"
    status = 409


class VideoGone(RestError):
    """A file that has expired or had to make room."""

    code = "video_expired"
    status = 410


class NotCancellable(RestError):
    """A job that is over."""

    code = "not_cancellable"
    status = 409


class IdempotencyConflict(RestError):
    """An Idempotency-Key that came with another request before."""

    code = "idempotency_key_reused"
    status = 409


class RangeNotSatisfiable(RestError):
    """A byte range that lies outside of the file of ``size`` bytes."""

    code = "range_not_satisfiable"
    status = 416

    def __init__(self, message: str, *, size: int) -> None:
        super().__init__(message, param="Range")
        self.headers["Content-Range"] = f"bytes */{size}"


class QueueFull(RestError):
    """More jobs than may wait."""

    code = "queue_full"
    status = 429
    retryable = True


class KeyLimitReached(RestError):
    """A key that has as much in the queue as it may; the message says the limit."""

    code = "limit_reached"
    status = 429
    retryable = True


class StorageFull(RestError):
    """Jobs in the queue have been promised all the room for videos."""

    code = "storage_full"
    status = 429
    retryable = True


class VideoTooLarge(RestError):
    """A video that would not fit the whole room for videos."""

    code = "video_too_large"
    status = 413


class JobFault(UltraflashError):
    """A job that the worker gave up."""

    code = "engine_fault"


class DataUnusable(UltraflashError):
    """A database, or a place for videos, that cannot be opened."""

    code = "data_unusable"


def http_status(error: UltraflashError) -> int:
    """Status of a response that reports an error."""
    if isinstance(error, ServerError) and error.status is not None:
        return error.status
    return 503 if error.retryable else 400
