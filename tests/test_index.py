"""The index of claims and the glossary say what the notebooks say."""

import re
import sys
from pathlib import Path

import nbformat

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
sys.path.insert(0, str(NOTEBOOKS))
import index  # noqa: E402


def test_the_index_is_that_of_the_notebooks():
    assert index.main(["--check"]) == 0


def test_an_old_index_is_noticed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(index, "PAGE", tmp_path / "CLAIMS.md")
    assert index.main(["--check"]) == 1 and "index.py" in capsys.readouterr().out
    assert index.main([]) == 0 and index.main(["--check"]) == 0


def test_every_claim_of_a_notebook_is_found(tmp_path):
    card = ("✘ does not hold: a | b < c\n  measured: 1.5 · over · expected: below 1\n"
            "  source: here · claim 16.1 of the ledger")  # fmt: skip
    cell = nbformat.v4.new_code_cell("claim(…)", outputs=[
        nbformat.v4.new_output("display_data", {"text/plain": card}),
        nbformat.v4.new_output("display_data", {"text/plain": card.split(" · claim")[0]}),
        nbformat.v4.new_output("display_data", {"text/plain": "○ not measured: it\n  no network"}),
    ])  # fmt: skip
    path = tmp_path / "01-x.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    first, second = index.entries(path)
    assert first == ("✘ does not hold", "a | b < c", "1.5 · over", "below 1", "here", "16.1")
    assert second.id == "" and second.source == "here"
    assert index.plain("a | b < c_d") == r"a \| b &lt; c\_d"


def test_links_of_the_glossary_and_the_notebooks_lead_somewhere():
    for page in [*NOTEBOOKS.glob("*.md"), *(NOTEBOOKS / "src").glob("*.py")]:
        text = page.read_text(encoding="utf-8")
        if page.suffix == ".py":
            text = "\n".join(line for line in text.splitlines() if line.startswith("# "))
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:|#|\$", target):
                continue
            target = target.split("#")[0]
            source = NOTEBOOKS / "src" / (Path(target).stem + ".py")
            assert (NOTEBOOKS / target).exists() or source.exists(), f"{page.name}: {target}"
