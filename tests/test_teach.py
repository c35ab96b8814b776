"""Claims, predictions, exercise checks, pictures and progress, outside a notebook."""

import base64
import math
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from attnlab.exercises import check, find
from attnlab.teach import (
    ClaimFailed,
    Mistake,
    call,
    claim,
    claims,
    exercise,
    figure,
    percent,
    picture,
    predict,
    progress,
    require,
    require_number,
    require_tensor,
)

NAN = float("nan")


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("attnlab", ("attnlab.teach", "anywidget", "IPython", "matplotlib")),
        ("attnlab.teach", ("anywidget", "ipywidgets", "IPython", "matplotlib")),
    ],
)
def test_an_import_brings_no_more_than_it_needs(module, absent):
    code = f"import sys, {module}; print([m for m in {absent} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ----------------------------------------------------------------------------------------- claims

HOLD = [
    (0.1, {"below": 0.2}),
    (torch.tensor(3), {"above": 2.5}),
    (np.float64(2.0), {"between": (2, 3)}),
    (1.05, {"expect": 1.0, "atol": 0.06}),
    (1.05, {"expect": 1.0, "rtol": 0.06}),
    (-105.0, {"expect": -100, "atol": 1.0, "rtol": 0.045}),
    (1_048_576, {"equals": 1_048_576}),
    (torch.tensor(0.0), {"equals": 0.0}),
    (True, {"equals": True}),
    ("previous", {"equals": "previous"}),
    (torch.zeros(2, 8, 5, 64).shape, {"equals": (2, 8, 5, 64)}),
    (torch.tensor([1, 2]), {"equals": [1, 2]}),
    ([0.91, 0.95, 0.93], {"above": 0.9}),
    (torch.tensor([0.25, 0.5]), {"between": (0.25, 0.5)}),
    ([0, 0, 0], {"equals": 0}),
]
FAIL = [
    (0.2, {"below": 0.2}),
    (2.5, {"above": 2.5}),
    (3.001, {"between": (2, 3)}),
    (1.07, {"expect": 1.0, "atol": 0.06}),
    (1.07, {"expect": 1.0, "rtol": 0.06}),
    (-106.0, {"expect": -100, "atol": 1.0, "rtol": 0.045}),
    (1e-17, {"equals": 0.0}),
    (False, {"equals": True}),
    ("next", {"equals": "previous"}),
    ((2, 8, 5), {"equals": (2, 8, 5, 64)}),
    ([0.91, 0.89, 0.93], {"above": 0.9}),
    ([0, 1, 0], {"equals": 0}),
    (math.inf, {"between": (0, 1)}),
    (NAN, {"below": 1}),
    (NAN, {"above": 1}),
    (NAN, {"between": (-1e9, 1e9)}),
    (NAN, {"expect": 1.0, "atol": 1e9}),
    (NAN, {"equals": NAN}),
    ([0.5, NAN], {"below": 1}),
]


@pytest.mark.parametrize(("measured", "expected"), HOLD)
def test_claims_that_hold(measured, expected, capsys):
    claim("It is so.", measured, source="a test", **expected)
    assert capsys.readouterr().out.startswith("✔ holds: It is so.\n")
    assert claims()[-1].holds


@pytest.mark.parametrize(("measured", "expected"), FAIL)
def test_claims_that_fail_show_their_card_and_raise(measured, expected, capsys):
    with pytest.raises(ClaimFailed, match="^claim does not hold: It is so") as error:
        claim("It is so.", measured, source="a test", **expected)
    assert isinstance(error.value, AssertionError)
    assert "\n" not in str(error.value)
    assert capsys.readouterr().out.startswith("✘ does not hold: It is so.\n")
    assert not claims()[-1].holds


@pytest.mark.parametrize(
    ("measured", "arguments", "error"),
    [
        (1, {}, ValueError),
        (1, {"below": 2, "above": 0}, ValueError),
        (1, {"expect": 1}, ValueError),
        (1, {"expect": 1, "atol": -1}, ValueError),
        (1, {"expect": 1, "atol": NAN}, ValueError),
        (1, {"below": 2, "atol": 1}, ValueError),
        (1, {"between": 3}, ValueError),
        (1, {"between": (3, 2)}, ValueError),
        (1, {"below": "2"}, TypeError),
        (1, {"below": NAN}, TypeError),
        ("1", {"below": 2}, TypeError),
        (True, {"below": 2}, TypeError),
        (None, {"below": 2}, TypeError),
        ([], {"below": 2}, ValueError),
        ([], {"equals": 2}, ValueError),
        (torch.zeros(2, 2), {"below": 2}, ValueError),
        (1, {"below": 2, "source": " "}, ValueError),
        (1, {"below": 2, "statement": ""}, ValueError),
        (1, {"below": 2, "skip": True}, TypeError),
        (1, {"below": 2, "skip": "a reason", "source": ""}, ValueError),
    ],
)
def test_claims_that_are_none(measured, arguments, error):
    before = len(claims())
    arguments = {"source": "a test", "statement": "It is so.", **arguments}
    with pytest.raises(error) as raised:
        claim(arguments.pop("statement"), measured, **arguments)
    assert not isinstance(raised.value, ClaimFailed)
    assert len(str(raised.value)) < 120
    assert len(claims()) == before


@pytest.mark.parametrize(
    ("measured", "arguments", "line"),
    [
        (0.075651, {"below": 1}, "measured: 0.0757 · expected: below 1"),
        (2.639, {"below": 2.65}, "measured: 2.64 · expected: below 2.65"),
        (2.639, {"below": 2.64}, "measured: 2.639 · expected: below 2.64"),
        (12345.6, {"above": 9999.5}, "measured: 12,346 · expected: above 9,999.5"),
        (9999.6, {"above": 999.96}, "measured: 9,999.6 · expected: above 999.96"),
        (123456.0, {"above": 5e3}, "measured: 123,456 · expected: above 5,000"),
        (1.05e9, {"above": 1e9}, "measured: 1.05e9 · expected: above 1,000,000,000"),
        (3.21e-16, {"below": 1e-12}, "measured: 3.2e-16 · expected: below 1e-12"),
        (1_048_576, {"equals": 4 * 512**2}, "measured: 1,048,576 · expected: exactly 1,048,576"),
        (0.9999999, {"below": 1}, "measured: 0.9999999 · expected: below 1"),
        (1.04004, {"expect": 1.0, "atol": 0.05}, "measured: 1.04 · expected: 1 ± 0.05"),
        (1.05001, {"expect": 1.0, "rtol": 0.1}, "measured: 1.05 · expected: 1 ± 10 %"),
        ([0.93, 0.95, 0.94], {"above": 0.9}, "measured: mean 0.94 [0.93 – 0.95] over 3 values · "),
        ([0.9991, 0.9999], {"below": 1}, "mean 0.9995 [0.999 – 0.9999] over 2 values"),
        ([1 + 1e-9, 1.0, 1 - 1e-9], {"above": 0.5}, "measured: 1 (each of 3 values) · expected"),
        ([512**2, 512**2], {"equals": 512**2}, "measured: 262,144 (each of 2 values) · expected"),
        ([2.0, 2.0], {"below": 3, "unit": "ms"}, "measured: 2 ms (each of 2 values) · expected"),
        ([1.0, 2.0], {"below": 3, "unit": "ms"}, "mean 1.5 [1 – 2] ms over 2 values"),
        ((2, 3), {"equals": (2, 3)}, "measured: (2, 3) · expected: exactly (2, 3)"),
        (12.0, {"above": 3, "unit": "ms"}, "measured: 12 ms · expected: above 3 ms"),
    ],
)
def test_numbers_on_the_card(measured, arguments, line, capsys):
    claim("It is so.", measured, source="a test", **arguments)
    assert line in capsys.readouterr().out


@pytest.mark.parametrize(
    ("measured", "expected", "line"),
    [
        ([1 + 1e-9, 1.0], {"equals": 1}, "mean 1.0000000005 [1 – 1.000000001] over 2 values"),
        ([0.5, NAN], {"below": 1}, "mean nan [0.5 – 0.5] over 2 values"),
        ([NAN, NAN], {"below": 1}, "nan (each of 2 values)"),
        ([math.inf, -math.inf], {"below": 1}, "mean nan [-inf – inf] over 2 values"),
        (0.20001, {"below": 0.2}, "measured: 0.2 · expected: below 0.2"),
        (0.19999, {"above": 0.2}, "measured: 0.2 · expected: above 0.2"),
        (0.20001, {"between": (0, 0.2)}, "measured: 0.20001 · expected: between 0 and 0.2"),
    ],
)
def test_numbers_on_the_card_of_a_claim_that_fails(measured, expected, line, capsys):
    with pytest.raises(ClaimFailed):
        claim("It is so.", measured, source="a test", **expected)
    assert line in capsys.readouterr().out


def test_a_skipped_claim_says_why_and_has_no_verdict(capsys, monkeypatch):
    before = claims()
    claim("It is <so>.", 3, below=2, source="a test", skip=" no parameters\n")  # 3 would fail
    assert capsys.readouterr().out == "○ not measured: It is <so>.\n  no parameters\n"
    shown = []
    monkeypatch.setattr("attnlab.teach._claims.show", shown.append)
    claim("It is <so>.", None, below=2, source="a test", skip="no `parameters`")
    (card,) = shown
    assert "<b>○ not measured:</b> It is &lt;so&gt;." in card.html
    assert "no <code>parameters</code>" in card.html
    assert "success" not in card.html and "error" not in card.html  # neither of the two colours
    assert claims() == before


@pytest.mark.parametrize("skip", ["", " "])
def test_without_a_reason_a_claim_is_measured(skip):
    before = len(claims())
    with pytest.raises(ClaimFailed):
        claim("It is so.", 3, below=2, source="a test", skip=skip)
    assert len(claims()) == before + 1


def test_card_names_source_and_ledger_and_escapes_what_it_is_given(capsys):
    claim("<b>1</b> & `a<b`", 1, equals=1, source="<i>Vaswani</i> 2017", id=4)
    text = capsys.readouterr().out
    assert "source: <i>Vaswani</i> 2017 · claim 4 of the ledger" in text
    made = claims()[-1]
    assert (made.id, made.source, made.measured) == ("4", "<i>Vaswani</i> 2017", (1,))
    page = made.card()._repr_html_()
    assert "<b>✔ holds:</b> &lt;b&gt;1&lt;/b&gt; &amp; <code>a&lt;b</code>" in page
    assert "&lt;i&gt;Vaswani&lt;/i&gt;" in page and "<i>" not in page


# ------------------------------------------------------------------------------------ predictions


def ask(id="a", options=("up", "down", "`same`")):
    return predict("Where does <b>it</b> go?", options, id=id)


def test_prediction_is_recorded_then_locked_by_the_reveal(capsys):
    guess = ask("locked")
    guess.choice = 1
    assert guess.recorded == 1
    guess.reveal("down", "Because `x < 0`.")
    assert capsys.readouterr().out.splitlines() == [
        "You predicted: B. down (✔ as measured)",
        "The measurement says: B. down",
        "Because `x < 0`.",
    ]
    guess.choice = 0  # a click that was under way
    assert guess.locked and guess.recorded == 1
    guess.reveal(torch.tensor(0))
    assert "You predicted: B. down (✘ not what was measured)" in capsys.readouterr().out


def test_no_prediction_is_fine(capsys):
    guess = ask("none")
    guess.reveal(0)
    assert capsys.readouterr().out.splitlines() == [
        "No prediction made (that is fine in Run All).",
        "The measurement says: A. up",
    ]


def test_running_the_cell_again_keeps_the_choice_and_unlocks():
    guess = ask("again")
    guess.choice = 2
    guess.reveal(0)
    again = ask("again")
    assert (again.choice, again.recorded, again.locked) == (2, 2, False)
    assert ask("another").choice == -1
    assert (
        ask("again", ("up", "down")).choice == -1
    )  # other options: the letter means another thing


def test_the_page_never_learns_which_option_is_right():
    guess = ask("secret")
    before = guess.get_state()
    guess.reveal(1, "reason")
    changed = {key for key, value in guess.get_state().items() if value != before[key]}
    assert changed == {"locked"}


def test_choices_out_of_range_are_not_recorded():
    guess = ask("range")
    guess.choice = 3
    assert guess.recorded == -1


@pytest.mark.parametrize("correct", [3, -1, "left", True, 0.0, None])
def test_reveal_of_no_option(correct):
    guess = ask("unknown")
    with pytest.raises(ValueError, match="is no option of this prediction"):
        guess.reveal(correct)
    assert not guess.locked


@pytest.mark.parametrize(
    ("question", "options", "id"),
    [
        ("?", ["only"], "i"),
        ("?", ["same", "same "], "i"),
        ("?", ["a", ""], "i"),
        ("?", ["a", 2], "i"),
        ("?", "ab", "i"),
        ("?", [f"{i}" for i in range(27)], "i"),
        (" ", ["a", "b"], "i"),
        ("?", ["a", "b"], ""),
    ],
)
def test_predictions_that_are_none(question, options, id):
    with pytest.raises(ValueError):
        predict(question, options, id=id)


def test_prediction_without_widgets_is_escaped_text():
    data, metadata = ask("fallback")._repr_mimebundle_()
    assert (
        data["text/plain"] == "Predict: Where does <b>it</b> go?\n  A. up\n  B. down\n  C. `same`"
    )
    assert "&lt;b&gt;it&lt;/b&gt;" in data["text/html"] and "<code>same</code>" in data["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in data


# -------------------------------------------------------------------------------- exercise checks


@exercise("9.1", "Double", minutes=3, difficulty=2)
def double(answer):
    """The answer is a function that doubles."""
    x = torch.tensor([1.0, 2.0])
    y = require_tensor(call(answer, x), (2,))
    require(not torch.equal(y, x), "nothing doubled: `y` equals\n<x>")
    require(torch.equal(y, 2 * x), "Wrong (factor)!: not 2")


def blank(x):
    raise NotImplementedError("your code here")


def torch_not_implemented(x):
    return torch.zeros(2).long().softmax(0)


def in_place(x):
    return x.mul_(2)


@pytest.mark.parametrize(
    ("answer", "status", "mistake"),
    [
        (lambda x: x + x, "correct", None),
        (blank, "not attempted", None),
        (..., "not attempted", None),
        (torch_not_implemented, "error", None),
        (lambda x: x / "2", "error", None),
        (lambda x: x, "mistake", "nothing-doubled"),
        (lambda x: 3 * x, "mistake", "wrong-factor"),
        (in_place, "mistake", "changes-its-input"),
        (lambda x: None, "mistake", "nothing-returned"),
        (lambda x: x.numpy(), "mistake", "numpy-instead-of-torch"),
        (lambda x: x.tolist(), "mistake", "not-a-tensor"),
        (lambda x: x[:1], "mistake", "wrong-shape"),
        (lambda x: x * NAN, "mistake", "nan-in-the-result"),
        (lambda x: x / 0, "mistake", "infinite-values"),
        (torch.ones(2), "mistake", "not-a-function"),
        (None, "mistake", "not-a-function"),
    ],
)
def test_checks_answer_in_one_line(answer, status, mistake):
    result = double(answer)
    assert (result.status, result.mistake) == (status, mistake), result
    sign = {"correct": "✅", "not attempted": "✏️", "mistake": "❌", "error": "💥"}[status]
    assert repr(result).startswith(f"{sign} Exercise 9.1: ") and "\n" not in repr(result)
    page = result._repr_html_()
    assert sign in page and "\n" not in page and "<x>" not in page


def test_a_blank_says_what_it_is_and_an_error_where_it_is():
    said = repr(double(blank))
    assert said == "✏️ Exercise 9.1: not attempted yet (Double, 3 min, ●●○)"
    namespace = {}
    exec(compile("def f(x):\n    return x.size(5)", "<ipython-input-7-ab>", "exec"), namespace)
    said = repr(double(namespace["f"]))
    assert said.startswith("💥 Exercise 9.1: your code raised `IndexError`: Dimension out of range")
    assert said.endswith("(line 2 of the cell)")
    said = repr(double(lambda x: x / "2"))  # raised in no cell: no place is named
    assert said.startswith("💥 Exercise 9.1: your code raised `TypeError`: ")
    assert "line" not in said and "attnlab" not in said


def test_a_check_neither_uses_nor_changes_the_random_state():
    @exercise("9.2", "Draw", minutes=1, difficulty=1)
    def draw(answer):
        answer.append(torch.rand(1).item())

    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    seen = []
    draw(seen)
    assert torch.equal(torch.rand(1), expected)
    draw(seen)
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("value", "mistake"),
    [
        (None, "no-value"),
        ("3", "not-a-number"),
        (True, "not-a-number"),
        (torch.ones(2), "not-a-number"),
        (NAN, "nan-in-the-result"),
        (math.inf, "infinite-values"),
    ],
)
def test_values_that_are_no_number(value, mistake):
    with pytest.raises(Mistake) as wrong:
        require_number(value)
    assert wrong.value.slug == mistake
    assert require_number(torch.tensor([3.0])) == 3.0 and require_number(2) == 2


def test_none_is_no_tensor():
    with pytest.raises(Mistake, match="no value"):
        require_tensor(None)


@pytest.mark.parametrize("number", ["nine", "1", 1.1])
def test_exercises_are_numbered(number):
    with pytest.raises((ValueError, TypeError)):
        exercise(number, "t", minutes=1, difficulty=1)(lambda a: None)


@pytest.mark.parametrize("number", ["99.1", "1.99", "x"])
def test_unknown_exercises(number):
    with pytest.raises(ValueError, match="there is no exercise"):
        check(number, None)
    with pytest.raises(ValueError, match="there is no exercise"):
        find(number)


# --------------------------------------------------------------------------------------- pictures


def draw():
    fig, ax = plt.subplots(figsize=(2, 1))
    ax.plot([0, 1])
    return fig


def test_figure_closes_and_prints_its_words_outside_a_notebook(capsys):
    before = plt.get_fignums()
    figure(draw(), alt="A rising line.")
    assert capsys.readouterr().out == "[picture] A rising line.\n"
    assert plt.get_fignums() == before


def test_picture_carries_its_words_everywhere():
    png = base64.b64decode(  # one pixel
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    )
    data, metadata = picture(png, 'A "dot" <here>\n now')
    assert 'alt="A &quot;dot&quot; &lt;here&gt; now"' in data["text/html"]
    assert metadata["image/png"]["alt"] == data["text/plain"].removeprefix("[picture] ")
    assert base64.b64decode(data["image/png"]) == png
    with pytest.raises(ValueError, match="alt"):
        picture(png, " ")
    with pytest.raises(ValueError, match="PNG"):
        picture(b"GIF89a", "A dot.")


# --------------------------------------------------------------------------------------- progress


def test_progress_is_silent_where_nobody_watches(capsys):
    assert list(progress("abc", "letters")) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_progress_in_a_terminal_ends_with_the_count(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for letter in progress(iter("abc"), "letters", total=1000):
        if letter == "b":
            break
    assert capsys.readouterr().err == "\rletters: 1 of 1,000\n"
    monkeypatch.setenv("ATTNLAB_QUIET", "1")
    list(progress("abc", "letters"))
    assert capsys.readouterr().err == ""


def test_percent_shows_the_share_that_is_done(capsys, monkeypatch):
    with percent("work") as tell:
        tell(0.5)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    clock = types.SimpleNamespace(monotonic=iter(range(9)).__next__)
    monkeypatch.setattr("attnlab.teach._progress.time", clock)
    with pytest.raises(KeyboardInterrupt), percent("work") as tell:
        tell(0.5)
        raise KeyboardInterrupt
    err = capsys.readouterr().err
    assert err.endswith("work: 50 of 100\n") and err.count("\r") == 2
