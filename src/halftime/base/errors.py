"""What can go wrong, in one tree.

HalftimeError                    every error that halftime raises on purpose
├── BadInput                     a value that the user gave; the message says what is allowed
│   ├── UnknownModel             no such folder, hub id or module:function
│   ├── BadWorkload              steps, size, scheduler … that this pipeline cannot run
│   ├── BadFile                  not a file of ours, a broken one, or one of a newer schema
│   └── UnknownDevice            a device that this machine or this torch does not have
├── DoesNotApply                 a fix was asked for where it cannot work; says why
├── Unrepeatable                 a pipeline draws other pictures from the same prompts and seeds
├── Unlike                       two records that must not be compared; names the field that differs
├── MissingExtra                 an optional package is not installed; names the extra
├── UnsupportedVersion           a library's version, or its build for this system, lacks something
├── OutOfMemory                  the device or the host ran out of memory in the middle of a call
├── NotWritten                   a result was measured and shown, and a file of it was not written
└── ReaderLeft                   standard output is a pipe, and its reader has closed it
"""

from __future__ import annotations


class HalftimeError(Exception):
    """Base class. `str(error)` is one or two sentences that a user can act on.

    `exit_code` is the exit code of the command line: 2 for everything a user can mend.
    """

    exit_code = 2


class BadInput(HalftimeError):
    """A value that the user gave is not allowed."""


class UnknownModel(BadInput):
    """Not the bundled model, a diffusers folder, a cached hub id or `module:function`."""


class BadWorkload(BadInput):
    """The workload asks for something that this pipeline cannot run."""


class BadFile(BadInput):
    """A file is missing, broken, of another kind, or of a newer schema."""


class UnknownDevice(BadInput):
    """The device does not exist here."""


class DoesNotApply(HalftimeError):
    """A fix cannot work on this pipeline, device or scheduler."""


class Unrepeatable(HalftimeError):
    """A pipeline draws other pictures from the same prompts and seeds: nothing can be verified."""


class Unlike(HalftimeError):
    """Two records differ in a field that makes a comparison meaningless."""


class MissingExtra(HalftimeError):
    """An optional package is needed; the message says how to install it (`base.extras`)."""

    def __init__(self, package: str, purpose: str, install: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}. Install it with: {install}")


class UnsupportedVersion(HalftimeError):
    """One feature needs more than this version of a library has, or than its build for this
    system; the message says what still works."""


class OutOfMemory(HalftimeError):
    """The device or the host ran out of memory."""


class NotWritten(HalftimeError):
    """A result is there, and a file that was asked for could not be written."""


class ReaderLeft(HalftimeError):
    """The reader of standard output closed it early, as `head` does."""

    exit_code = 141  # as of a process that SIGPIPE ends: 128 + 13


def first_line(error: BaseException) -> str:
    """The first line of an error's text; its class name where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class HalftimeWarning(UserWarning):
    """What a user should know and need not mend; the command line prints it to standard error."""
