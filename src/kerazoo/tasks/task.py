"""The tasks by name. What a task says of itself is in `base.py`; each has a module of its own.

This is read in processes without keras: it imports none until a loss, a metric or an activation is asked for.
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
    """The task called `name`. Raises ModelError where there is none."""
    if not isinstance(name, str) or name not in TASKS:
        raise ModelError(f"task must be one of {', '.join(TASKS)}, got {str(name)[:100]!r}")
    return TASKS[name]
