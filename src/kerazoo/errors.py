"""The errors that kerazoo raises on purpose. Each message names the object, what is allowed and what to do next."""


class KerazooError(Exception):
    """A failure, and the base of all errors of kerazoo. The command line exits with code 1."""

    exit_code = 1


class InputError(KerazooError, ValueError):
    """Bad input: a name, a value or a file that must be changed. The command line exits with code 2."""

    exit_code = 2


class ModelError(InputError):
    """An unknown model name, an argument that a builder does not have, or a value that it does not allow."""


class WeightsError(InputError):
    """A weights file that is missing, damaged, or made for another architecture."""


class DataError(InputError):
    """A data set that cannot be used for training."""


class RecipeError(InputError):
    """A recipe key or value that is unknown or out of range."""


class RunError(InputError):
    """A run or export folder that is missing or unfinished, or whose name is already used."""


class GateError(KerazooError):
    """An export that does not give the same answers as the evaluated model; `kerazoo export` does not keep it."""


class Interrupted(KeyboardInterrupt):
    """A signal stopped training, and its state is saved. The exit code is 128 plus the signal's number.

    It is a KeyboardInterrupt, so that `except Exception` around a call does not swallow Ctrl-C.

    Example:
    ```python
    try:
        kerazoo.train("mlp", "photos", name="first")
    except kerazoo.Interrupted as stop:
        print(stop)  # where the state is; the same call goes on from there
    ```
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` is an out-of-memory error of Python, TensorFlow or JAX. It imports none of them."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "ResourceExhaustedError"
        or str(error).startswith("RESOURCE_EXHAUSTED")
    )
