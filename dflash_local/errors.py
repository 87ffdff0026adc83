"""What can go wrong: every error of this package is a ``DFlashError``."""

from __future__ import annotations


class DFlashError(Exception):
    """Base of every error raised by dflash-local."""


class ModelError(DFlashError, ValueError):
    """A model file that is wrong, or a verifier and a drafter that do not fit together."""


class ContextError(DFlashError, ValueError):
    """No room: the tokens asked for exceed the context or the batch."""


class PromptError(DFlashError, ValueError):
    """A prompt that cannot be made: the chat template refuses it, or cannot write all of it."""


class BackendError(DFlashError, RuntimeError):
    """A call into libllama failed."""


class AllocationError(BackendError):
    """There is not the memory for what libllama was asked to load."""


class Cancelled(DFlashError):  # noqa: N818 - the name users of other libraries know
    """The work was cancelled between two steps; the session is consistent."""
