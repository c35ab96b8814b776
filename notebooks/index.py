"""The index of claims: what every claim cell of the course measured, as one page.

    python notebooks/index.py            # notebooks/*.ipynb -> notebooks/CLAIMS.md
    python notebooks/index.py --check    # does CLAIMS.md still say what the notebooks say?

Nothing here is written by hand: statement, measurement, verdict and source stand in the outputs of
the executed notebooks.
"""

import re
import sys
from pathlib import Path
from typing import NamedTuple

import nbformat

HERE = Path(__file__).resolve().parent
PAGE = HERE / "CLAIMS.md"
CARD = re.compile(
    r"^(?P<verdict>✔ holds|✘ does not hold): (?P<statement>.*)\n"
    r"  measured: (?P<measured>.*) · expected: (?P<expected>.*)\n"
    r"  source: (?P<source>.*?)(?: · claim (?P<id>\S+) of the ledger)?$"
)


class Entry(NamedTuple):
    """One claim as its card tells it."""

    verdict: str
    statement: str
    measured: str
    expected: str
    source: str
    id: str


def entries(notebook: Path) -> list[Entry]:
    """The claims of one executed notebook, in order."""
    found = []
    for cell in nbformat.read(notebook, as_version=4).cells:
        for output in cell.get("outputs", []):
            card = CARD.match(output.get("data", {}).get("text/plain", ""))
            if card:
                found.append(Entry(*(card[name] or "" for name in Entry._fields)))
    return found


def plain(text: str) -> str:
    """A text that Markdown shows as it is, inside a table."""
    return re.sub(r"[\\|*_$]", r"\\\g<0>", text).replace("<", "&lt;")


def page() -> str:
    """The whole index as Markdown."""
    notebooks = sorted(HERE.glob("[0-9][0-9]-*.ipynb"))
    of = {path: entries(path) for path in notebooks}
    total = sum(map(len, of.values()))
    held = sum(e.verdict == "✔ holds" for found in of.values() for e in found)
    lines = [
        "# Every claim, and what was measured",
        "",
        f"{total} claims in {len(notebooks)} notebooks; {held} of them hold in the stored run. "
        "Each is a cell: run its notebook and it is measured anew; a claim that fails stops the "
        "notebook. A number at the left marks statements from the course's list of popular and "
        "disputed statements. This page is made from the notebooks' outputs by "
        "`python notebooks/index.py`.",
    ]
    for path, found in of.items():
        title = path.stem[3:].replace("-", " ")
        lines += ["", f"## {int(path.stem[:2])}. [{title}]({path.name})", ""]
        if not found:
            lines.append("No claims.")
            continue
        lines += ["| | claim | measured | expected | source |", "|---|---|---|---|---|"]
        for e in found:
            mark = e.verdict[0] + (f" {e.id}" if e.id else "")
            cells = (mark, e.statement, e.measured, e.expected, e.source)
            lines.append("| " + " | ".join(map(plain, cells)) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    text = page()
    if "--check" in arguments:
        if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
            return 0
        print("notebooks/CLAIMS.md differs from the notebooks: run python notebooks/index.py")
        return 1
    PAGE.write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
