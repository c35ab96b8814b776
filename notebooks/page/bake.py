"""Bake explorers: compute the pictures of many of their settings, for pages without Python.

notebooks/publish.py runs this file in the kernel of a notebook, after its last cell:

    tables(each, together)    {model id: table} of every explorer there is

A table is base64 of gzip; page.js reads it and answers from it in the kernel's place. Which states
it holds: each control alone through its values from where the notebook left it; the controls that
another one switches on; clicks in the picture, and edits of a tree or graph; then two and three
controls together at a few values each, as many as fit.
"""

import base64
import gc
import gzip
import itertools
import json
import random

import numpy as np

from attnlab.explorers import StructureExplorer
from attnlab.explorers._base import Explorer
from attnlab.explorers.structure import EXAMPLES

MOST_STATES, MOST_NUMBERS = 1500, 24_000_000
PLACES = (3, 5, 9, 17, 33, 65)  # of a slider, from coarse to fine
CHUNK = 1024  # numbers; equal ones in two pictures are stored once
KEPT_BITS = (15, 12)  # of the 23 that a float32 has after the point
TEXTS = (  # what the page offers to read instead of a text of one's own
    "The cat sat on the mat because it was tired.",
    "The trophy does not fit into the suitcase because it is too big.",
    "Time flies like an arrow; fruit flies like a banana.",
)
NOT_IN_A_PAGE = {"here"}  # an option that asks for measurements on the reader's own device
DRAWN_BY_THE_PAGE = {"selected"}  # settings of which Python only needs to know


# ----------------------------------------------------------------------------- what can be moved


def values(spec: dict, most: int) -> list:
    """The values that a control can take, as the page would send them; of a slider at most
    `most`, evenly over its places."""
    if spec["kind"] == "check":
        return [False, True]
    if spec["kind"] == "choice":
        return [key for key, _ in spec["options"] if key not in NOT_IN_A_PAGE]
    if spec["kind"] == "text":
        return list(TEXTS)
    step = spec.get("step", 1)
    last = round((spec["max"] - spec["min"]) / step)
    places = sorted({round(i * last / (most - 1)) for i in range(most)})
    return [_value(spec, round(spec["min"] + step * i, 10)) for i in places]


def _value(spec: dict, at: float):
    if spec.get("auto") and at == spec["min"]:
        return None
    value = float(f"{2**at:.3g}") if spec.get("log") else at
    return int(value) if value == int(value) else value


def clicks(explorer) -> list[dict]:
    """Settings that are moved in the picture, not by a control."""
    name, found = type(explorer).__name__, []
    if name == "ShuffleExplorer":
        n = len(explorer.order)
        orders = itertools.permutations(range(n))
        if n > 5:  # swaps, words moved to another place, some shuffles
            order, orders = list(range(n)), []
            for i, j in itertools.permutations(range(n), 2):
                swapped, moved = list(order), [k for k in order if k != i]
                swapped[i], swapped[j] = j, i
                moved.insert(j, i)
                orders += [swapped, moved]
            orders += [random.Random(seed).sample(order, n) for seed in range(100)]
            orders += [order, order[::-1]]
        found = [{"order": list(order)} for order in orders]
    if name == "PruningExplorer":
        start, n = explorer.own, explorer._n
        near = [start ^ sum(1 << h for h in some) for k in range(n + 1 if n <= 8 else 5)
                for some in itertools.combinations(range(n), k)]  # fmt: skip
        found = [{"own": own, "criterion": "own"} for own in near]
    if name == "WavesExplorer":
        both = {spec["name"]: values(spec, 17) for spec in explorer._ui["controls"]}
        found = [{"position": p, "pair": i}
                 for p in both.get("position", []) for i in both.get("pair", [])]  # fmt: skip
    return found


# ------------------------------------------------------------------------------------- the states


class Baker:
    """The states of one explorer, each reached from `start`, where the notebook left it."""

    MORE: tuple[str, ...] = ()  # what the picture depends on beside the explorer's settings
    TIMES = 1.0  # as many states as of others

    def __init__(self, explorer: Explorer):
        self.explorer = explorer
        self.settings = [*explorer.SETTINGS, *self.MORE]
        self.start = self.now()
        self.rows: list[dict] = []
        self.known: dict[str, int] = {}  # settings, asked for or reached -> row
        self.chunks: dict[bytes, int] = {}
        self.heads: dict[str, int] = {}
        self.views: dict[str, int] = {}
        self.uis: dict[str, int] = {}
        self.drives: dict[str, set] = {}  # setting -> others that follow it
        self.n_numbers = 0

    def now(self) -> dict:
        return {name: getattr(self.explorer, name) for name in self.settings}

    def go(self, moves: dict) -> dict | None:
        """Move the settings from the start on; what was asked for, None if that cannot be."""
        for _ in self.settings:  # one setting can move another
            wrong = [n for n, v in self.start.items() if getattr(self.explorer, n) != v]
            for name in wrong:
                setattr(self.explorer, name, self.start[name])
            if not wrong:
                break
        try:
            for name, value in moves.items():
                setattr(self.explorer, name, value)
        except Exception:  # a trait refuses it: a page could not ask for it either
            return None
        return {**self.start, **moves}

    def state(self, moves: dict) -> dict | None:
        """Compute a state and keep it; its row, None if it cannot be or there is no room.

        The explorer's lock stays free: what it waits for may be announced from another thread.
        """
        asked = self.go(moves)
        if asked is None:
            return None
        reached = self.now()
        keys = [_key(reached), _key(asked)]
        if keys[0] in self.known:
            row = self.known[keys[0]]
            if self.known.setdefault(keys[1], row) == row and keys[1] != keys[0]:
                self._alias(row, asked)
            return self.rows[row]
        if self._full():
            return None
        self.explorer._update()
        if self._head()["state"] == "wait":  # for a model, or a measurement
            self.explorer._wait()
            self.explorer._again()
            if self._head()["state"] == "wait" and moves:
                return None
        row = {"is": reached, "view": self._view(), "ui": self._ui()}
        for key in keys:
            self.known.setdefault(key, len(self.rows))
        self.rows.append(row)
        if keys[0] != keys[1]:
            self._alias(len(self.rows) - 1, asked)
        return row

    def _full(self) -> bool:
        return len(self.rows) >= self.TIMES * MOST_STATES or self.n_numbers > MOST_NUMBERS

    def _alias(self, row: int, asked: dict) -> None:
        """Remember that these settings, too, lead to this row."""
        ways = self.rows[row].setdefault("asked", [])
        way = {n: v for n, v in asked.items() if v != self.rows[row]["is"][n]}
        if way not in ways:
            ways.append(way)

    def _ui(self) -> int:
        controls = [dict(spec) for spec in self.explorer._ui["controls"]]
        for spec in controls:
            if "options" in spec:
                there = [o for o in spec["options"] if o[0] not in NOT_IN_A_PAGE]
                if len(there) == 1 < len(spec["options"]):
                    spec["why"] = "the notebook can measure your own device"
                spec["options"] = there
        return self.uis.setdefault(json.dumps(controls), len(self.uis))

    def _head(self) -> dict:
        data = self.explorer._view
        return json.loads(data[4 : 4 + int.from_bytes(data[:4], "little")])

    def _view(self) -> int:
        """Number of the picture: its head and chunks of its numbers; of an error the text only."""
        head, data = self._head(), self.explorer._view
        if head["state"]:
            view = json.dumps(head["message"])
        else:
            length = int.from_bytes(data[:4], "little")
            numbers = data[4 + length + (-length % 4) :]
            size = 4 * CHUNK
            pieces = [numbers[i : i + size] for i in range(0, len(numbers), size)]
            for piece in pieces:
                if piece not in self.chunks:
                    self.n_numbers += len(piece) // 4
            text = json.dumps(head, separators=(",", ":"))
            at = self.heads.setdefault(text, len(self.heads))
            view = json.dumps([at, *(self.chunks.setdefault(p, len(self.chunks)) for p in pieces)])
        return self.views.setdefault(view, len(self.views))

    def bake(self) -> None:
        """Fill the table: what matters most comes first, sliders from coarse to fine."""
        first = self.state({})
        controls = self.explorer._ui["controls"]
        specs = {spec["name"]: dict(spec) for spec in controls if spec["name"] in self.start}
        for name, spec in specs.items():  # of a long list what stands near the choice comes first
            keys = [key for key, _ in spec.get("options", [])]
            if self.start[name] in keys:
                at = keys.index(self.start[name])
                spec["options"] = sorted(spec["options"], key=lambda o: abs(keys.index(o[0]) - at))
        # What the page draws by itself; "soft" is what others follow all the same.
        free = {name for name in DRAWN_BY_THE_PAGE if name in self.start}
        soft = []
        for name, spec in specs.items():
            if not spec.get("local"):
                continue
            other = next((v for v in values(spec, 65) if v != self.start[name]), None)
            row = None if other is None else self.state({name: other})
            if row and row["view"] == first["view"]:
                (soft.append if self._follows({name: other}, row) else free.add)(name)
        self.free, self.soft = free, soft
        self.rows, self.known = self.rows[:1], {_key(self.start): 0}  # these were trials

        usable = {n: s for n, s in specs.items()
                  if n not in free and n not in soft and not s.get("why")}  # fmt: skip
        for name in [n for n, s in usable.items() if s["kind"] == "text"]:
            if "example" in specs or " " not in self.start[name]:  # other texts, or no sentence
                del usable[name]
        plan: list[tuple[int, dict]] = []  # (rank, moves), lowest rank first
        for name, spec in usable.items():
            for value, rank in ranked(spec):
                plan.append((rank, {name: value}))
        plan += [(2, moves) for moves in clicks(self.explorer)]
        plan += self.edits(usable)
        together = itertools.product(*(values(specs[name], 3) for name in soft))
        plan += [(1, dict(zip(soft, some, strict=True))) for some in together if soft]
        for count, start, fine in ((2, 2, 3), (3, 5, 2), (4, 8, 1)):
            for names in itertools.combinations(usable, count):
                lists = [
                    [*((v, r) for v, r in ranked(usable[n]) if r < fine), (self.start[n], 0)]
                    for n in names
                ]
                for some in itertools.product(*lists):
                    rank = start + 2 * max(r for _, r in some)
                    plan.append((rank, dict(zip(names, (v for v, _ in some), strict=True))))
        for name, spec in usable.items():  # what these switch on, and new values of others
            for value, rank in ranked(spec):
                row = self.state({name: value}) if rank == 0 else None
                if row is None or value == self.start[name]:
                    continue
                there = {
                    new["name"]: ranked(new) for new in json.loads(list(self.uis)[row["ui"]])
                    if new["name"] in {*self.start} - {*free, *soft, name}
                    and not new.get("why") and new["kind"] != "text"
                }  # fmt: skip
                before = {n: ranked(usable[n]) for n in there if n in usable}
                if there == before:
                    continue
                for new, found in there.items():
                    old = [v for v, _ in before.get(new, [])]
                    plan += [(1 + r, {name: value, new: v}) for v, r in found if v not in old]
                for one, two in itertools.combinations(there, 2):
                    plan += [(5 + 2 * max(r, q), {name: value, one: v, two: w})
                             for v, r in there[one] for w, q in there[two]
                             if max(r, q) < 2]  # fmt: skip
        checks = [n for n, s in usable.items() if s["kind"] == "check"]
        if len(checks) <= 8:  # every choice of a few curves
            plan += [(4, dict(zip(checks, some, strict=True)))
                     for some in itertools.product([True, False], repeat=len(checks))]  # fmt: skip
        for _, moves in sorted(plan, key=lambda step: step[0]):
            if self._full():
                break
            row = self.state(moves)
            if row and len(moves) == 1:
                self._follows(moves, row)

    def edits(self, usable: dict) -> list[tuple[int, dict]]:
        """More to plan, beside what controls and clicks do."""
        return []

    def more(self, rows: list[dict]) -> dict:
        """What the table holds beside these states."""
        return {}

    def _follows(self, move: dict, row: dict) -> set:
        """Which other settings followed this move."""
        followed = {n for n, v in row["is"].items() if n not in move and v != self.start[n]}
        for name in move:
            self.drives.setdefault(name, set()).update(followed)
        return followed

    # --------------------------------------------------------------------------------- the table

    def table(self, most_bytes: int) -> str:
        """The table with as many states as fit into `most_bytes`, in their order."""
        room = 4 * most_bytes
        for bits in KEPT_BITS:
            packed = self._pack(self.rows, bits)
            if len(packed) <= most_bytes:
                return packed
        for _ in range(12):
            packed = self._pack(self._choice(room), bits)
            if len(packed) <= most_bytes:
                return packed
            room = int(0.97 * room * most_bytes / len(packed))
        return self._pack(self.rows[:1], bits)

    def _choice(self, room: float) -> list[dict]:
        """Rows, in order, whose pictures cost about `room` bytes together; a third of it is kept
        for those that bring no new numbers."""
        views, heads, chunks = ([*of] for of in (self.views, self.heads, self.chunks))
        rooms, chosen, seen = {True: room * 2 / 3, False: room / 3}, [], set()
        for row in self.rows:
            view = json.loads(views[row["view"]])
            parts = set() if isinstance(view, str) else {("head", view[0])}
            parts |= {("chunk", c) for c in view[1:]} if parts else set()
            new = parts - seen
            cost = 10 + sum(0.15 * len(heads[i]) if what == "head" else 0.6 * len(chunks[i])
                            for what, i in new)  # fmt: skip
            numbers = any(what == "chunk" for what, _ in new)
            if cost <= rooms[numbers] or not chosen:
                chosen.append(row)
                seen |= new
                rooms[numbers] -= cost
        return chosen

    def _pack(self, rows: list[dict], bits: int) -> str:
        views, heads, chunks, uis = (
            [*of] for of in (self.views, self.heads, self.chunks, self.uis)
        )
        head, chunk, view, ui = Numbered(), Numbered(), Numbered(), Numbered()

        def put(number: int) -> int:
            old = json.loads(views[number])
            if not isinstance(old, str):
                old = [head.add(old[0]), *map(chunk.add, old[1:])]
            return view.add(json.dumps(old))

        index = {
            "settings": self.settings, "free": sorted(self.free), "soft": self.soft,
            "drives": {name: sorted(to) for name, to in self.drives.items() if to},
            "rows": [
                [[*row["is"].values()], put(row["view"]), ui.add(row["ui"]),
                 *([row["asked"]] if "asked" in row else [])]
                for row in rows
            ],
            "views": [json.loads(v) for v in view], "heads": [json.loads(heads[h]) for h in head],
            "uis": [json.loads(uis[u]) for u in ui],
            "lengths": [len(chunks[c]) // 4 for c in chunk],
            **self.more(rows),
        }  # fmt: skip
        numbers = rounded(np.frombuffer(b"".join(chunks[c] for c in chunk), "<f4"), bits)
        planes = numbers.view("u1").reshape(-1, 4).T  # bytes of like meaning together
        text = json.dumps(index, separators=(",", ":")).encode()
        blob = len(text).to_bytes(4, "little") + text + planes.tobytes()
        return base64.b64encode(gzip.compress(blob, 9, mtime=0)).decode()


class StructureBaker(Baker):
    """Edits too. `_made` names an edited structure, "" is an example as it begins. In the table are
    also `leads`, for each structure {"remove 2": [_made, node then selected, remark], ...}, and
    `stands`, for each state the number of its structure there."""

    MORE = ("_made",)
    TIMES = 1.4  # more states, since edits multiply them, and each is small

    def __init__(self, explorer: StructureExplorer):
        explorer._made = ""
        self.structures: list = [None]  # by their names
        self.names: dict[tuple, str] = {}  # (kind, example, structure) -> name
        self.ways: dict[tuple, dict] = {}  # (kind, example, name) -> what each edit makes of it
        super().__init__(explorer)

    def now(self) -> dict:
        return super().now() | {"example": self.explorer._history().example}

    def go(self, moves: dict) -> dict | None:
        explorer = self.explorer
        explorer._kinds.clear()  # edits, and the last example of each kind
        explorer._drawn = None
        asked = super().go(moves)
        if asked and explorer._made:
            history = explorer._history()
            history.past, history.now = [history.now], self.structures[int(explorer._made)]
        return asked

    def _edits(self, base: tuple, made: str) -> dict[str, list]:
        """What every edit makes of a structure, by name: [structure, node then selected, remark].

        `base` is its kind and the example it began as.
        """
        if (*base, made) in self.ways:
            return self.ways[*base, made]
        self.go({"kind": base[0], "example": base[1], "_made": made})
        explorer, here, found = self.explorer, self.explorer.structure, {}
        nodes = range(len(here.labels))
        edits = [(what, i) for what in ("add", "remove") for i in nodes]
        if explorer.kind == "graph":
            edits += [("connect", *pair) for pair in itertools.combinations(nodes, 2)]
        said: list[str] = []

        def show(new, selected, told=""):
            said.append(told)
            type(explorer)._show(explorer, new, selected, told)

        explorer._show, explorer._again = show, lambda: None  # no picture
        for what, *of in edits:
            getattr(explorer, what)(*of)
            selected = None if what == "connect" else explorer.selected
            found[" ".join([what, *map(str, of)])] = [explorer.structure, selected, said[-1]]
            explorer._history().now = here
        del explorer._show, explorer._again
        self.ways[*base, made] = found
        return found

    def _made_by_one(self, base: tuple, made: str) -> list[str]:
        """Names of the structures that one edit makes and that had none."""
        new = []
        for structure, *_ in self._edits(base, made).values():
            if (*base, structure) not in self.names:
                new.append(str(len(self.structures)))
                self.names[*base, structure] = new[-1]
                self.structures.append(structure)
        return new

    def edits(self, usable: dict) -> list[tuple[int, dict]]:
        first = (self.start["kind"], self.start["example"])
        bases = [(kind, name) for kind, names in EXAMPLES.items() for name in names]
        plan = []
        for base in sorted(bases, key=lambda base: base != first):
            moves = {"kind": base[0], "example": base[1]}
            if any(moves[n] != self.start[n] for n in moves if n not in usable):
                continue  # the page cannot go there
            later = 2 * (base != first)
            self.go(moves)
            self.explorer._update()
            self.names[*base, self.explorer.structure] = ""
            specs = [s for s in self.explorer._ui["controls"]
                     if s["name"] not in moves and not s.get("why")]  # fmt: skip
            plan.append((later, moves))
            for one in self._made_by_one(base, ""):
                plan.append((1 + later, {**moves, "_made": one}))
                for spec in specs:
                    slow = 2 * (spec["kind"] == "range")
                    plan += [(4 + later + slow + r, {**moves, "_made": one, spec["name"]: v})
                             for v, r in ranked(spec) if r < 2]  # fmt: skip
                if base[0] == first[0]:
                    plan += [(5 + later, {**moves, "_made": two})
                             for two in self._made_by_one(base, one)]  # fmt: skip
        return plan

    def bake(self) -> None:
        super().bake()
        for row in self.rows:  # `more` asks again, when the explorer has gone back to its start
            self._edits((row["is"]["kind"], row["is"]["example"]), row["is"]["_made"])

    def more(self, rows: list[dict]) -> dict:
        here = {tuple(row["is"][n] for n in ("kind", "example", "_made")) for row in rows}
        leads, numbers = [], {}
        for *base, made in here:
            numbers[*base, made] = len(leads)
            leads.append({})
            for edit, (structure, *rest) in self._edits(tuple(base), made).items():
                name = self.names.get((*base, structure))
                if (*base, name) in here:
                    leads[-1][edit] = [name, *rest]
        stands = [numbers[tuple(row["is"][n] for n in ("kind", "example", "_made"))]
                  for row in rows]  # fmt: skip
        return {"leads": leads, "stands": stands}


class Numbered(dict):
    """Gives each thing the next number, once."""

    def add(self, thing) -> int:
        return self.setdefault(thing, len(self))


def rounded(numbers: np.ndarray, bits: int) -> np.ndarray:
    """float32 with only `bits` bits after the point; infinities and NaN stay. Shares, all between
    -1 and 1, are rounded to multiples of 1/4096 if that is no less exact."""
    if bits == 12 and numbers.size and np.abs(numbers).max() <= 1:
        numbers = np.round(numbers * np.float32(4096)) / np.float32(4096)
    whole = numbers.view("<u4")
    drop = 23 - bits
    shorter = (whole + np.uint32(1 << (drop - 1))) & np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)
    return np.where(np.isfinite(numbers), shorter, whole).astype("<u4")


def ranked(spec: dict) -> list[tuple]:
    """The values of a control with a rank each: of a slider the coarse places come first."""
    if spec["kind"] != "range":
        return [(value, 0) for value in values(spec, 0)]
    rank = {}
    for i, most in enumerate(PLACES):
        for value in values(spec, most):
            rank.setdefault(value, i)
    return list(rank.items())


def _key(settings: dict) -> str:
    return json.dumps(list(settings.values()))


def computed(explorer: Explorer) -> Baker:
    """The states of one explorer, which afterwards is as it was. The page hears nothing of it."""
    explorer._wait()
    kind = StructureBaker if isinstance(explorer, StructureExplorer) else Baker
    baker = kind(explorer)
    explorer.send_state = lambda *_, **__: None
    explorer.unobserve(explorer._update, list(explorer.SETTINGS))
    try:
        baker.bake()
    finally:
        baker.go({})
        explorer._update()
        explorer.observe(explorer._update, list(explorer.SETTINGS))
        del explorer.send_state
    return baker


def bake(explorer: Explorer, most_bytes: int) -> str:
    """The table of one explorer."""
    return computed(explorer).table(most_bytes)


def fit(bakers: dict[str, Baker], each: int, together: int) -> dict[str, str]:
    """Tables of `each` bytes at most, and of `together` in all. What small ones do not need is for
    the large ones."""
    found = {name: baker.table(each) for name, baker in bakers.items()}
    small_first = sorted(found, key=lambda name: len(found[name]))
    for i, name in enumerate(small_first):
        most = together // (len(found) - i)
        if len(found[name]) > most:
            found[name] = bakers[name].table(most)
        together -= len(found[name])
    return found


def tables(each: int, together: int) -> dict[str, str]:
    """The tables of all explorers of this process, by model id, as large as in `fit`."""
    living = [o for o in gc.get_objects() if issubclass(type(o), Explorer) and o.comm is not None]
    return fit({explorer.model_id: computed(explorer) for explorer in living}, each, together)
