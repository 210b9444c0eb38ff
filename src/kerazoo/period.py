"""How often a logger writes: every so many steps, or every so many epochs."""

import re
from dataclasses import dataclass

from kerazoo.errors import InputError


@dataclass(frozen=True)
class Period:
    """Every so many `steps` or `epochs`; the other one is None."""

    steps: int | None = None
    epochs: int | None = None

    @classmethod
    def of(cls, every: "int | str | Period") -> "Period":
        """The period that `every` names: a number of steps, "epoch", or "3 epochs". Raises InputError.

        Example:
        ```python
        Period.of(50)  # Period(steps=50, epochs=None)
        Period.of("2 epochs")  # Period(steps=None, epochs=2)
        ```
        """
        if isinstance(every, Period):
            return every
        if isinstance(every, int) and not isinstance(every, bool) and every >= 1:
            return cls(steps=every)
        match = re.fullmatch(r"epoch|([1-9]\d*) (epochs|epoch|steps|step)", every) if isinstance(every, str) else None
        if match is None:
            raise InputError(f'every must be a number of steps from 1, "epoch", or as "3 epochs", got {every!r:.80}')
        count = int(match[1] or 1)
        return cls(steps=count) if (match[2] or "").startswith("step") else cls(epochs=count)

    def steps_due(self, before: int, now: int) -> bool:
        """Whether a record is due after step `now`, where the last look was after step `before`."""
        return self.steps is not None and now // self.steps > before // self.steps

    def epoch_due(self, finished: int) -> bool:
        """Whether a record is due after `finished` epochs."""
        return self.epochs is not None and finished % self.epochs == 0
