"""What the notebooks teach with; nothing here is needed to compute anything.

    from attnlab.teach import claim, figure, predict, progress

Claims        `claim` compares a measurement with what the text says; `claims` lists those made
Predictions   `predict` asks before the cell that answers
Checks        `exercise` makes a check, `call` and the `require` functions are what it is made of
Figures       `figure` and `picture` show an image together with its description
Progress      `progress` shows how far a loop is, `percent` how far anything else;
              `your_progress` shows which exercises are done, kept in `progress_file`

Everything shown carries plain text beside its HTML, so that it reads well in a terminal too.
`import attnlab` does not import this package.
"""

from __future__ import annotations

from collections.abc import Iterable

from attnlab.teach._checks import (
    BLANK,
    Exercise,
    Mistake,
    Result,
    call,
    exercise,
    require,
    require_number,
    require_tensor,
)
from attnlab.teach._claims import Claim, ClaimFailed, claim, claims
from attnlab.teach._figures import figure, picture
from attnlab.teach._progress import percent, progress
from attnlab.teach._record import progress_file

__all__ = [
    "BLANK", "Claim", "ClaimFailed", "Exercise", "Mistake", "Result", "call", "claim", "claims",
    "exercise", "figure", "percent", "picture", "predict", "progress", "progress_file", "require",
    "require_number", "require_tensor", "your_progress",
]  # fmt: skip


def predict(question: str, options: Iterable[str], *, id: str):
    """Ask `question` before the cell that answers it; returns the widget that records the choice.

        guess = predict("Which grows faster?", ["the scores", "the weights"], id="01-growth")

    and, in a later cell, `guess.reveal(correct, because)`. Nothing happens when nobody answers.
    """
    from attnlab.teach._predictions import Prediction  # the only part that needs anywidget

    return Prediction(question, options, id=id)


def your_progress():
    """A panel with every exercise of the course, which are done, and how to start again."""
    from attnlab.teach._panel import YourProgress

    return YourProgress()
