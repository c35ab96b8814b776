"""Progress: how far a long loop is, in a notebook or in a terminal."""

from __future__ import annotations

import html
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from attnlab.teach._cards import Card, in_notebook, rich


def progress(iterable: Iterable, label: str, total: int | None = None) -> Iterator:
    """Pass `iterable` on and show how far it is; what remains on the page holds no times.

    One display that updates in place in a notebook, one line on stderr in a terminal, nothing
    when stderr is a file or the environment has ATTNLAB_QUIET.
    """
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)
    update = _bar(label, total)
    done, last = 0, time.monotonic()
    try:
        for item in iterable:
            yield item
            done += 1
            if time.monotonic() - last > 0.1:  # more often than the eye sees would only cost time
                last = time.monotonic()
                update(done, False)
    finally:
        update(done, True)


@contextmanager
def percent(label: str) -> Iterator[Callable[[float], None]]:
    """The display of `progress` for work that says by itself how far it is.

        with percent("training") as tell:
            work(progress=tell)     # which calls tell(0.1), tell(0.5), ..., a share from 0 to 1
    """
    update, done, last = _bar(label, 100), 0, time.monotonic()

    def tell(share: float) -> None:
        nonlocal done, last
        now = min(100, int(100 * share))
        if now != done and time.monotonic() - last > 0.1:
            last = time.monotonic()
            update(now, False)
        done = now

    try:
        yield tell
    finally:
        update(done, True)


def _bar(label: str, total: int | None) -> Callable[[int, bool], None]:
    if not os.environ.get("ATTNLAB_QUIET"):
        if in_notebook():
            return _notebook_bar(label, total)
        if sys.stderr.isatty():
            return _terminal_bar(label, total)
    return _silent


def _count(label: str, done: int, total: int | None) -> str:
    return f"{label}: {done:,}" + (f" of {total:,}" if total is not None else "")


def _silent(done: int, final: bool) -> None:
    pass


def _notebook_bar(label: str, total: int | None) -> Callable[[int, bool], None]:
    from IPython.display import display

    def card(done: int, final: bool) -> Card:
        text = _count(label, done, total)
        amount = f' max="{total}" value="{done}"' if total else ""  # without: "some time yet"
        bar = f' <progress aria-label="{html.escape(label)}"{amount}></progress>'
        return Card(f"<div>{rich(text)}{'' if final else bar}</div>", text)

    handle = display(card(0, False), display_id=True)
    return lambda done, final: handle.update(card(done, final))


def _terminal_bar(label: str, total: int | None) -> Callable[[int, bool], None]:
    def update(done: int, final: bool) -> None:
        sys.stderr.write("\r" + _count(label, done, total) + ("\n" if final else ""))
        sys.stderr.flush()

    return update
