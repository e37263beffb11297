"""Errors that a user can cause.

Each carries a machine-readable ``code`` that the command line, the REST API and the WebSocket show unchanged,
and a message that says what would have been accepted.
"""

from __future__ import annotations


class UltraflashError(Exception):
    """Base of every error a user can cause.

    Attributes:
        code: stable, machine-readable name of the error class.
        message: what went wrong and what to do next.
        param: name of the offending field or option, if there is one.
        retryable: whether the same call may succeed later.
    """

    code = "error"
    retryable = False

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class BadConfig(UltraflashError):
    """A configuration or preset file that cannot mean anything."""

    code = "bad_config"


class UnknownPreset(UltraflashError):
    """No preset of that name, and no file at that path."""

    code = "unknown_preset"


class UnknownSize(UltraflashError):
    """A picture size that the preset cannot make."""

    code = "unknown_size"


class EmptyPrompt(UltraflashError):
    """A prompt without a visible character."""

    code = "empty_prompt"


class PromptTooLong(UltraflashError):
    """A prompt longer than the preset accepts."""

    code = "prompt_too_long"


class InvalidSeed(UltraflashError):
    """A seed outside 0 .. 2**63 - 1."""

    code = "invalid_seed"


class MissingWeights(UltraflashError):
    """A weights file, or a tensor in it, that is absent or has another shape."""

    code = "missing_weights"


class BadTransition(UltraflashError):
    """A change of prompt that cannot be made as asked."""

    code = "bad_transition"


class BadSnapshot(UltraflashError):
    """A snapshot of a stream that is cut short, of another version, or no snapshot at all."""

    code = "bad_snapshot"


class ForeignSnapshot(UltraflashError):
    """A snapshot of a stream of another preset, other weights or another number type."""

    code = "foreign_snapshot"


class StreamOffloaded(UltraflashError):
    """A stream that rests in host memory was asked for frames."""

    code = "stream_offloaded"


class NotEnoughMemory(UltraflashError):
    """A preset, or a stream of it, that the device has no room for.

    Attributes:
        needed_bytes, free_bytes: what it takes, and what there is.
    """

    code = "not_enough_memory"
    retryable = True

    def __init__(self, message: str, *, needed_bytes: int, free_bytes: int) -> None:
        super().__init__(message, param="preset")
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes


class MissingExtra(UltraflashError):
    """An optional package that the preset wants and that is not installed."""

    code = "missing_extra"


class UnsupportedPrecision(UltraflashError):
    """A number type that the device, or the rest of the cascade, does not go with."""

    code = "unsupported_precision"


class CompilationFailed(UltraflashError):
    """Networks that were to be compiled and could not be."""

    code = "compilation_failed"


class HubUnreachable(UltraflashError):
    """Files that could not be fetched from the Hugging Face hub."""

    code = "hub_unreachable"
    retryable = True
