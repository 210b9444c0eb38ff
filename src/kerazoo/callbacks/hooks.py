"""Methods of a model, and of what belongs to it, replaced by ones that call the same methods and look on."""

from typing import Any

import keras


class Hooks:
    """Replaced methods, and the way back. Replace all of them, then have `fit` trace its step anew."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self._hooked: list[tuple[Any, str]] = []

    def replace(self, thing: Any, name: str, replacement: Any) -> None:
        """Put `replacement` over the method `name` of `thing`."""
        object.__setattr__(thing, name, replacement)  # past Keras, which would track it
        self._hooked.append((thing, name))

    def trace(self) -> None:
        """Have `fit` trace its step with the replaced methods."""
        self.model.make_train_function(force=True)

    def remove(self) -> None:
        """Put the methods back; the next `fit` traces its step with them."""
        for thing, name in self._hooked:
            vars(thing).pop(name, None)
        if self._hooked:
            self.model.train_function = None
        self._hooked = []
