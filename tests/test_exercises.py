"""Every exercise: accepts right answers, names each wrong one, is never passed by accident."""

import ast

import pytest
import torch

from attnlab.exercises import find, of_notebook
from attnlab.teach import BLANK
from banks import all_banks
from notebook_build import SOURCES, build

BANKS = all_banks()
EXERCISES = {e.number: e for source in SOURCES for e in build.exercises(source)}
RIGHT = [(n, i) for n, bank in BANKS.items() for i in range(len(bank.right))]
WRONG = [(n, slug) for n, bank in BANKS.items() for slug in bank.wrong]


def check(number, answer):
    return find(number)(*(answer if isinstance(answer, tuple) else (answer,)))


def test_every_exercise_has_a_check_and_a_bank_and_the_other_way_round():
    notebooks = {int(source.stem[:2]) for source in SOURCES}
    checks = {number for notebook in notebooks for number in of_notebook(notebook)}
    assert set(EXERCISES) == checks == set(BANKS)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_has_three_exercises_with_two_hints_each(source):
    mine = [n for n in EXERCISES if int(n.split(".")[0]) == int(source.stem[:2])]
    assert mine == sorted(mine, key=lambda n: int(n.split(".")[1])), "numbered in order"
    if int(source.stem[:2]) > 0:  # 00 is the tour
        assert len(mine) >= 3
    cells = build.read_source(source).cells
    hints = sum("hint" in build.tags(cell) for cell in cells)
    assert hints >= 2 * len(mine)


def in_namespace(number, *, solved):
    """What the check of the notebook itself says, run after no more than an exercise may use."""
    exercise = EXERCISES[number]
    answer = build.solved(exercise.source) if solved else build.blank(exercise.source)
    namespace = {"__name__": "__main__"}
    exec(exercise.setup, namespace)
    exec(answer, namespace)
    *before, last = ast.parse(exercise.check).body
    exec(compile(ast.Module(before, []), "check", "exec"), namespace)
    return eval(compile(ast.Expression(last.value), "check", "eval"), namespace)


@pytest.mark.parametrize("number", EXERCISES)
def test_the_solution_passes_and_the_blank_is_not_attempted(number):
    assert in_namespace(number, solved=True).status == "correct"
    assert in_namespace(number, solved=False).status == "not attempted"


@pytest.mark.parametrize("number", BANKS)
def test_a_bank_has_two_right_answers_and_some_wrong_ones(number):
    assert len(BANKS[number].right) >= 2 and len(BANKS[number].wrong) >= 5


@pytest.mark.parametrize(("number", "i"), RIGHT)
def test_right_answers_pass(number, i):
    assert check(number, BANKS[number].right[i]).status == "correct"


@pytest.mark.parametrize(("number", "slug"), WRONG)
def test_wrong_answers_are_refused_by_the_message_meant_for_them(number, slug):
    result = check(number, BANKS[number].wrong[slug])
    assert (result.status, result.mistake) == ("mistake", slug.split("#")[0]), result
    assert "\n" not in repr(result)


def raises_blank(*args, **kwargs):
    raise NotImplementedError(BLANK)


def first_tensor(*args, **kwargs):
    tensors = [a for a in [*args, *kwargs.values()] if isinstance(a, torch.Tensor)]
    return tensors[0].clone() if tensors else None


def given_back(position):
    """An answer that returns the argument at this position, whatever it is."""

    def answer(*args, **kwargs):
        given = [*args, *kwargs.values()]
        value = given[position] if position < len(given) else None
        return value.clone() if isinstance(value, torch.Tensor) else value

    return answer


def like_each(make):
    """An answer of one tensor made like the last tensor argument: another shape than the first."""

    def answer(*args, **kwargs):
        tensors = [a for a in [*args, *kwargs.values()] if isinstance(a, torch.Tensor)]
        return make(tensors[-1].float()) if tensors else None

    return answer


def first_part(answer):
    return answer[0] if isinstance(answer, tuple) else answer


FUNCTIONS = {
    "blank": raises_blank,
    "nothing": lambda *args, **kwargs: None,
    "zero": lambda *args, **kwargs: 0.0,
    "one": lambda *args, **kwargs: 1,
    "true": lambda *args, **kwargs: True,
    "empty text": lambda *args, **kwargs: "",
    "empty list": lambda *args, **kwargs: [],
    "a zero tensor": lambda *args, **kwargs: torch.zeros(()),
    "zeros like the input": lambda *args, **kwargs: torch.zeros_like(first_tensor(*args, **kwargs)),
    "ones like the input": lambda *args, **kwargs: torch.ones_like(first_tensor(*args, **kwargs)),
    "a copy of the input": first_tensor,
    "the first argument": given_back(0),
    "the second argument": given_back(1),
    "the last argument": given_back(-1),
    "random numbers": like_each(torch.randn_like),
    "zeros like the last tensor": like_each(torch.zeros_like),
    "ones like the last tensor": like_each(torch.ones_like),
    "the arguments": lambda *args, **kwargs: args,
    "no function": 3,
}
VALUES = {
    "blank": ...,
    "nothing": None,
    "zero": 0,
    "one": 1,
    "true": True,
    "empty text": "",
    "empty list": [],
    "an array of ones": torch.ones(4),
    "a zero tensor": torch.zeros(()),
    "NaN": float("nan"),
    "a function": lambda: None,
}
LAZY = [
    (number, name)
    for number, bank in BANKS.items()
    for name in (FUNCTIONS if callable(first_part(bank.right[0])) else VALUES)
]


@pytest.mark.parametrize(("number", "name"), LAZY)
def test_blanks_constants_and_copies_never_pass(number, name):
    right = BANKS[number].right[0]
    parts = right if isinstance(right, tuple) else (right,)
    lazy = [(FUNCTIONS if callable(p) else VALUES).get(name, None) for p in parts]
    one_of_them = [(*parts[:i], lazy[i], *parts[i + 1 :]) for i in range(len(parts))]
    for answers in (lazy, *one_of_them):
        result = find(number)(*answers)
        assert result.status == ("not attempted" if name == "blank" else result.status)
        assert result.status != "correct"
        assert "\n" not in repr(result)


ONE_INPUT = {"1.3", "2.1", "5.2", "6.3", "7.1", "8.1", "11.1", "13.1", "14.4"}


@pytest.mark.parametrize("number", [n for n in BANKS if n not in ONE_INPUT])
def test_the_first_right_result_given_again_and_again_does_not_pass(number):
    """Each check asks for more than one input: an answer may not be made for one of them."""
    right = BANKS[number].right[0]
    parts = right if isinstance(right, tuple) else (right,)

    def once(function):
        kept = []

        def answer(*args, **kwargs):
            kept.append(function(*args, **kwargs) if not kept else kept[0])
            return kept[0]

        return answer

    for i in range(len(parts)):
        result = find(number)(*parts[:i], once(parts[i]), *parts[i + 1 :])
        assert result.status != "correct"


@pytest.mark.parametrize("number", EXERCISES)
def test_the_heading_gives_the_difficulty_and_minutes_of_the_check(number):
    exercise = find(number)
    stars = "●" * exercise.difficulty + "○" * (3 - exercise.difficulty)
    source = next(s for s in SOURCES if int(s.stem[:2]) == int(number.split(".")[0]))
    headings = [line for line in source.read_text(encoding="utf-8").splitlines()
                if line.startswith(f"# ### Exercise {number}: ")]  # fmt: skip
    assert len(headings) == 1
    assert headings[0].endswith(f"&nbsp; ({stars}, {exercise.minutes} minutes)")


def test_there_are_at_least_sixty_with_five_wrong_answers_each():
    assert len(EXERCISES) >= 60
    assert min(len(bank.wrong) for bank in BANKS.values()) >= 5
