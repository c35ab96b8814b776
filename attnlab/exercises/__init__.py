"""The checks of the exercises, one module for each notebook: `n01` holds those of notebook 01.

In a notebook: `from attnlab.exercises import check`, then `check("1.2", my_answer)`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from attnlab.teach import Exercise, Result
from attnlab.teach._cards import in_notebook
from attnlab.teach._record import record

__all__ = ["check", "find", "of_notebook"]


def of_notebook(number: int) -> dict[str, Exercise]:
    """The exercises of one notebook by their number ("1.2"); none if it has no module here."""
    name = f"{__name__}.n{number:02d}"
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:  # the module is there, something that it imports is not
            raise
        return {}
    found = [value for value in vars(module).values() if isinstance(value, Exercise)]
    numbers = [e.number for e in found]
    for e in found:
        if numbers.count(e.number) > 1 or e.number.split(".")[0] != str(number):
            raise ValueError(f"{name}: exercise {e.number} is twice there or in the wrong module")
    return {e.number: e for e in found}


def find(number: str) -> Exercise:
    """The exercise "notebook.exercise"; ValueError, naming those there are, if there is none."""
    notebook = str(number).split(".")[0]
    known = of_notebook(int(notebook)) if notebook.isdecimal() else {}
    if number not in known:
        names = ", ".join(known) or "none"
        raise ValueError(f"there is no exercise {number!r}; this notebook's exercises: {names}")
    return known[number]


def check(number: str, *answers: Any) -> Result:
    """Check the answer (or answers) to exercise `number`: one line, never a traceback.

    In a notebook the verdict is noted for the progress panel of notebook 00.
    """
    result = find(number)(*answers)
    if in_notebook():
        record(number, result.status)
    return result
