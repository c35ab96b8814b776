"""Build the notebooks that students open from the sources that authors edit.

    python notebooks/build.py                build every notebook
    python notebooks/build.py 01 02          build those whose name starts so
    python notebooks/build.py --check        run nothing: are the notebooks those of the sources?
    python notebooks/build.py --scripts      run nothing: renew the explorers' JavaScript and CSS

notebooks/src/NN-name.py (jupytext percent format) becomes notebooks/NN-name.ipynb, after two runs:
the solved version, in which every check must say ✅, and the student's version, in which every
check must say ✏️; the outputs of the second are stored. Two builds of one source give the same
bytes. What the cells of a source may carry:

tags=["exercise"]   the student gets `raise NotImplementedError("your code here")` for what stands
                    between `# BEGIN SOLUTION` and `# END SOLUTION`, or the text of the region's
                    `# BLANK: ...` lines where there are any; the cell after it is the check
tags=["hint"]       a markdown cell, folded away as "Hint 1", "Hint 2", ... of its exercise
slideshow={"slide_type": "slide"}  and all other metadata pass through

The solution is folded away after the check and the hints that follow it. What answers a prediction,
from `predict(...)` to the cell with its `.reveal(...)` and on to the next text, is stored folded.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import importlib
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

HERE = Path(__file__).resolve().parent
BLANK = "your code here"
METADATA = {  # nothing that differs between two machines, such as Python's version
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"},
}
REGION = re.compile(
    r"^(?P<indent>[ \t]*)# BEGIN SOLUTION[ \t]*\n(?P<body>.*?)^[ \t]*# END SOLUTION[ \t]*(?:\n|\Z)",
    re.DOTALL | re.MULTILINE,
)
BLANK_LINE = re.compile(r"^[ \t]*# BLANK: ?(.*)\n?", re.MULTILINE)
CHECK = re.compile(r"""\bcheck\(\s*["'](\d+\.\d+)["']""")
ASKS = re.compile(r"\bpredict\(")
SHOWS = {"check", "claim", "figure", "predict"}  # calls that leave an output
MACHINE_PATH = re.compile(
    rf"{re.escape(str(HERE.parent))}|(?<![\w.])(?:/(?:home|root|tmp|Users)/|[A-Z]:\\Users\\)[\w.-]+"
)
WIDGETS = "application/vnd.jupyter.widget-state+json"
VIEW = "application/vnd.jupyter.widget-view+json"


class BuildError(Exception):
    """A source that cannot be built; the message names the cell and says what to do."""


# ------------------------------------------------------------------------ from source to notebook


def blank(source: str) -> str:
    """The cell as the student gets it."""

    def replace(region: re.Match) -> str:
        lines = BLANK_LINE.findall(region["body"]) or [f'raise NotImplementedError("{BLANK}")']
        return "".join(f"{region['indent']}{line}\n" for line in lines)

    return REGION.sub(replace, source).rstrip()


def solved(source: str) -> str:
    """The cell with its solution, without the marks around it."""
    return REGION.sub(lambda region: BLANK_LINE.sub("", region["body"]), source).rstrip()


def fold(summary: str, text: str) -> str:
    return f"<details>\n<summary><b>{summary}</b></summary>\n\n{text.strip()}\n\n</details>"


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def first_line(cell) -> str:
    """How messages name a cell; of a folded one its summary, "Hint 1"."""
    lines = (re.sub(r"</?(details|summary|b)>", "", line) for line in cell.source.splitlines())
    return next((line.strip() for line in lines if line.strip()), "(empty)")


def read_source(path: Path):
    """The source as a notebook with the solution regions still in it, and checked for sense."""
    notebook = jupytext.read(path, fmt="py:percent")
    notebook.cells = [cell for cell in notebook.cells if cell.source.strip()]
    for cell in notebook.cells:
        cell.metadata.pop("lines_to_next_cell", None)
        cell.metadata.pop("lines_to_end_of_cell_marker", None)
        marks = re.findall(r"^\s*# (BEGIN|END) SOLUTION\s*$", cell.source, re.MULTILINE)
        regions = len(REGION.findall(cell.source))
        where = f"{path.name}, cell `{first_line(cell)}`"
        if len(marks) != 2 * regions:
            raise BuildError(f"{where}: # BEGIN SOLUTION and # END SOLUTION do not pair up")
        if bool(regions) != ("exercise" in tags(cell)):
            raise BuildError(
                f'{where}: a cell with a solution region has the tag "exercise", and only such'
            )
        if regions and cell.cell_type != "code":
            raise BuildError(f"{where}: an exercise is a code cell")
        if "hint" in tags(cell) and cell.cell_type != "markdown":
            raise BuildError(f"{where}: a hint is a markdown cell")
    return notebook


@dataclass(frozen=True)
class ExerciseCells:
    """One exercise of a source: its number, its cell, its check, and the code it may rely on."""

    number: str
    source: str
    check: str
    setup: str


def exercises(path: Path) -> list[ExerciseCells]:
    """The exercises of a source, in order.

    `setup` is what an exercise may use: the imports of all cells before it, the cells tagged
    "setup", and the exercises before it, solved.
    """
    found, setup, open_cell = [], [], None
    for cell in read_source(path).cells:
        if cell.cell_type != "code":
            continue
        where = f"{path.name}, cell `{first_line(cell)}`"
        numbers = CHECK.findall(cell.source)
        if open_cell is not None:
            if len(numbers) != 1:
                raise BuildError(f'{where}: the code cell after an exercise is its check("N.M", …)')
            found.append(ExerciseCells(numbers[0], open_cell.source, cell.source, "\n".join(setup)))
            setup.append(solved(open_cell.source))
        elif numbers:
            raise BuildError(f"{where}: no exercise cell stands before this check")
        open_cell = cell if "exercise" in tags(cell) else None
        if open_cell is None:
            setup.append(cell.source if "setup" in tags(cell) else _imports(cell.source))
    if open_cell is not None:
        raise BuildError(f"{path.name}, cell `{first_line(open_cell)}`: this exercise has no check")
    numbers = [e.number for e in found]
    if len(set(numbers)) < len(numbers):
        raise BuildError(f"{path.name}: two exercises have the same number")
    return found


def _imports(source: str) -> str:
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a line magic: such a cell has nothing an exercise could rely on
        return ""
    return "\n".join(ast.unparse(n) for n in body if isinstance(n, (ast.Import, ast.ImportFrom)))


def fold_answers(cells: list) -> None:
    """Fold what would answer a prediction, until the student runs it.

    That is the outputs of the code cells between a prediction and its reveal, and from the reveal
    to the next text or prediction the cells as a whole. JupyterLab unfolds the outputs of a cell
    that is run.
    """
    asked = revealed = False
    for cell in cells:
        if cell.cell_type != "code":
            asked, revealed = asked and not revealed, False
            continue
        if ASKS.search(cell.source):
            asked, revealed = True, False
        elif asked:
            revealed = revealed or ".reveal(" in cell.source
            hide = {"outputs_hidden": True} | ({"source_hidden": True} if revealed else {})
            cell.metadata["jupyter"] = hide


def assemble(path: Path, *, student: bool):
    """The notebook of a source, without outputs: as the student gets it, or solved."""
    exercises(path)  # refuses a source whose exercises and checks do not fit together
    cells, hints, solution, check_seen = [], 0, None, False
    taken: dict[str, int] = {}

    def add(kind: str, text: str, metadata: dict, name: str) -> None:
        # named by content: inserting a cell leaves the names of all others as they are
        taken[name] = taken.get(name, 0) + 1
        name += f"-{taken[name]}" if taken[name] > 1 else ""
        new = nbformat.v4.new_code_cell if kind == "code" else nbformat.v4.new_markdown_cell
        cells.append(new(text, id=name, metadata=metadata))

    def add_solution() -> None:
        fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", solution[0]))])
        text = fold("Solution", f"{fence}python\n{solution[0]}\n{fence}")
        add("markdown", text, {"slideshow": {"slide_type": "skip"}}, solution[1] + "-solution")

    for cell in read_source(path).cells:
        name = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        metadata = copy.deepcopy(dict(cell.metadata))
        is_hint, text = "hint" in tags(cell), cell.source
        if solution and check_seen and not is_hint:
            add_solution()
            solution = None
        if "exercise" in tags(cell):
            solution, hints, check_seen = (solved(text), name), 0, False
            text = blank(text) if student else solution[0]
        elif cell.cell_type == "code":
            check_seen = True
        if is_hint:
            hints += 1
            text = fold(f"Hint {hints}", text)
            metadata.setdefault("slideshow", {"slide_type": "skip"})
        add(cell.cell_type, text, metadata, name)
    if solution:
        add_solution()
    fold_answers(cells)
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=copy.deepcopy(METADATA))
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


# ---------------------------------------------------------------------------------------- running


def run(notebook, cwd: Path, timeout: int) -> None:
    """Execute `notebook` in place, with this tree's attnlab, and keep the state of its widgets."""
    environment = dict(os.environ, PYTHONHASHSEED="0", ATTNLAB_PROGRESS="off")
    paths = [str(HERE.parent), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(p for p in paths if p)
    environment["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # the kernel's own warning on stderr
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(cwd)}},
        store_widget_state=True,
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],  # the kernel's own remarks are not the notebook's
    )
    started = ["the start of the kernel"]
    client.on_cell_start = lambda cell, cell_index: started.append(f"cell `{first_line(cell)}`")
    try:
        client.execute(env=environment)
    except CellExecutionError as error:
        message = " ".join(f"{error.ename}: {error.evalue}".split())
        raise BuildError(f"{started[-1]} raised {message}") from None
    except CellTimeoutError:
        raise BuildError(f"{started[-1]} took longer than {timeout} s") from None
    except DeadKernelError:
        raise BuildError(f"{started[-1]}: the kernel died (out of memory?)") from None
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)


def joined(outputs: list) -> list:
    """Printed text that arrived in several pieces, where no two runs cut alike, as one piece."""
    result = []
    for output in outputs:
        last = result[-1] if result else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            result.append(output)
    return result


def verdicts(notebook) -> dict[str, str]:
    """What each check said, by the number of its exercise."""
    said = {}
    for cell in notebook.cells:
        for number in CHECK.findall(cell.source) if cell.cell_type == "code" else ():
            texts = [o.get("data", {}).get("text/plain", "") for o in cell.outputs]
            said[number] = next((t for t in texts if f"Exercise {number}:" in t), "nothing")
    return said


def inspect_outputs(notebook) -> None:
    """Refuse outputs that a student should not see or that differ from build to build."""
    for cell in notebook.cells:
        where = f"cell `{first_line(cell)}`"
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr":
                raise BuildError(f"{where} wrote to stderr: {output.text.strip()[:300]}")
            data = output.get("data", {})
            for kind in data:
                alt = output.metadata.get(kind, {}).get("alt", "")
                if kind.startswith("image/") and not str(alt).strip():
                    raise BuildError(
                        f"{where} shows a picture without alt text: "
                        'use attnlab.teach.figure(fig, alt="…")'
                    )
            text = output.get("text", "") + "".join(
                v for k, v in data.items() if k.startswith("text/") and isinstance(v, str)
            )
            text = re.sub(r"data:image/\w+;base64,[\w+/=]*", "", text)
            if found := re.search(r"<[^<>\n]* at 0x[0-9a-f]+>", text):
                raise BuildError(
                    f"{where} shows {found[0]}, another address in every run: "
                    "end the cell with something worth showing, or with a semicolon"
                )
            if found := MACHINE_PATH.search(text):
                raise BuildError(f"{where} shows a path of this machine: {found[0]}")


def veil(notebook) -> None:
    """An empty output before those that are folded: JupyterLab shows the first line of the first
    output in their place, and that may be the answer to a prediction."""
    for cell in notebook.cells:
        if cell.metadata.get("jupyter", {}).get("outputs_hidden") and cell.get("outputs"):
            nothing = {"text/html": "", "text/plain": ""}
            cell.outputs.insert(0, nbformat.v4.new_output("display_data", data=nothing))


def settle(notebook, name: str) -> None:
    """Take out what differs between two runs: the kernel's version, the random ids of widgets."""
    widgets = notebook.metadata.get("widgets", {}).get(WIDGETS)
    notebook.metadata = nbformat.from_dict(copy.deepcopy(METADATA))
    if not widgets or not widgets["state"]:
        return
    state = widgets["state"]
    shown = [
        output["data"][VIEW]["model_id"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if VIEW in output.get("data", {})
    ]
    renamed = {}
    for model in [*shown, *state]:
        if model not in renamed:
            new = hashlib.sha256(f"{name} {len(renamed)}".encode()).hexdigest()[:32]
            renamed[model] = new
    pattern = re.compile("|".join(map(re.escape, renamed)))

    def rename(value):
        if isinstance(value, str):
            return pattern.sub(lambda m: renamed[m[0]], value)
        if isinstance(value, dict):
            return {rename(k): rename(v) for k, v in value.items()}
        if isinstance(value, list):
            return [rename(v) for v in value]
        return value

    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if VIEW in output.get("data", {}):
                output["data"][VIEW] = nbformat.from_dict(rename(output["data"][VIEW]))
    state = rename(state)
    for model in state.values():
        model.get("buffers", []).sort(key=lambda buffer: json.dumps(buffer["path"]))
    notebook.metadata["widgets"] = nbformat.from_dict({WIDGETS: {**widgets, "state": state}})


def build(source: Path, target: Path, timeout: int = 600) -> None:
    """Run a source solved and as the student gets it; write the second with its outputs.

    Raises BuildError, and leaves `target` as it was, if a cell raises or writes to stderr, a
    check does not say what it should, or an output could not be the same in the next build.
    """
    for student, sign, meaning in ((False, "✅", "correct"), (True, "✏️", "not attempted yet")):
        version = "as the student gets it" if student else "solved"
        notebook = assemble(source, student=student)
        try:
            run(notebook, target.parent, timeout)
            for number, line in verdicts(notebook).items():
                if not line.startswith(sign):
                    raise BuildError(f"exercise {number} should be {meaning}, but: {line}")
            inspect_outputs(notebook)
        except BuildError as error:
            raise BuildError(f"{source.name} ({version}): {error}") from None
    settle(notebook, source.stem)
    veil(notebook)
    nbformat.validate(notebook)
    text = nbformat.writes(notebook).rstrip("\n") + "\n"
    target.write_text(text, encoding="utf-8", newline="\n")


# --------------------------------------------------------------------------------------- checking


def old_scripts(notebook):
    """Of each widget whose stored JavaScript or CSS is not attnlab's present one: its name, its
    stored state, and what should stand there."""
    state = notebook.metadata.get("widgets", {}).get(WIDGETS, {}).get("state", {})
    for model in state.values():
        module, _, name = model["state"].get("_anywidget_id", "").rpartition(".")
        if module.partition(".")[0] != "attnlab":
            continue
        widget = getattr(importlib.import_module(module), name)
        now = {part: str(getattr(widget, part)) for part in ("_esm", "_css")}
        if any(model["state"].get(part) != text for part, text in now.items()):
            yield name, model["state"], now


def renew_scripts(target: Path) -> int:
    """Put attnlab's present JavaScript and CSS into a built notebook, as a build would, without
    running it; number of widgets. What explorers compute must not have changed."""
    notebook = nbformat.read(target, as_version=4)
    count = 0
    for _, stored, now in old_scripts(notebook):
        stored.update(now)
        count += 1
    if count:
        text = nbformat.writes(notebook).rstrip("\n") + "\n"
        target.write_text(text, encoding="utf-8", newline="\n")
    return count


def drift(source: Path, target: Path) -> list[str]:
    """How `target` differs from a build of `source`, as far as can be told without running it."""
    want = assemble(source, student=True)
    if not target.exists():
        return ["it has not been built"]
    try:
        have = nbformat.read(target, as_version=4)
        nbformat.validate(have)
    except (ValueError, nbformat.ValidationError):  # no JSON, or no notebook
        return ["it is not a readable notebook"]
    found = []
    for i, (old, new) in enumerate(zip(have.cells, want.cells, strict=False)):
        for part in ("cell_type", "source", "metadata", "id"):
            if old.get(part) != new.get(part):
                found.append(f"cell {i} (`{first_line(new)}`): its {part} is not the source's")
                break
        if len(found) == 3:  # after an insertion every cell differs: the first ones tell
            break
    if len(have.cells) != len(want.cells):
        found.append(f"it has {len(have.cells)} cells, the source gives {len(want.cells)}")
    try:
        old = sorted({name for name, *_ in old_scripts(have)})
    except (ImportError, AttributeError) as error:
        old = []
        found.append(f"it holds a widget that attnlab does not have ({error})")
    if old:
        found.append(
            f"it holds an older JavaScript or CSS of {', '.join(old)}; mended without a run by "
            "python notebooks/build.py --scripts"
        )
    metadata = {k: v for k, v in have.metadata.items() if k != "widgets"}
    if metadata != METADATA:
        found.append("its notebook metadata are not those of a build")
    code = [c for c in have.cells if c.cell_type == "code" and c.source.strip()]
    if [c.execution_count for c in code] != list(range(1, len(code) + 1)):
        found.append("its outputs are not those of one run from top to bottom")
    for cell in code:
        where = f"cell `{first_line(cell)}`"
        if any(o.output_type == "error" for o in cell.outputs):
            found.append(f"{where} holds an error")
        if _shows(cell.source) and not cell.outputs:
            found.append(f"{where} should hold an output and holds none")
    found += [
        f"exercise {number} does not say ✏️ in the stored output"
        for number, line in verdicts(have).items()
        if not line.startswith("✏️")
    ]
    try:
        inspect_outputs(have)
    except BuildError as error:
        found.append(str(error))
    return found


def _shows(source: str) -> bool:
    """True if a statement of the cell itself (not of a function in it) calls what leaves output."""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return False
    for statement in body:
        call = statement.value if isinstance(statement, ast.Expr) else None
        if isinstance(call, ast.Call):
            name = getattr(call.func, "id", getattr(call.func, "attr", ""))
            if name in SHOWS | {"reveal"}:
                return True
    return False


def check(sources: list[Path], folder: Path) -> list[str]:
    """Every drift between the sources and the notebooks in `folder`, one line each."""
    lines = []
    for source in sources:
        try:
            found = drift(source, folder / f"{source.stem}.ipynb")
        except BuildError as error:
            lines.append(str(error))
            continue
        if found:
            lines += [f"{source.stem}.ipynb: {line}" for line in found]
            lines.append(f"  mend it: python notebooks/build.py {source.stem}")
    return lines


def main(arguments: list[str] | None = None, folder: Path = HERE) -> int:
    parser = argparse.ArgumentParser(description="Build notebooks/*.ipynb from notebooks/src/*.py")
    parser.add_argument("names", nargs="*", help="how the names start (default: all)")
    parser.add_argument("--check", action="store_true", help="run nothing, report what drifted")
    parser.add_argument("--scripts", action="store_true",
                        help="run nothing, renew the stored JavaScript and CSS")  # fmt: skip
    parser.add_argument("--timeout", type=int, default=600, help="seconds for one cell")
    options = parser.parse_args(arguments)

    every = sorted((folder / "src").glob("[0-9]*.py"))
    sources = [s for s in every if not options.names or s.stem.startswith(tuple(options.names))]
    for name in options.names:
        if not any(s.stem.startswith(name) for s in every):
            print(f"no source in notebooks/src starts with {name!r}", file=sys.stderr)
            return 2
    if options.check:
        lines = check(sources, folder)
        if not options.names:
            known = {s.stem for s in every}
            lines += [
                f"{p.name}: has no source in notebooks/src; write one, or delete it"
                for p in sorted(folder.glob("*.ipynb"))
                if p.stem not in known
            ]
        print("\n".join(lines) or f"{len(sources)} notebooks are those of their sources")
        return 1 if lines else 0
    if options.scripts:
        for source in sources:
            count = renew_scripts(folder / f"{source.stem}.ipynb")
            print(f"{source.stem}: {count} renewed")
        return 0
    failed = False
    for source in sources:
        print(f"building {source.stem} …", flush=True)
        try:
            build(source, folder / f"{source.stem}.ipynb", options.timeout)
        except BuildError as error:
            failed = True
            print(f"failed: {error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
