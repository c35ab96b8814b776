"""notebooks/build.py on small sources: what it writes, what it refuses, what --check finds."""

import base64
import json
import re

import nbformat
import pytest

from notebook_build import build

FULL = '''
# %% [markdown] slideshow={"slide_type": "slide"}
# # A small notebook

# %% tags=["setup"]
import anywidget
import ipywidgets
import matplotlib.pyplot as plt
import traitlets

from attnlab.teach import call, claim, exercise, figure, predict, progress, require


@exercise("7.1", "Double", minutes=1, difficulty=1)
def double(answer):
    require(call(answer, 2) == 4, "not doubled: look again")


@exercise("7.2", "Count", minutes=1, difficulty=1)
def count(answer):
    require(answer == 4, "wrong count: look again")


def check(number, answer):
    return {"7.1": double, "7.2": count}[number](answer)


# %%
guess = predict("How much is `2 + 2`?", ["3", "4"], id="07-sum")
guess

# %%
guess.reveal(str(2 + 2), "Count.")
claim("The sum is four.", 2 + 2, equals=4, source="arithmetic")

# %%
class Bars(anywidget.AnyWidget):
    _esm = "export default { render({ model, el }) { el.append('bars'); } };"
    data = traitlets.Bytes().tag(sync=True)
    nested = traitlets.Dict().tag(sync=True)

    def __repr__(self):
        return "Bars()"


bars = Bars(data=b"old", nested={"b": b"1", "a": b"2"})
slider = ipywidgets.IntSlider(description="n")
ipywidgets.VBox([slider, bars])

# %%
bars.data = bytes(range(256))
for i in progress(range(100), "counting"):
    print(i, flush=True)

# %%
fig, ax = plt.subplots(figsize=(1, 1))
ax.plot([0, 1])
figure(fig, alt="A rising line.")

# %% [markdown]
# Again the same text.

# %% tags=["exercise"]
def twice(x):
    """Twice x."""
    # BEGIN SOLUTION
    y = x
    return x + y  # ```
    # END SOLUTION


# %%
check("7.1", twice)

# %% [markdown] tags=["hint"]
# Add.

# %% [markdown] tags=["hint"]
# `x + x`

# %% [markdown]
# Again the same text.

# %% tags=["exercise"]
# BEGIN SOLUTION
# BLANK: answer = ...  # how many?
answer = 4
# END SOLUTION

# %%
check("7.2", answer)
'''
HINT = "<details>\n<summary><b>{}</b></summary>\n\n{}\n\n</details>"
STATE = "application/vnd.jupyter.widget-state+json"


def write(folder, text, name="07-small"):
    (folder / "src").mkdir(exist_ok=True)
    path = folder / "src" / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with FULL built in it, and the bytes of a first and of a second build."""
    folder = tmp_path_factory.mktemp("notebooks")
    write(folder, FULL)
    texts = []
    for _ in range(2):
        assert build.main([], folder) == 0
        texts.append((folder / "07-small.ipynb").read_bytes())
    return folder, texts


@pytest.fixture
def notebook(built):
    return nbformat.reads(built[1][0].decode(), as_version=4)


def cell_with(notebook, text):
    return next(cell for cell in notebook.cells if text in cell.source)


def test_two_builds_give_the_same_bytes(built):
    first, second = built[1]
    assert first == second


def test_solutions_are_blanked_and_folded_after_the_hints(notebook):
    assert not any("SOLUTION" in cell.source or "BLANK" in cell.source for cell in notebook.cells)
    start = notebook.cells.index(cell_with(notebook, "def twice"))
    exercise, check, hint1, hint2, solution, _, assignment, *_, last = notebook.cells[start:]
    assert exercise.source == (
        'def twice(x):\n    """Twice x."""\n    raise NotImplementedError("your code here")'
    )
    assert check.source == 'check("7.1", twice)'
    assert hint1.source == HINT.format("Hint 1", "Add.")
    assert hint2.source == HINT.format("Hint 2", "`x + x`")
    code = 'def twice(x):\n    """Twice x."""\n    y = x\n    return x + y  # ```'
    assert solution.source == HINT.format("Solution", f"````python\n{code}\n````")
    assert assignment.source == "answer = ...  # how many?"
    assert last.source == HINT.format("Solution", "```python\nanswer = 4\n```")
    assert solution.metadata.slideshow.slide_type == hint1.metadata.slideshow.slide_type == "skip"


def test_stored_is_what_run_all_gives_a_student(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for number in ("7.1", "7.2"):
        (output,) = cell_with(notebook, f'check("{number}"').outputs
        assert output.data["text/plain"].startswith(f"✏️ Exercise {number}: not attempted yet")
    veil, reveal, card = cell_with(notebook, "guess.reveal").outputs
    assert not any(veil.data.values())  # see build.veil
    assert reveal.data["text/plain"].startswith("No prediction made (that is fine in Run All).")
    assert card.data["text/plain"].startswith("✔ holds: The sum is four.")
    _, bar, printed = cell_with(notebook, "progress(range").outputs
    assert bar.data["text/plain"] == "counting: 100 of 100" and "progress" not in str(bar.data)
    assert printed.text == "".join(f"{i}\n" for i in range(100))  # in one piece
    *_, image = cell_with(notebook, "fig, ax").outputs
    assert image.metadata["image/png"]["alt"] == "A rising line."
    assert 'alt="A rising line."' in image.data["text/html"]
    png = base64.b64decode(image.data["image/png"])
    assert png.startswith(b"\x89PNG") and b"matplotlib" not in png.lower()
    assert 'tags": [' in json.dumps(notebook.cells[1].metadata)  # metadata pass through
    assert notebook.cells[0].metadata.slideshow.slide_type == "slide"


def test_widget_state_is_whole_and_its_ids_resolve(notebook):
    state = notebook.metadata.widgets[STATE]["state"]
    used = set(re.findall(r'IPY_MODEL_(\w+)|"model_id": "(\w+)"', json.dumps(notebook)))
    used = {a or b for a, b in used}
    assert used and used <= set(state)
    (bars,) = (m for m in state.values() if m["state"].get("_anywidget_id", "").endswith("Bars"))
    buffers = {tuple(b["path"]): base64.b64decode(b["data"]) for b in bars["buffers"]}
    expected = {("data",): bytes(range(256)), ("nested", "a"): b"2", ("nested", "b"): b"1"}
    assert buffers == expected


def test_nothing_of_this_machine_is_stored(notebook):
    assert {k: v for k, v in notebook.metadata.items() if k != "widgets"} == build.METADATA
    assert not any("execution" in cell.metadata for cell in notebook.cells)


def test_ids_are_unique_and_stay_when_a_cell_is_inserted(tmp_path, notebook):
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    more = FULL.replace("# %%\nguess = ", "# %% [markdown]\n# New.\n\n# %%\nguess = ")
    cells = build.assemble(write(tmp_path, more), student=True).cells
    assert set(ids) < {cell.id for cell in cells}
    assert len(cells) == len(ids) + 1


def test_the_solved_version_holds_the_solution(tmp_path):
    cells = build.assemble(write(tmp_path, FULL), student=False).cells
    assert any(cell.source.endswith("    y = x\n    return x + y  # ```") for cell in cells)


# ---------------------------------------------------------------------------------------- --check


def check(folder, capsys):
    status = build.main(["--check"], folder)
    return status, capsys.readouterr().out


def test_check_accepts_what_was_built_and_an_empty_folder(built, tmp_path, capsys):
    assert check(built[0], capsys)[0] == 0
    (tmp_path / "src").mkdir()
    assert check(tmp_path, capsys)[0] == 0


def change(text, old, new):
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("# A small notebook", "# A small notebooc", "its source is not the source's"),
        ("x + x", "x - x", "its source is not the source's"),  # inside a hint
        ('"slide_type": "slide"', '"slide_type": "skip"', "its metadata is not the source's"),
        ('"python3"', '"python4"', "notebook metadata"),
        ('"execution_count": 2', '"execution_count": 9', "one run from top to bottom"),
        ("not attempted yet", "correct", None),
        ("✏️ Exercise 7.2", "✅ Exercise 7.2", "exercise 7.2 does not say ✏️"),
        ('"alt": "A rising line."', '"alt": ""', "without alt text"),
        ('"name": "stdout"', '"name": "stderr"', "wrote to stderr"),
        ("99\\\\n", "<a at 0x7f00>\\\\n", "another address"),
        ("99\\\\n", "/home/me/data\\\\n", "a path of this machine: /home/me"),
    ],
)
def test_check_finds_one_changed_place(built, tmp_path, capsys, old, new, found):
    text = built[1][0].decode()
    write(tmp_path, FULL)
    old, new = old.replace("\\\\", "\\"), new.replace("\\\\", "\\")
    (tmp_path / "07-small.ipynb").write_text(change(text, old, new), encoding="utf-8")
    status, out = check(tmp_path, capsys)
    if found is None:  # the words of an output are nbval's business
        assert status == 0
        return
    assert status == 1
    assert found in out and "07-small.ipynb" in out
    assert "python notebooks/build.py 07-small" in out


def test_check_finds_a_changed_solution_missing_outputs_and_strays(built, tmp_path, capsys):
    stored = nbformat.reads(built[1][0].decode(), as_version=4)
    write(tmp_path, FULL)
    target = tmp_path / "07-small.ipynb"
    assert "has not been built" in check(tmp_path, capsys)[1]
    for text in ("", "{}"):
        target.write_text(text)
        status, out = check(tmp_path, capsys)
        assert status == 1 and "not a readable notebook" in out

    cell_with(stored, "guess.reveal").outputs = []
    nbformat.write(stored, target)
    assert "should hold an output and holds none" in check(tmp_path, capsys)[1]

    target.write_bytes(built[1][0])
    write(tmp_path, change(FULL, "answer = 4", "answer = 2 + 2"))
    status, out = check(tmp_path, capsys)
    assert status == 1 and "Solution" in out

    write(tmp_path, FULL)
    target.rename(tmp_path / "08-stray.ipynb")
    status, out = check(tmp_path, capsys)
    assert status == 1 and "08-stray.ipynb: has no source" in out


# ------------------------------------------------------------------------------- what it refuses

CHECK = """
class Line(str):
    __repr__ = str.__str__


def check(number, answer):
    try:
        return Line(f"{'✅' if answer() == 4 else '❌'} Exercise {number}: ...")
    except NotImplementedError:
        return Line(f"✏️ Exercise {number}: not attempted yet")


# %% tags=["exercise"]
def four():
    # BEGIN SOLUTION
    return 4
    # END SOLUTION


# %%
check("7.1", four)
"""


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("1 / 0", "(solved): cell `1 / 0` raised ZeroDivisionError: division by zero"),
        ("import sys; print('oh', file=sys.stderr)", "wrote to stderr: oh"),
        ("import warnings; warnings.warn('beware')", "beware"),
        ("object()", "<object at 0x"),
        (
            "import base64\nfrom IPython.display import Image\n"
            "Image(base64.b64decode('R0lGODlhAQABAAAAACwAAAAAAQABAAACADs='), format='gif')",
            "a picture without alt text",
        ),
        (CHECK.replace("return 4", "return 5"), "exercise 7.1 should be correct, but: ❌"),
        (
            CHECK.replace("    return 4\n", "    # BLANK: return 4\n    return 4\n"),
            "(as the student gets it): exercise 7.1 should be not attempted yet, but: ✅",
        ),
    ],
)
def test_build_refuses(tmp_path, capsys, cell, said):
    write(tmp_path, f"# %%\n{cell}\n")
    assert build.main([], tmp_path) == 1
    error = capsys.readouterr().err
    assert said in error and "07-small.py" in error
    assert not (tmp_path / "07-small.ipynb").exists()


EXERCISE = '# %% tags=["exercise"]\n# BEGIN SOLUTION\na = 1\n# END SOLUTION\n'


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (EXERCISE, "this exercise has no check"),
        (EXERCISE + "# %%\na + 1\n", "the code cell after an exercise is its check"),
        (EXERCISE.replace("END", "END OF"), "do not pair up"),
        (EXERCISE.replace(' tags=["exercise"]', ""), 'has the tag "exercise", and only such'),
        ('# %% tags=["exercise"]\na = 1\n', 'has the tag "exercise", and only such'),
        ('# %% tags=["hint"]\na = 1\n', "a hint is a markdown cell"),
        ('# %%\ncheck("7.1", 3)\n', "no exercise cell stands before this check"),
        (2 * (EXERCISE + '# %%\ncheck("7.1", a)\n'), "two exercises have the same number"),
    ],
)
def test_sources_that_make_no_sense(tmp_path, capsys, source, said):
    write(tmp_path, source)
    assert build.main([], tmp_path) == 1
    assert said in capsys.readouterr().err
    assert build.main(["--check"], tmp_path) == 1
    assert said in capsys.readouterr().out


def test_an_unknown_name(tmp_path, capsys):
    write(tmp_path, FULL)
    assert build.main(["08"], tmp_path) == 2
    assert "'08'" in capsys.readouterr().err


def test_an_exercise_may_use_imports_setup_and_earlier_solutions(tmp_path):
    source = FULL.replace("guess = predict", "import math; guess = predict")
    first, second = build.exercises(write(tmp_path, source))
    assert (first.number, second.number) == ("7.1", "7.2")
    assert "import math" in first.setup and "guess" not in first.setup
    assert "def double" in first.setup  # tagged "setup"
    assert "return x + y" in second.setup and "return x + y" not in first.setup


def test_what_answers_a_prediction_is_folded_until_it_is_run(tmp_path):
    source = tmp_path / "90-fold.py"
    source.write_text(
        '# %%\nguess = predict("?", ["a", "b"], id="x")\nguess\n'
        '# %%\nmeasured = 1\nprint(measured)\n# %%\nguess.reveal(measured, "so")\n'
        "# %%\nclaim()\n# %% [markdown]\n# text\n# %%\nafter = 2\n"
    )
    cells = build.assemble(source, student=True).cells
    folded = [cell.metadata.get("jupyter", {}) for cell in cells]
    out, all_ = {"outputs_hidden": True}, {"outputs_hidden": True, "source_hidden": True}
    assert folded == [{}, out, all_, all_, {}, {}]


def test_the_first_line_of_a_folded_output_gives_nothing_away():
    notebook = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell("print(7)", metadata={"jupyter": {"outputs_hidden": hidden}},
                                  outputs=[nbformat.v4.new_output("stream", text="7")])
        for hidden in (True, False)
    ])  # fmt: skip
    build.veil(notebook)
    folded, open_ = (cell.outputs for cell in notebook.cells)
    assert not any(folded[0].data.values()) and folded[1].text == "7"
    assert [o.output_type for o in open_] == ["stream"]


def test_an_older_script_is_drift_and_can_be_renewed(tmp_path, capsys):
    write(tmp_path, FULL)
    assert build.main([], tmp_path) == 0
    target = tmp_path / "07-small.ipynb"
    whole = target.read_bytes()
    notebook = nbformat.read(target, as_version=4)
    state = notebook.metadata.widgets[build.WIDGETS].state
    scripted = [model["state"] for model in state.values() if "_esm" in model["state"]]
    assert scripted
    scripted[0]["_esm"] += "// of yesterday"
    scripted[0]["_css"] += "/* too */"
    nbformat.write(notebook, target)
    capsys.readouterr()
    assert build.main(["--check"], tmp_path) == 1
    assert "older JavaScript" in capsys.readouterr().out
    assert build.main(["--scripts"], tmp_path) == 0
    assert target.read_bytes() == whole
    assert build.main(["--check"], tmp_path) == 0
