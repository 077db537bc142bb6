"""What can go wrong, in words a user can act on."""


class KnitError(Exception):
    """Base of every error that is the input's, the recipe's or the machine's fault.

    Its text says what is wrong, in which file or layer, and what to do.
    """


class InputError(KnitError, ValueError):
    """The image, the mask or the axes do not fit the task."""


class RecipeError(KnitError, ValueError):
    """A setting is unknown, of the wrong type or out of bounds."""


class FileError(KnitError, OSError):
    """A file cannot be read or written."""


class DeviceError(KnitError, RuntimeError):
    """The device asked for is absent, or its memory is too small."""


class FitError(KnitError, ArithmeticError):
    """The fit did not stay finite."""


def memory_ran_out(error: BaseException) -> bool:
    """Whether an error says that memory did not do: of this machine, or of its GPU.

    Parameters
    ----------
    error : BaseException

    Returns
    -------
    bool
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True  # torch's, which may not be loaded
    # torch on the CPU says it by a plain RuntimeError; the second is Windows
    said = ("can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in said)


class Cancelled(Exception):  # noqa: N818 - not an error, and not a KnitError: a batch must not swallow it
    """The cancel token was set."""
