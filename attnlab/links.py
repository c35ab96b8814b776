"""Links in natural sentences, and how well single heads of a real model follow them.

    encoder = load_encoder()
    scores(encoder, "pronoun->antecedent")["wins"][1, 3]     # layer 1, head 3
    print(table(encoder))

A link goes from a query word to the key word that a head should look at: "verb->subject" asks how
much weight the verb's query gives its subject. The 132 sentences are in data/sentences.json, made
for this course, one a line, each with its link, its nouns, the cell of the balance and the half (A
or B) that it belongs to:

    subject-verb      nothing, a phrase or a relative clause between the two (12 each); half of the
                      sentences begin with another noun
    determiner-noun   nothing, adjectives, a noun, or an adjective and a noun between (8 each)
    pronoun           she, he, it, they, each with its antecedent the first or the second of two
                      nouns (8 each), in pairs that differ in the pronoun alone: "The queen thanked
                      the boy because she (he) was kind."

Among 72 heads, the best looks good on any short list of sentences. So the head is chosen on one
half of the sentences and scored on the other, and beside its score stands what a fixed offset
("three words back"), the best of 72 random heads and a rule that only knows the nouns reach.

What these scores cannot say: gender or number decides every pronoun here, so a head that matches
"she" with any woman wins; of a sentence with two women they say nothing. A noun's determiner is
always the last one before it. And that a head finds a word does not mean that the model needs it.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Relation(NamedTuple):
    """Which words of a sentence are query, key and, where there is one, the wrong key."""

    kind: str
    query: str
    key: str
    distractor: str | None = None


RELATIONS = {
    "verb->subject": Relation("subject-verb", "verb", "subject"),
    "subject->verb": Relation("subject-verb", "subject", "verb"),
    "determiner->noun": Relation("determiner-noun", "determiner", "noun"),
    "noun->determiner": Relation("determiner-noun", "noun", "determiner"),
    "pronoun->antecedent": Relation("pronoun", "pronoun", "antecedent", "distractor"),
}
MEASURES = {
    "mass": "mean weight from the query to the gold key",
    "found": "share of sentences in which the gold key has more weight than any other token, "
    "without [CLS], [SEP] and the query itself",
    "plain": "the same among all tokens: most heads give [CLS] or [SEP] the largest weight",
    "wins": "share in which the gold key has more weight than the distractor; equal counts half",
}


@dataclass(frozen=True)
class Sentence:
    """A sentence and its link.

    Attributes:
        kind: "subject-verb", "determiner-noun" or "pronoun".
        cell: which cell of the balance it belongs to.
        half: "A" or "B".
        roles: the word of each role; "the#2" is the second "the".
        nouns: all nouns, in order.
    """

    text: str
    kind: str
    cell: str
    half: str
    roles: dict[str, str]
    nouns: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """Words and signs, in lower case, as the model's tokenizer cuts them."""
        return re.findall(r"\w+|[^\w\s]", self.text.lower())

    def place(self, word: str) -> int:
        """Where a word stands among `words`, counted from 0; "the#2" is the second "the"."""
        word, _, which = word.partition("#")
        places = [i for i, w in enumerate(self.words) if w == word]
        nth = int(which or 1)
        if not 1 <= nth <= len(places):
            raise ValueError(f"{word!r} number {nth} is not in {self.text!r}")
        return places[nth - 1]


def _read() -> tuple[Sentence, ...]:
    file = Path(__file__).with_name("data") / "sentences.json"
    rows = json.loads(file.read_text(encoding="utf-8"))
    return tuple(Sentence(**{**row, "nouns": tuple(row["nouns"])}) for row in rows)


SENTENCES = _read()


def relations() -> tuple[str, ...]:
    """The names of the relations, query first."""
    return tuple(RELATIONS)


def sentences(relation: str, half: str | None = None, cell: str | None = None) -> list[Sentence]:
    """The sentences of a relation, or those of one half ("A", "B") or one cell of the balance."""
    kind = _relation(relation).kind
    every = [s for s in SENTENCES if s.kind == kind]
    for given, known in ((half, {s.half for s in every}), (cell, {s.cell for s in every})):
        if given is not None and given not in known:
            raise ValueError(f"{given!r} is none of {', '.join(sorted(known))}")
    return [s for s in every if half in (None, s.half) and cell in (None, s.cell)]


def scores(
    encoder, relation: str, half: str | None = None, cell: str | None = None
) -> dict[str, Float[Tensor, "layers heads"]]:
    """Each head's score on a relation's sentences, by each of MEASURES.

    "wins" is there for pronouns only: they have a distractor.

    Args:
        encoder: a `PretrainedEncoder`, or what has its `tokenize` and `weights`.
        half, cell: score these sentences only, as in `sentences`.

    Source: Clark et al. 2019, section 4.2, for the largest weight ("found").
    """
    return {name: m.mean(0) for name, m in per_sentence(encoder, relation, half, cell).items()}


@torch.no_grad()
def per_sentence(
    encoder, relation: str, half: str | None = None, cell: str | None = None
) -> dict[str, Float[Tensor, "sentences layers heads"]]:
    """What `scores` takes the mean of: one number for each sentence and head.

    Raises:
        ValueError: if the encoder's tokenizer does not cut a sentence into [CLS], its words and
            signs, and [SEP].
    """
    wanted = _relation(relation)
    found: dict[str, list[Tensor]] = {}
    for s in sentences(relation, half, cell):
        _, tokens = encoder.tokenize(s.text)
        if list(tokens[1:-1]) != s.words:
            raise ValueError(f"a token must be a word or a sign of {s.text!r}, got {tokens}")
        query = 1 + s.place(s.roles[wanted.query])
        key = 1 + s.place(s.roles[wanted.key])
        row = torch.stack([w[:, query] for w in encoder.weights(s.text)]).cpu()  # layers heads n_k
        everywhere = set(range(len(tokens))) - {key}
        words = everywhere - {0, query, len(tokens) - 1}
        now = {
            "mass": row[..., key],
            "found": (row[..., key] > row[..., sorted(words)].amax(-1)).float(),
            "plain": (row[..., key] > row[..., sorted(everywhere)].amax(-1)).float(),
        }
        if wanted.distractor:
            wrong = row[..., 1 + s.place(s.roles[wanted.distractor])]
            now["wins"] = ((row[..., key] > wrong).float() + (row[..., key] >= wrong)) / 2
        for name, value in now.items():
            found.setdefault(name, []).append(value)
    return {name: torch.stack(values) for name, values in found.items()}


class Choice(NamedTuple):
    """The best of many, chosen on each half of the sentences and scored on both.

    Attributes:
        chosen: the best on half A, and the best on half B.
        same: the score of each on the half it was chosen on. Flatters: do not report it alone.
        other: the score of each on the other half.
    """

    chosen: tuple
    same: tuple[float, float]
    other: tuple[float, float]


def choose(hits: Float[Tensor, "sentences choices"], in_a: Tensor, names: list) -> Choice:
    """Choose by the mean over half A (in_a True) and by that over half B; the first of equals."""
    means = torch.stack([hits[in_a].mean(0), hits[~in_a].mean(0)])  # (2 halves, choices)
    best = means.argmax(1).tolist()
    return Choice(
        tuple(names[i] for i in best),
        tuple(float(means[half, i]) for half, i in zip((0, 1), best, strict=True)),
        tuple(float(means[half, i]) for half, i in zip((1, 0), best, strict=True)),
    )


def best_head(encoder, relation: str, measure: str = "found") -> Choice:
    """The best head by a measure, as (layer, head), chosen on one half and scored on the other."""
    _measure(relation, measure)
    return _best_head(per_sentence(encoder, relation)[measure], relation)


def _best_head(hits: Tensor, relation: str) -> Choice:
    layers, heads = hits.shape[1:]
    names = [(layer, head) for layer in range(layers) for head in range(heads)]
    return choose(hits.flatten(1), _in_a(relation), names)


def best_offset(relation: str, measure: str = "found") -> Choice:
    """The best fixed offset, key place - query place: what a head reaches that looks there always,
    whatever the words are.

    Where it looks it puts all its weight, so that "mass", "found" and "plain" are the same.
    """
    _measure(relation, measure)
    return choose(_offset_hits(relation, measure), _in_a(relation), list(range(-_FAR, _FAR + 1)))


def _offset_hits(relation: str, measure: str) -> Float[Tensor, "sentences offsets"]:
    """What a head at each offset, -_FAR ... _FAR, scores on each sentence."""
    wanted = _relation(relation)
    rows = []
    for s in sentences(relation):
        start = _FAR - s.place(s.roles[wanted.query])
        row = torch.full((2 * _FAR + 1,), 0.5 if measure == "wins" else 0.0)
        if measure == "wins":
            row[start + s.place(s.roles[wanted.distractor])] = 0
        row[start + s.place(s.roles[wanted.key])] = 1
        rows.append(row)
    return torch.stack(rows)


class Luck(NamedTuple):
    """What the best of many random heads scores: the mean over draws, and the 95 % point.

    same and same_95: on the half that it was chosen on; other and other_95: on the other half.
    Each draw is the mean of both directions, A to B and B to A.
    """

    same: float
    same_95: float
    other: float
    other_95: float


def best_random(
    relation: str, measure: str = "found", n_heads: int = 72, draws: int = 1000, seed: int = 0
) -> Luck:
    """The best of n_heads heads that give all weight to one word drawn at random for each sentence.

    For "wins", each tosses a coin between antecedent and distractor. Heads of a real model are not
    drawn at random: beating luck is the least that a head must do, beating the offset the next.
    """
    _measure(relation, measure)
    if n_heads < 1 or draws < 1:
        raise ValueError(f"n_heads and draws must be at least 1, got {n_heads} and {draws}")
    chance = torch.tensor([_chance(s, measure) for s in sentences(relation)])
    in_a, names = _in_a(relation), list(range(n_heads))
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(draws):
        hits = torch.rand(len(chance), n_heads, generator=generator) < chance[:, None]
        choice = choose(hits.float(), in_a, names)
        found.append((mean(choice.same), mean(choice.other)))
    same, other = torch.tensor(found).unbind(1)
    return Luck(*(float(x) for y in (same, other) for x in (y.mean(), y.quantile(0.95))))


def rules(relation: str, half: str | None = None, cell: str | None = None) -> dict[str, float]:
    """How often a rule that knows the nouns, but not what the sentence says, finds the key.

    For relations whose key is a noun. A rule near 1 would mean that a head with a high score need
    not know more than the rule.
    """
    if not _to_noun(relation):
        raise ValueError(f"the key of {relation} is no noun")
    wanted = _relation(relation)
    found: dict[str, list[bool]] = {}
    for s in sentences(relation, half, cell):
        query, key = s.place(s.roles[wanted.query]), s.place(s.roles[wanted.key])
        nouns = [s.place(n) for n in s.nouns]
        picks = {
            "first noun": nouns[:1],
            "last noun before": [n for n in nouns if n < query][-1:],
            "next noun after": [n for n in nouns if n > query][:1],
            "nearest noun": sorted(nouns, key=lambda n: abs(n - query))[:1],
        }
        for name, pick in picks.items():
            found.setdefault(name, []).append(pick == [key])
    return {name: sum(hits) / len(hits) for name, hits in found.items()}


def table(encoder) -> str:
    """All relations, each score beside its baselines, as text.

    Scores of heads, offsets and luck are means of both directions, A to B and B to A.

    on A, on B: the head (layer.head) that is best on that half.
    same: its score on that half, which flatters, beside the best of as many random heads.
    other: its score on the other half, beside the best fixed offset's and the random heads'.
    weight: the mean weight that the chosen heads give the gold key on the other half.
    rule: the best of `rules`, on all sentences; "–" where the key is no noun.

    A share of 32 sentences is uncertain by up to 0.17, one of 64 by 0.12 (95 %).
    """
    luck = "luck (95 %)"
    lines = [["relation", "n", "measure", "on A", "on B", "same", luck]
             + ["other", "offset", luck, "weight", "rule"]]  # fmt: skip
    for relation in RELATIONS:
        every = per_sentence(encoder, relation)
        lines += [_line(every, relation, m) for m in ("found", "wins") if m in every]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    )


def _line(every: dict[str, Tensor], relation: str, measure: str) -> list[str]:
    """A row of the table."""
    hits, in_a = every[measure], _in_a(relation)
    head, offset = _best_head(hits, relation), best_offset(relation, measure)
    luck = best_random(relation, measure, n_heads=hits[0].numel())
    a, b = head.chosen
    weight = every["mass"][~in_a].mean(0)[a], every["mass"][in_a].mean(0)[b]
    return [
        relation, f"{len(hits)}", measure, f"{a[0]}.{a[1]}", f"{b[0]}.{b[1]}",
        f"{mean(head.same):.2f}", f"{luck.same:.2f} ({luck.same_95:.2f})",
        f"{mean(head.other):.2f}", f"{mean(offset.other):.2f}",
        f"{luck.other:.2f} ({luck.other_95:.2f})", f"{float(sum(weight)) / 2:.2f}",
        f"{max(rules(relation).values()):.2f}" if _to_noun(relation) else "–",
    ]  # fmt: skip


_FAR = max(len(s.words) for s in SENTENCES)  # the largest offset that is tried


def _relation(name: str) -> Relation:
    if name not in RELATIONS:
        raise ValueError(f"no relation {name!r}; there are {', '.join(RELATIONS)}")
    return RELATIONS[name]


def _measure(relation: str, measure: str) -> None:
    known = [m for m in MEASURES if m != "wins" or _relation(relation).distractor]
    if measure not in known:
        raise ValueError(f"{relation} has no measure {measure!r}; it has {', '.join(known)}")


def _to_noun(relation: str) -> bool:
    return _relation(relation).key in ("subject", "noun", "antecedent")


def _in_a(relation: str) -> Tensor:
    return torch.tensor([s.half == "A" for s in sentences(relation)])


def _chance(sentence: Sentence, measure: str) -> float:
    """How likely a head that picks a key at random is right."""
    if measure == "wins":
        return 0.5
    return 1 / (len(sentence.words) + (2 if measure == "plain" else -1))
