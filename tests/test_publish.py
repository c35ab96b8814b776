"""Pages without Python: what a page holds, and that its stored pictures are the explorers' own."""

import base64
import gzip
import html.parser
import inspect
import json
import re

import numpy as np
import pytest
import torch
import traitlets

import attnlab.explorers
import explorer_samples
from attnlab.explorers import ShapesExplorer, SharingExplorer, ShuffleExplorer, StructureExplorer
from attnlab.explorers._base import Explorer, Picture, setting
from attnlab.explorers._texts import ModelsExplorer, SourceExplorer
from notebook_build import build
from notebook_publish import ROOT, SOURCE, bake, publish


class Reader(html.parser.HTMLParser):
    """Keeps what a browser would load, and the scripts with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.scripts, self.tags, self._script = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        for name in ("src", "srcset", "data", "poster", "href", "xlink:href", "action"):
            value = attrs.get(name) or ""
            if name in attrs and not (tag == "a" and name == "href") and value[:5] != "data:":
                self.loads.append((tag, value))
        if tag == "script":
            self._script = (attrs, [])
            self.scripts.append(self._script)

    def handle_data(self, data):
        if self._script:
            self._script[1].append(data)

    def handle_endtag(self, tag):
        if tag == "script":
            self._script = None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    (folder / "teacher").mkdir()
    source = folder / "77-small.py"
    source.write_text(SOURCE.lstrip(), encoding="utf-8")
    publish.publish(source, folder, [source], teacher=True)
    return folder


@pytest.fixture(scope="module")
def text(folder):
    return (folder / "77-small.html").read_text(encoding="utf-8")


def test_nothing_is_fetched(text):
    page = Reader(text)
    assert page.loads == []
    assert not re.search(r"@import|url\(\s*[\"']?(?!data:)|\bfetch\(|XMLHttpRequest", text)
    code = "".join(part for attrs, parts in page.scripts for part in parts)
    assert not re.search(r"\b(import|from)\s*\(?\s*[\"']", code)
    assert "//cdn" not in text and "unpkg" not in text
    assert len(text.encode()) < publish.MOST_BYTES


def test_formulas_are_mathml_and_links_lead_to_pages(text):
    assert text.count("<math") == 3 and "<msqrt>" in text
    assert "$" not in re.sub(r"<script.*?</script>|<style.*?</style>", "", text, flags=re.DOTALL)
    assert 'href="01-one-head.html"' in text


def test_a_formula_that_cannot_be_shown_is_named():
    with pytest.raises(publish.BuildError, match="nosuchcommand"):
        publish.markdown(r"a $\nosuchcommand$ b")


def test_slides_are_sections(text):
    assert len(re.findall(r"<section>", text)) == 3
    first, second, third = text.split("<section>")[1:]
    assert "77. A small page" in first and "cell skip" in first and "cell notes" in first
    assert 'data-widget="w0"' in second and "twice" in second
    assert 'data-widget="w1"' in third


def test_exercises_are_blank_and_answers_folded(text):
    outside = re.sub(r"<details.*?</details>", "", text, flags=re.DOTALL)
    assert "your code here" in html_text(outside)
    assert "x + x" not in html_text(outside) and "x + x" in html_text(text)
    assert "The measurement says" not in outside and "The measurement says" in text
    assert "No prediction made" not in text
    assert "Exercise 7.1" in outside


def html_text(text):
    return html.unescape(re.sub(r"<[^>]*>", "", text))


def test_the_teachers_page_is_solved(folder):
    text = (folder / "teacher" / "77-small.html").read_text(encoding="utf-8")
    assert "your code here" not in text and "x + x" in html_text(text)
    assert "<summary><b>Solution" not in text and "<summary><b>Hint 1" in text
    assert "<details open" in text and 'class="teacher"' in text


@pytest.mark.parametrize("where", [".", "teacher"])
def test_the_notebook_lies_beside_its_page(folder, where):
    page = Reader((folder / where / "77-small.html").read_text(encoding="utf-8"))
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a" and "download" in attrs]
    assert links == ["77-small.ipynb"]
    text = (folder / where / links[0]).read_text(encoding="utf-8")
    assert ("your code here" in text) == (where == ".")


@pytest.mark.slow
def test_a_built_notebook_is_handed_out_as_it_is(tmp_path, monkeypatch):
    """Then one run, of the solved version, makes everything."""
    source, out = tmp_path / "src" / "77-small.py", tmp_path / "out"
    source.parent.mkdir()
    (out / "teacher").mkdir(parents=True)
    source.write_text(SOURCE.lstrip(), encoding="utf-8")
    build.build(source, tmp_path / "77-small.ipynb")
    runs = []

    def executed(*arguments, **options):
        runs.append(options["student"])
        return original(*arguments, **options)

    original = publish.executed
    monkeypatch.setattr(publish, "HERE", tmp_path)
    monkeypatch.setattr(publish, "executed", executed)
    publish.publish(source, out, [source], teacher=True)
    assert runs == [False]
    assert (out / "77-small.ipynb").read_bytes() == (tmp_path / "77-small.ipynb").read_bytes()
    assert "your code here" in (out / "77-small.html").read_text(encoding="utf-8")
    assert "your code here" not in (out / "teacher" / "77-small.ipynb").read_text(encoding="utf-8")


def widgets(text):
    scripts = {attrs.get("id"): "".join(parts) for attrs, parts in Reader(text).scripts}
    return json.loads(scripts["widgets"]), scripts


def test_widgets_start_as_in_the_notebook(text):
    data, scripts = widgets(text)
    assert list(data["models"]) == ["w0", "w1", "w2", "w3"]
    question = data["models"]["w0"]["state"]
    assert question["options"] == ["yes", "no"] and not question["locked"]
    assert question["recorded"] == question["choice"] == -1
    assert {"table-w1", "table-w2"} <= set(scripts) and "table-w0" not in scripts
    assert data["models"]["w1"]["state"]["n_heads"] == 8
    assert "IntSlider" in text  # what needs a widget manager is shown as its text


def test_text_is_never_html(text):
    data, _ = widgets(text)
    assert data["models"]["w2"]["state"]["text"] == "<i>cats</i> chase </script> mice"
    assert data["models"]["w0"]["state"]["question"] == "Is <i>this</i> 2?"
    assert not [tag for tag, _ in Reader(text).tags if tag == "i"]


def test_the_index_leads_to_every_page(folder):
    text = publish.index([folder / "77-small.py"], False)
    assert 'href="77-small.ipynb"' in text
    assert 'href="77-small.html"' in text and 'href="77-small.html#slide-1"' in text
    assert "to study: 5 minutes" in text and "<math" in text and not Reader(text).loads


# ----------------------------------------------------------------------------------- the tables


@pytest.fixture(autouse=True)
def fewer_states(monkeypatch):
    """What holds for some holds for many."""
    monkeypatch.setattr(bake, "MOST_STATES", 100)


def unpack(table):
    """A table as page.js reads it: its index, and (head, numbers) of a row."""
    blob = gzip.decompress(base64.b64decode(table))
    length = int.from_bytes(blob[:4], "little")
    index = json.loads(blob[4 : 4 + length])
    planes = np.frombuffer(blob[4 + length :], "u1").reshape(4, -1)
    numbers = np.ascontiguousarray(planes.T).view("<f4").ravel()
    chunks = np.split(numbers, np.cumsum(index["lengths"])[:-1]) if index["lengths"] else []

    def view(row):
        found = index["views"][row[1]]
        if isinstance(found, str):
            return found, None
        parts = [chunks[i] for i in found[1:]]
        return index["heads"][found[0]], np.concatenate([*parts, np.zeros(0, "<f4")])

    return index, view


def shown(explorer):
    return explorer_samples.unpack(explorer._view)


def examples():
    """One of each explorer that needs no arguments, and no model to fetch."""
    for name in attnlab.explorers.__all__:
        kind = getattr(attnlab.explorers, name)
        if not (inspect.isclass(kind) and issubclass(kind, Explorer)):
            continue
        takes = inspect.signature(kind).parameters
        if any(p.default is p.empty and p.kind != p.VAR_KEYWORD for p in takes.values()):
            continue
        if issubclass(kind, ModelsExplorer):
            continue
        more = {}
        if issubclass(kind, SourceExplorer):
            usual = kind(source="random")._ui["controls"]
            names = [spec["name"] for spec in usual if spec["name"] != "source"]
            more = {"source": "random", "controls": names}
        yield pytest.param(kind, more, id=name)


EXAMPLES = list(examples())


@pytest.mark.parametrize("kind, arguments", EXAMPLES)
def test_a_stored_picture_is_the_explorers(kind, arguments):
    table = bake.bake(kind(**arguments), 300_000)
    assert len(table) <= 300_000
    index, view = unpack(table)
    rows = index["rows"]
    rng = np.random.default_rng(0)
    if "_made" in index["settings"]:  # edits have a test of their own
        rows = [row for row in rows if row[0][-1] == ""]
    for i in [0, *rng.choice(len(rows), 12)]:
        explorer = kind(**arguments)
        for name, value in zip(index["settings"], rows[i][0], strict=True):
            if getattr(explorer, name, value) != value:
                setattr(explorer, name, value)
        stored, numbers = view(rows[i])
        head, exact = shown(explorer)
        if isinstance(stored, str):
            assert head["state"] == "wrong" and head["message"] == stored
            continue
        head.pop("can", None), stored.pop("can", None)  # undo is the page's own
        assert stored == head
        # rounded to 12 bits, or if all are shares to multiples of 1/4096
        np.testing.assert_allclose(numbers, exact, rtol=2**-12, atol=2**-12)
        for spec, own in zip(index["uis"][rows[i][2]], explorer._ui["controls"], strict=True):
            if not any(o[0] in bake.NOT_IN_A_PAGE for o in own.get("options", [])):
                assert spec == json.loads(json.dumps(own))
    for spec in index["uis"][rows[0][2]]:  # every control can be moved
        if spec["name"] in index["settings"] and spec["name"] not in index["free"]:
            if spec["kind"] != "text" and not spec.get("why"):
                at = index["settings"].index(spec["name"])
                assert len({json.dumps(row[0][at]) for row in rows}) > 1, spec["name"]


@pytest.mark.parametrize(
    "explorer, name, value",
    [
        (ShuffleExplorer("a b c", controls=("encoding", "n_heads"), order=[1, 0, 2]),
         "encoding", "alibi"),
        (StructureExplorer("tree", example="binary", controls=("head",)), "head", "parent"),
    ],
    ids=["shuffle", "structure"],
)  # fmt: skip
def test_baking_leaves_the_explorer_as_it_was(explorer, name, value):
    before, ui = explorer._view, explorer._ui
    sent = []
    explorer.send_state = lambda *names, **_: sent.append(names)
    bake_states(explorer)
    assert explorer._view == before and explorer._ui == ui and not sent
    setattr(explorer, name, value)
    assert explorer._view != before  # it answers again


def bake_states(explorer):
    send = explorer.__dict__.pop("send_state", None)
    table = bake.bake(explorer, 100_000)
    if send:
        explorer.send_state = send
    return unpack(table)


def test_what_follows_a_setting_is_known():
    index, _ = bake_states(ShuffleExplorer("a b c", controls=("source", "encoding")))
    assert index["drives"]["source"] == ["encoding"]
    at = index["settings"].index("order")
    assert len({json.dumps(row[0][at]) for row in index["rows"]}) == 6  # clicks: every order


def test_controls_that_another_one_opens_are_there():
    index, _ = bake_states(StructureExplorer("tree"))
    kind, vectors = (index["settings"].index(name) for name in ("kind", "n_vectors"))
    assert {row[0][vectors] for row in index["rows"] if row[0][kind] == "graph"} >= {1, 7}
    assert "selected" in index["free"]


@pytest.mark.parametrize("kind, example", [("tree", "sentence"), ("graph", "path")])
def test_edits_lead_where_attnlab_leads(kind, example):
    rng = np.random.default_rng(0)
    index, view = bake_states(StructureExplorer(kind, example=example))
    rows = {json.dumps(row[0]): i for i, row in enumerate(index["rows"])}
    once = index["leads"][index["stands"][0]]
    assert {"add 0", "remove 1", *(["connect 2 3"] if kind == "graph" else [])} <= set(once)
    far = 0
    for _ in range(20):
        explorer = StructureExplorer(kind, example=example)
        values, at = [*index["rows"][0][0]], 0
        for _ in range(2):
            leads = index["leads"][index["stands"][at]]
            if not leads:
                break
            edit = str(rng.choice(sorted(leads)))
            values[-1], selected, remark = leads[edit]
            what, *nodes = edit.split()
            getattr(explorer, what)(*map(int, nodes))
            assert remark == explorer.message
            assert selected in (None, explorer.selected)
            at = rows[json.dumps(values)]
            head, numbers = view(index["rows"][at])
            want, exact = shown(explorer)
            free = {"selected": 0, "can": 0, "message": ""}  # the page's own
            assert head | free == want | free
            np.testing.assert_allclose(numbers, exact, rtol=2**-12, atol=2**-12)
            far = max(far, len(explorer._history().past))
    assert far == 2


def test_an_error_is_a_state_too():
    index, view = bake_states(SharingExplorer())
    texts = [view(row)[0] for row in index["rows"] if view(row)[1] is None]
    assert any("do not divide" in text for text in texts)


def test_a_small_budget_keeps_the_start():
    explorer = ShapesExplorer()
    index, view = unpack(bake.bake(explorer, 4000))
    whole, _ = unpack(bake.bake(explorer, 10**6))
    assert index["rows"][0][0] == whole["rows"][0][0]
    assert 1 <= len(index["rows"]) < len(whole["rows"])


def test_of_a_long_list_what_is_near_comes_first():
    class Long(Explorer):
        SETTINGS = ("name",)
        name = setting(traitlets.Unicode("40"))

        def _picture(self):
            noise = torch.Generator().manual_seed(int(self.name))
            return Picture({}, torch.rand(1000, generator=noise))

        def _controls(self):
            options = [(str(i), str(i)) for i in range(99)]
            return [{"name": "name", "label": "name", "kind": "choice", "options": options}]

    index, _ = unpack(bake.bake(Long(), 60_000))
    kept = sorted(int(row[0][0]) for row in index["rows"])
    assert 3 < len(kept) < 60 and 40 in kept
    assert max(kept) - min(kept) == len(kept) - 1


def test_what_a_small_explorer_does_not_need_a_large_one_has():
    class Sized:
        def __init__(self, size):
            self.size = size

        def table(self, most):
            return "x" * min(most, self.size)

    bakers = {"large": Sized(10_000), "small": Sized(100), "too large": Sized(20_000)}
    found = bake.fit(bakers, 9000, 12_100)
    sizes = {name: len(table) for name, table in found.items()}
    assert sizes == {"small": 100, "large": 6000, "too large": 6000}


def test_an_explorer_that_nobody_knows_yet():
    class New(Explorer):
        SETTINGS = ("n", "name")
        n = setting(traitlets.Int(3))
        name = setting(traitlets.Unicode("a"))

        def _picture(self):
            return Picture({"n": self.n, "name": self.name})

        def _controls(self):
            return [
                {"name": "n", "label": "n", "kind": "range", "min": 0, "max": 8, "step": 1},
                {"name": "name", "label": "name", "kind": "choice",
                 "options": [("a", "A"), ("b", "B")]},
            ]  # fmt: skip

    index, view = unpack(bake.bake(New(), 10_000))
    found = {(row[0][0], row[0][1]): view(row)[0] for row in index["rows"]}
    assert len(found) == 18  # so small that all pairs fit
    assert found[7, "b"]["n"] == 7 and found[7, "b"]["name"] == "b"


def test_sliders_as_the_page_sends_them():
    spec = {"kind": "range", "min": -4, "max": 4, "step": 0.05, "log": True}
    some = bake.values(spec, 5)
    assert some == [0.0625, 0.25, 1, 4, 16]
    assert bake.values({"kind": "range", "min": 0, "max": 1, "step": 0.1}, 99)[3] == 0.3
    auto = {"kind": "range", "min": 0, "max": 8, "step": 1, "auto": "auto: 8"}
    assert bake.values(auto, 3) == [None, 4, 8]
    assert bake.ranked(auto)[:3] == [(None, 0), (4, 0), (8, 0)]


def test_rounding_keeps_what_is_no_number():
    numbers = np.array([1.0, -np.inf, np.inf, np.nan, 0.3, 12345.678], "<f4")
    short = bake.rounded(numbers, 12).view("<f4")
    assert np.array_equal(short[1:4], numbers[1:4], equal_nan=True)
    np.testing.assert_allclose(short[[0, 4, 5]], numbers[[0, 4, 5]], rtol=2**-13)
    shares = np.array([0.1, 1.0, -1.0, 0.00001], "<f4")
    np.testing.assert_allclose(bake.rounded(shares, 12).view("<f4"), shares, atol=2**-13 + 1e-9)


def test_sources_of_the_pages_name_no_machine():
    for path in (ROOT / "notebooks" / "page").iterdir():
        if path.is_file():
            assert "http" not in path.read_text(encoding="utf-8"), path.name
