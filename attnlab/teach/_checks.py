"""Exercise checks: one line on each answer, and the helpers that name common mistakes."""

from __future__ import annotations

import linecache
import math
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch

from attnlab.teach._cards import rich

BLANK = "your code here"  # what the blanked exercises raise; the build writes the same words


class Mistake(Exception):
    """What is wrong with an answer: "name of the mistake: how it shows, what to look at"."""

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).split()))

    @property
    def slug(self) -> str:
        """The name (all before the first colon) in lower case with hyphens."""
        return re.sub(r"[^a-z0-9]+", "-", str(self).split(":")[0].lower()).strip("-")


class NotAttempted(Exception):
    """The exercise is still blank."""


@dataclass(frozen=True)
class Result:
    """What a check says: `status` is "correct", "not attempted", "mistake" or "error"."""

    exercise: str
    status: str
    message: str
    mistake: str | None = None

    SIGNS = {"correct": "✅", "not attempted": "✏️", "mistake": "❌", "error": "💥"}

    def __repr__(self) -> str:
        return f"{self.SIGNS[self.status]} {self.exercise}: {self.message}"

    def _repr_html_(self) -> str:
        sign = self.SIGNS[self.status]
        return f"<div>{sign} <b>{rich(self.exercise)}:</b> {rich(self.message)}</div>"


class Exercise:
    """One exercise: calling it with an answer checks the answer and never raises."""

    def __init__(self, test: Callable, number: str, title: str, minutes: int, difficulty: int):
        if not re.fullmatch(r"\d+\.\d+", number):
            raise ValueError(f"an exercise is numbered notebook.exercise, as 1.2; got {number!r}")
        if difficulty not in (1, 2, 3):
            raise ValueError("difficulty is 1 (recall), 2 (apply) or 3 (open)")
        self.test, self.number, self.title = test, number, title
        self.minutes, self.difficulty = minutes, difficulty
        self.__doc__ = test.__doc__

    def __call__(self, *answers: Any) -> Result:
        name = f"Exercise {self.number}"
        try:
            if any(a is ... for a in answers):
                raise NotAttempted
            with torch.random.fork_rng(devices=[]):  # neither disturbs nor is disturbed
                torch.manual_seed(0)
                self.test(*answers)
        except Mistake as wrong:
            return Result(name, "mistake", str(wrong), wrong.slug)
        except Exception as error:
            if isinstance(error, NotAttempted) or _is_blank(error):
                stars = "●" * self.difficulty + "○" * (3 - self.difficulty)
                about = f"{self.title}, {self.minutes} min, {stars}"
                return Result(name, "not attempted", f"not attempted yet ({about})")
            return Result(name, "error", _one_line(error))
        return Result(name, "correct", f"correct ({self.title})")


def exercise(
    number: str, title: str, *, minutes: int, difficulty: int
) -> Callable[[Callable], Exercise]:
    """Turn a function that raises Mistake into a check that answers in one line.

    `number` is "notebook.exercise", `minutes` what a student needs, `difficulty` 1, 2 or 3.
    The function takes the answer (or answers) of the student and returns nothing.
    """

    def decorate(test: Callable) -> Exercise:
        return Exercise(test, number, title, minutes, difficulty)

    return decorate


def _is_blank(error: BaseException) -> bool:
    # torch raises NotImplementedError too ('"softmax" not implemented for Long'): that is no blank
    return isinstance(error, NotImplementedError) and str(error) in ("", BLANK)


def _one_line(error: Exception) -> str:
    """Type, first line of the message, and the student's line where it happened."""
    message = str(error).strip().splitlines()
    text = f"your code raised `{type(error).__name__}`" + (f": {message[0]}" if message else "")
    cells = ("ipykernel_", "<ipython-input")  # what a notebook calls the files of its cells
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if any(c in f.filename for c in cells)
    ]
    if frames:
        line = linecache.getline(frames[-1].filename, frames[-1].lineno).strip().replace("`", "'")
        text += f" (line {frames[-1].lineno} of the cell" + (f": `{line}`)" if line else ")")
    return text


def require(condition: Any, message: str) -> None:
    """Raise Mistake(message) unless `condition`; `message` is "name of the mistake: details"."""
    if not bool(condition):
        raise Mistake(message)


def call(function: Any, *args: Any, **kwargs: Any) -> Any:
    """The student's `function` on copies of the tensors and lists among `args` and `kwargs`.

    Names the mistake of answers that are no function, return nothing, or write to their input.
    """
    if function is ...:
        raise NotAttempted
    if not callable(function):
        raise Mistake(
            f"not a function: the check wants the function itself, and got {_kind(function)}; "
            "pass its name without calling it"
        )

    def copy(value: Any) -> Any:
        if isinstance(value, list):
            return [copy(v) for v in value]
        return value.detach().clone() if isinstance(value, torch.Tensor) else value

    def same(old: Any, new: Any) -> bool:
        """Whether the tensors are unchanged; a list may be sorted, it is a copy."""
        if isinstance(old, list):
            return len(old) != len(new) or all(map(same, old, new))
        return not (isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor)) or (
            old.shape == new.shape and torch.equal(old.nan_to_num(), new.nan_to_num())
        )

    given = [copy(a) for a in args], {k: copy(v) for k, v in kwargs.items()}
    result = function(*given[0], **given[1])
    before, after = [*args, *kwargs.values()], [*given[0], *given[1].values()]
    for old, new in zip(before, after, strict=True):
        if not same(old, new):
            raise Mistake("changes its input: write the result to a new tensor, not in place")
    if result is None:
        raise Mistake("nothing returned: your function gives `None`; did you forget `return`?")
    return result


def require_tensor(value: Any, shape: tuple[int, ...] | None = None) -> torch.Tensor:
    """`value`, if it is a finite tensor of this shape; otherwise the Mistake by its name."""
    if value is ...:
        raise NotAttempted
    if value is None:
        raise Mistake("no value: the answer is `None`")
    if type(value).__module__.split(".")[0] == "numpy":
        raise Mistake("NumPy instead of torch: give a torch tensor, not a NumPy array")
    if not isinstance(value, torch.Tensor):
        raise Mistake(f"not a tensor: expected a torch tensor, got {_kind(value)}")
    if shape is not None and tuple(value.shape) != tuple(shape):
        raise Mistake(f"wrong shape: expected {tuple(shape)}, got {tuple(value.shape)}")
    if value.is_floating_point() and value.isnan().any():
        raise Mistake("NaN in the result: some entries are not numbers")
    if value.is_floating_point() and value.isinf().any():
        raise Mistake("infinite values: some entries of the result are inf or -inf")
    return value


def require_number(value: Any) -> float:
    """`value` as a finite number (an int, a float or a one-element tensor); otherwise a Mistake."""
    if value is ...:
        raise NotAttempted
    if value is None:
        raise Mistake("no value: the answer is `None`")
    if hasattr(value, "item") and getattr(value, "shape", None) in ((), (1,)):
        value = value.item()  # torch's and NumPy's numbers
    if isinstance(value, bool) or not isinstance(value, Real):
        raise Mistake(f"not a number: expected a number, got {_kind(value)}")
    if math.isnan(value):
        raise Mistake("NaN in the result: the answer is not a number")
    if math.isinf(value):
        raise Mistake("infinite values: the answer is infinite")
    return value


def _kind(value: Any) -> str:
    name = type(value).__name__
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
