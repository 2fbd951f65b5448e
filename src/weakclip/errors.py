"""The package's own errors: everything that a user can correct.

The command line shows any `WeakCLIPError` as one line and exits with code 2. Each message names the file, what was
found, what was expected, and what to do. `assert` is kept for mistakes of the programmer.
"""


class WeakCLIPError(Exception):
    """Base of every error that the user can correct."""


class ConfigError(WeakCLIPError):
    """A configuration that cannot be read: unknown key, wrong type, value out of range."""


class DataError(WeakCLIPError):
    """An image, mask, label file or data set that is not what it should be."""


class BrokenFileError(DataError):
    """One file of a data set that cannot be used: an image, its mask, its annotation or its activation maps."""


class RemoteError(WeakCLIPError):
    """A store of files that cannot be reached, or that refuses; the data themselves may be whole."""


class WeightsError(WeakCLIPError):
    """Missing, foreign or unreadable weights."""


class EncoderError(WeakCLIPError):
    """An encoder of the user's own that lacks what is needed, or gives something else than it says."""


class RunError(WeakCLIPError):
    """A run folder that is not ours, or a stage whose inputs are missing."""


class StorageError(WeakCLIPError, OSError):
    """A file that cannot be written: the disk is full or read-only, or there is no permission.

    It is an `OSError` too, with the `errno` and `strerror` of its cause.
    """

    def __init__(self, message: str, cause: OSError | None = None) -> None:
        super().__init__(message)
        if cause is not None:
            self.errno, self.strerror = cause.errno, cause.strerror

    def __str__(self) -> str:
        return str(self.args[0])


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the name of its class where there is no message.

    >>> first_line(ValueError("torn\\nfile")), first_line(MemoryError())
    ('torn', 'MemoryError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]
