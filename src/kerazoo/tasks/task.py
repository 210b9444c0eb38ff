"""The tasks by name. `base.py` has their interface, and each task has a module of its own.

Processes without keras also import this. It imports keras only for a loss, a metric or an activation.
"""

from typing import Any

from kerazoo.errors import ModelError
from kerazoo.tasks.base import Task
from kerazoo.tasks.multiclass import Multiclass
from kerazoo.tasks.multilabel import Multilabel
from kerazoo.tasks.regression import Regression

MULTICLASS = Multiclass()
MULTILABEL = Multilabel()
REGRESSION = Regression()
TASKS: dict[str, Task] = {task.name: task for task in (MULTICLASS, MULTILABEL, REGRESSION)}


def find_task(name: Any) -> Task:
    """The task called `name`. Raises ModelError if there is none."""
    if not isinstance(name, str) or name not in TASKS:
        raise ModelError(f"task must be one of {', '.join(TASKS)}, got {str(name)[:100]!r}")
    return TASKS[name]
