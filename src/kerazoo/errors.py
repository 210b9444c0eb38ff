"""The errors that kerazoo raises on purpose. Each message names the thing, says what is allowed and what to do next."""


class KerazooError(Exception):
    """A failure, whoever caused it; the command line leaves with exit code 1. All errors of kerazoo are ones."""

    exit_code = 1


class InputError(KerazooError, ValueError):
    """Bad input: a name, a value or a file that must be changed. The command line leaves with exit code 2."""

    exit_code = 2


class ModelError(InputError):
    """An unknown model name, an argument that a builder does not take, or a value it does not allow."""


class WeightsError(InputError):
    """A weights file that is missing, damaged, or made for another architecture."""


class DataError(InputError):
    """A data set that cannot be trained on as it is."""


class RecipeError(InputError):
    """A recipe key or value that is unknown or out of range."""


class RunError(InputError):
    """A run or export folder that is missing, unfinished, or in the way."""


class GateError(KerazooError):
    """An export that does not answer as the evaluated model did; `kerazoo export` does not keep it."""


class Interrupted(KerazooError):
    """Training was asked to stop and has saved its state; the exit code is 128 + the signal's number."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, in the words of Python, TensorFlow or JAX; imports none of them."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "ResourceExhaustedError"
        or str(error).startswith("RESOURCE_EXHAUSTED")
    )
