"""Publish the notebooks as web pages that need neither Python nor a network.

    python notebooks/publish.py DIR               pages and slides, into DIR
    python notebooks/publish.py DIR 01 02         of the notebooks whose name starts so
    python notebooks/publish.py DIR --teacher     and, into DIR/teacher, the solved ones

Every page is one file. It shows a notebook as a student gets it, run from top to bottom: exercises
are blank, hints, solutions and the answers to predictions are folded. The notebook lies beside it.
The button "Slides", or `#slide-1` after its address, shows the same page as slides: arrow keys turn
them, PageDown and PageUp (a presenter's buttons) go through long ones first, "c" hides the code,
Escape goes back. The teacher's pages hold the solutions in place of the blanks, unfolded answers
and the notes; beside them lie the solved notebooks.

Explorers answer from pictures that are computed here (page/bake.py) and stored in the page
(page/page.js reads them); formulas become MathML. Each notebook is run, once if the built one is
that of its source, which then is the student's.
"""

from __future__ import annotations

import argparse
import copy
import html
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

import build
import nbformat
from build import VIEW, WIDGETS, BuildError

HERE = Path(__file__).resolve().parent
PARTS = HERE / "page"
MOST_BYTES = 3_000_000  # of one page
MOST_TABLE = 1_400_000  # of one explorer
NOTHING_PREDICTED = "<div>No prediction made (that is fine in Run All).</div>"
ABOUT = {
    "student": "The notebook as it ran. Predictions and explorers work here without Python; "
    "explorers show pictures that were computed beforehand. Exercises are for the notebook.",
    "teacher": "For teachers: the solved notebook as it ran, answers unfolded.",
}
KINDS = ("slide", "subslide", "fragment", "skip", "notes")  # of cells, as slides
NOT_OURS = re.compile(  # of a widget's state: what ipywidgets and anywidget keep for themselves
    r"layout$|tabbable$|tooltip$|_model_|_view_|_dom_classes$|_anywidget_id$"
)
LICENCE = "Text and figures: CC BY 4.0. Code: MIT."

# -------------------------------------------------------------------------------------- the parts


def markdown(source: str) -> str:
    """A markdown cell as HTML, formulas as MathML, links to notebooks as links to pages."""
    from math_core import LatexError, LatexToMathML
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    converter = LatexToMathML()

    def formula(latex: str, block: bool) -> str:
        try:
            return converter.convert_with_local_state(latex, displaystyle=block)
        except LatexError as error:
            raise BuildError(f"the formula {latex!r} cannot be shown: {error}") from None

    class Renderer(IPythonRenderer):
        def inline_math(self, body):
            return formula(body, False)

        def block_math(self, body):
            return formula(body, True)

        def latex_environment(self, name, body):
            return formula(f"\\begin{{{name}}}{body}\\end{{{name}}}", True)

        def link(self, text, url, title=None):
            return super().link(text, re.sub(r"^([\w.-]+)\.ipynb(?=$|#)", r"\1.html", url), title)

    return MarkdownWithMath(renderer=Renderer(escape=False)).render(source)


def style() -> str:
    from pygments.formatters import HtmlFormatter

    light, dark = (
        HtmlFormatter(style=name).get_style_defs(".highlight")
        for name in ("default", "github-dark")
    )
    own = (PARTS / "page.css").read_text(encoding="utf-8")
    return f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n{own}"


def introduction(source: Path) -> dict[str, str]:
    """Title, question and minutes of a notebook, from its first cell."""
    text = build.read_source(source).cells[0].source
    title = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    question = re.search(r"\*\*(.+?)\*\*", text, re.DOTALL)
    minutes = re.findall(r"\*To (study|lecture):\*\s+(\d+\s+minutes)", text)
    return {
        "title": title[-1] if title else source.stem,
        "question": question[1] if question else "",
        "minutes": ", ".join(f"to {what}: {' '.join(long.split())}" for what, long in minutes),
    }


def widgets_of(notebook) -> tuple[dict, list[str]]:
    """State of the widgets that need no Python, by model id: explorers, which have tables, and
    predictions. And the ids of those that cells show, in order."""
    state = notebook.metadata.get("widgets", {}).get(WIDGETS, {}).get("state", {})
    state = {id: w for id, w in state.items() if {"_view", "recorded"} & _traits(w)}
    shown = [
        output["data"][VIEW]["model_id"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if VIEW in output.get("data", {})
    ]
    return state, [id for id in dict.fromkeys(shown) if id in state]


def embedded(notebook, tables: list[str]) -> str:
    """The scripts that page.js reads, and page.js. `tables` are those of the explorers shown."""
    state, shown = widgets_of(notebook)
    kinds, models, scripts = [], {}, []
    left = list(tables)
    for number, id in enumerate(shown):
        own, name = dict(state[id]["state"]), f"w{number}"
        kind = {"esm": own.pop("_esm"), "css": own.pop("_css", "")}
        if kind not in kinds:
            kinds.append(kind)
        own = {k: v for k, v in own.items() if not NOT_OURS.match(k)}
        if "recorded" in own:  # a prediction, as before the measurement
            own |= {"locked": False, "choice": -1, "recorded": -1}
        if "_view" in _traits(state[id]) and left:
            scripts.append(f'<script type="text/plain" id="table-{name}">{left.pop(0)}</script>')
        models[name] = {"kind": kinds.index(kind), "state": own}
    data = json.dumps({"kinds": kinds, "models": models}).replace("<", "\\u003c")
    scripts.append(f'<script type="application/json" id="widgets">{data}</script>')
    code = (PARTS / "page.js").read_text(encoding="utf-8")
    return "\n".join([*scripts, f'<script type="module">\n{code}</script>'])


def _traits(widget) -> set[str]:
    """Names of a saved widget's traits, the binary ones too."""
    return {*widget["state"], *(buffer["path"][0] for buffer in widget.get("buffers", []))}


def arrange(notebook, teacher: bool):
    """A copy for the template: what each cell is on a page, and widgets by their short names."""
    notebook = copy.deepcopy(notebook)
    _, shown = widgets_of(notebook)
    cells = []
    for cell in notebook.cells:
        kind = cell.metadata.get("slideshow", {}).get("slide_type", "")
        hidden = cell.metadata.get("jupyter", {})
        if teacher and cell.source.startswith(build.fold("Solution", "").split("\n\n")[0]):
            continue  # it stands in the exercise's own cell
        cell.metadata["page"] = {
            "opens": kind in ("slide", "subslide") and bool(cells),
            "classes": " ".join(["cell", *([kind] if kind in KINDS else []),
                                 *(["ask"] if build.ASKS.search(cell.source) else [])]),
            "fold": "What was measured" if hidden.get("source_hidden") else "",
            "fold_output": "What it shows: predict first"
            if hidden.get("outputs_hidden") and not hidden.get("source_hidden") else "",
        }  # fmt: skip
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/html" in data:
                data["text/html"] = data["text/html"].replace(NOTHING_PREDICTED, "")
            if VIEW in data:
                id = data[VIEW]["model_id"]
                if id in shown:
                    data[VIEW] = {"model_id": f"w{shown.index(id)}"}
                else:  # the page has its picture or text only
                    del data[VIEW]
        cells.append(cell)
    notebook.cells = cells
    # With it nbconvert would embed the state of all widgets; the filter looks for their ids.
    ids = {f"w{i}": {} for i in range(len(shown))}
    notebook.metadata["widgets"] = {WIDGETS: {"state": ids}}
    return notebook


def render(notebook, source: Path, tables: list[str], *, teacher: bool = False, links=()) -> str:
    """The page of an executed notebook."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        template_name=PARTS.name,
        extra_template_basedirs=[str(PARTS.parent)],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        filters={"markdown2html": markdown},
    )
    version = "teacher" if teacher else "student"
    page = {
        "title": introduction(source)["title"], "css": style(), "version": version,
        "about": ABOUT[version], "links": links, "licence": LICENCE, "name": source.stem,
    }  # fmt: skip
    text, _ = exporter.from_notebook_node(arrange(notebook, teacher), resources={"page": page})
    return text.replace("<!--widgets-->", embedded(notebook, tables))


def index(sources: list[Path], teacher: bool) -> str:
    """The page that leads to all others."""
    items = []
    for source in sources:
        about, address = introduction(source), f"{source.stem}.html"
        items.append(
            f'<li><h2><a href="{address}">{html.escape(about["title"])}</a></h2>'
            f"{markdown(about['question'])}"
            f'<p class="about">{html.escape(about["minutes"])} · '
            f'<a href="{address}#slide-1">slides</a> · '
            f'<a href="{source.stem}.ipynb" download>notebook</a></p></li>'
        )
    title = "Heads &amp; Positions" + (": for teachers" if teacher else "")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{style()}\n</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{title}</h1>\n<p>An interactive course on multi-head attention and positional "
        "encoding. Pages and slides need nothing but a browser; the notebooks run in the course's "
        'folder.</p>\n<ul class="index">\n' + "\n".join(items) + "\n</ul>\n</main>\n"
        f"<footer>{LICENCE}</footer>\n</body>\n</html>\n"
    )


# ---------------------------------------------------------------------------------------- the whole


def executed(source: Path, *, student: bool, timeout: int, most: int = 0):
    """The notebook after a run, and the tables of the explorers it shows, `most` bytes in all."""
    notebook = build.assemble(source, student=student)
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "tables.json"
        if most:
            code = (
                "import runpy as _runpy, json as _json, pathlib as _pathlib\n"
                f"_bake = _runpy.run_path({str(PARTS / 'bake.py')!r})\n"
                f"_tables = _bake['tables']({MOST_TABLE}, {most})\n"
                f"_pathlib.Path({str(found)!r}).write_text(_json.dumps(_tables))"
            )
            notebook.cells.append(nbformat.v4.new_code_cell(code))
        try:
            build.run(notebook, HERE, timeout)
        except BuildError as error:
            raise BuildError(f"{source.name}: {error}") from None
        if most:
            notebook.cells.pop()
        tables = json.loads(found.read_text()) if most else {}
    _, shown = widgets_of(notebook)
    return notebook, [tables[id] for id in shown if id in tables]


def room(source: Path) -> int:
    """Bytes for the tables: what the stored notebook's page leaves of the budget."""
    stored = HERE / f"{source.stem}.ipynb"
    if not stored.exists():
        return MOST_TABLE
    notebook = nbformat.read(stored, as_version=4)
    return max(50_000, int(0.95 * MOST_BYTES) - len(render(notebook, source, []).encode()))


def neighbours(source: Path, sources: list[Path]) -> list[tuple[str, str]]:
    """Links to the page before and the page after: words, address."""
    at, found = sources.index(source), []
    for number, words in ((at - 1, "← {}"), (at + 1, "{} →")):
        if 0 <= number < len(sources):
            other = sources[number]
            found.append((words.format(introduction(other)["title"]), f"{other.stem}.html"))
    return found


def publish(
    source: Path, folder: Path, sources: list[Path], *, teacher: bool = False, timeout: int = 600
) -> int:
    """Write the page, and the teacher's if wanted; bytes of the student's page."""
    links = neighbours(source, sources)
    stored, solved = HERE / f"{source.stem}.ipynb", None
    if teacher and stored.exists() and not build.drift(source, stored):  # one run is enough
        notebook = nbformat.read(stored, as_version=4)
        solved, tables = executed(source, student=False, timeout=timeout, most=room(source))
    else:
        notebook, tables = executed(source, student=True, timeout=timeout, most=room(source))
    page = render(notebook, source, tables, links=links).encode()
    if len(page) > MOST_BYTES:
        raise BuildError(f"{source.name}: a page of {len(page):,} bytes, more than {MOST_BYTES:,}")
    (folder / f"{source.stem}.html").write_bytes(page)
    if solved:
        shutil.copyfile(stored, folder / stored.name)
    else:
        build.settle(notebook, source.stem)
        build.veil(notebook)
        nbformat.write(notebook, folder / stored.name)
    if teacher:
        solved = solved or executed(source, student=False, timeout=timeout)[0]
        text = render(solved, source, tables, teacher=True, links=links)
        (folder / "teacher" / f"{source.stem}.html").write_text(text, encoding="utf-8")
        build.settle(solved, source.stem)
        nbformat.write(solved, folder / "teacher" / f"{source.stem}.ipynb")
    return len(page)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Publish the notebooks as pages and slides")
    parser.add_argument("folder", type=Path, help="where to; made if it is not there")
    parser.add_argument("names", nargs="*", help="how the notebooks' names start (default: all)")
    parser.add_argument("--teacher", action="store_true", help="the solved versions too")
    parser.add_argument("--timeout", type=int, default=600, help="seconds for one cell")
    options = parser.parse_args(arguments)
    every = sorted((HERE / "src").glob("[0-9]*.py"))
    chosen = [s for s in every if not options.names or s.stem.startswith(tuple(options.names))]
    if not chosen:
        print("no source in notebooks/src starts so", file=sys.stderr)
        return 2
    options.folder.mkdir(parents=True, exist_ok=True)
    versions = {False: options.folder}
    if options.teacher:
        versions[True] = options.folder / "teacher"
        versions[True].mkdir(exist_ok=True)
    failed = False
    for source in chosen:
        print(f"publishing {source.stem} …", end=" ", flush=True)
        try:
            size = publish(source, options.folder, every, teacher=options.teacher,
                           timeout=options.timeout)  # fmt: skip
            print(f"{size / 1e6:.2f} MB", flush=True)
        except BuildError as error:
            failed = True
            print(f"failed: {error}", file=sys.stderr)
    for for_teachers, folder in versions.items():
        there = [s for s in every if (folder / f"{s.stem}.html").exists()]
        (folder / "index.html").write_text(index(there, for_teachers), encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
