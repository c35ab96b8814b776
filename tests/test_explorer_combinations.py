"""Every combination of every explorer's controls: all of them where they are few, many drawn at
random elsewhere. None ends in an error that nobody foresaw, and what is shown follows from the
settings alone, not from the way there."""

import itertools
import math
import random
import re

import numpy as np
import pytest

import explorer_samples as samples

TEXTS = (samples.TEXT, samples.SAYS, "", "one", "<b>a</b> & 猫 " * 9, "\ud83d \x00", "word " * 99)
UNFORESEEN = re.compile(r"^\w*(Error|Exception|Interrupt|Warning)\b")


@pytest.fixture(scope="module")
def most(thorough):
    """How many combinations of one explorer."""
    return 1000 if thorough else 100


def values(spec: dict) -> list:
    """What the page can send for a control."""
    if spec["kind"] == "check":
        return [False, True]
    if spec["kind"] == "choice":
        return [key for key, _ in spec["options"]]
    if spec["kind"] == "text":
        return list(TEXTS)
    step = spec["step"]
    places = [spec["min"] + i * step for i in range(round((spec["max"] - spec["min"]) / step) + 1)]
    found = [float(f"{2**at:.3g}") if spec.get("log") else round(at, 9) for at in places]
    return [None, *found[1:]] if spec.get("auto") else found


def few(found: list) -> list:
    """Both ends and the middle of a slider or a choice; all where there are few."""
    return found if len(found) <= 4 else [found[0], found[len(found) // 2], found[-1]]


def seen(explorer):
    return samples.unpack(explorer._view)


def put(explorer, name: str, value) -> None:
    """As a message from the page: JavaScript has one kind of number, so 3.0 arrives as 3."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    setattr(explorer, name, value)


def word(value) -> str:
    """A value as an option's key: keys of numbers are text."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def settings(explorer) -> dict:
    return {name: getattr(explorer, name) for name in explorer.SETTINGS}


def forgetful(explorer):
    """The Structure Explorer remembers edits, and the last example of each kind: no setting."""
    if hasattr(explorer, "_kinds"):
        explorer._kinds.clear()
        explorer._again()
    return explorer


def check(explorer) -> None:
    head, numbers = seen(explorer)
    where = (settings(explorer), explorer.message)
    assert not UNFORESEEN.match(explorer.message), where
    assert head["state"] in ("", "wrong"), where
    assert bool(explorer.message) or head["state"] == "", where
    assert head["message"] == explorer.message and not np.isinf(numbers).any(), where
    names = [spec["name"] for spec in explorer._ui["controls"]]
    assert len(set(names)) == len(names) and set(names) <= set(explorer.traits()), where
    for spec in explorer._ui["controls"]:
        if spec["kind"] == "choice" and not spec.get("why") and head["state"] == "":
            shown = spec.get("fixed", getattr(explorer, spec["name"]))
            assert word(shown) in map(word, values(spec)), (spec["name"], where)


@pytest.mark.parametrize("name", samples.NAMES)
def test_all_combinations(name, most):
    with samples.measured_device():
        explorer = samples.make(name)
        specs = {s["name"]: s for s in explorer._ui["controls"]}
        every = [values(s) if s["kind"] != "text" else list(TEXTS[:4]) for s in specs.values()]
        if math.prod(map(len, every)) > most:
            every = [few(of) for of in every]
        if math.prod(map(len, every)) <= most:
            combinations = list(itertools.product(*every))
        else:
            draw = random.Random(0)
            full = [values(s) for s in specs.values()]
            combinations = [
                tuple(draw.choice(few(of) if draw.random() < 0.5 else of) for of in full)
                for _ in range(most)
            ]
        good = 0
        for combination in combinations:
            with explorer.hold_trait_notifications():
                for control, value in zip(specs, combination, strict=True):
                    put(explorer, control, value)
            check(explorer)
            good += seen(explorer)[0]["state"] == ""
        assert good > len(combinations) / 20  # most of them show something


@pytest.mark.parametrize("name", samples.NAMES)
def test_a_walk_ends_where_its_settings_are(name, most):
    """One control after another, as a hand moves them; every tenth good picture is compared with
    that of a new explorer with the same settings."""
    draw = random.Random(1)
    good = 0
    with samples.measured_device():
        explorer = samples.make(name)
        for _ in range(most):
            able = [s for s in explorer._ui["controls"] if not s.get("why")]
            spec = draw.choice([s for s in able if s["kind"] != "text" or draw.random() < 0.2])
            put(explorer, spec["name"], draw.choice(values(spec)))
            check(explorer)
            if seen(explorer)[0]["state"]:
                explorer = samples.make(name)  # or an odd number of heads ends most walks
                continue
            good += 1
            if good % 10:
                continue
            again = samples.make(name)
            for setting, value in settings(explorer).items():
                setattr(again, setting, value)
            (head, numbers), (other, same) = (seen(forgetful(e)) for e in (explorer, again))
            assert other == head, settings(explorer)
            np.testing.assert_array_equal(numbers, same)
            assert again._ui == explorer._ui, settings(explorer)
    assert good > most / 4
