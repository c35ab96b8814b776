"""Small made-up languages in which the right answer is known."""

import random
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Roles:
    """Who did what: in "… she eats fish …" the words beside the verb are its roles.

    A sentence is `length` random filler words, a verb somewhere, and around it, at the given
    offsets, one word for each role. Every role draws from the same `n_words` words, so that only
    the place tells which word has which role. Word ids: 0 ... n_words - 1 are role words, the
    next `n_fillers` fillers, the last `n_verbs` verbs.
    """

    n_words: int = 60
    offsets: tuple[int, ...] = (-1, 1)
    length: int = 10
    n_fillers: int = 5
    n_verbs: int = 5

    @property
    def vocab_size(self) -> int:
        return self.n_words + self.n_fillers + self.n_verbs

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Sentences (size, length), the verb's position (size,), its role words (size, roles)."""
        first, last = -min(*self.offsets, 0), self.length - max(*self.offsets, 0)
        rows = torch.arange(size)

        def draw(low: int, high: int, *shape: int) -> Tensor:
            return torch.randint(low, high, shape, generator=generator)

        ids = draw(self.n_words, self.n_words + self.n_fillers, size, self.length)
        verb = draw(first, last, size)
        ids[rows, verb] = draw(self.n_words + self.n_fillers, self.vocab_size, size)
        roles = draw(0, self.n_words, size, len(self.offsets))
        for r, offset in enumerate(self.offsets):
            ids[rows, verb + offset] = roles[:, r]
        return ids, verb, roles


@dataclass(frozen=True)
class WhoChasedWhom:
    """Who did it, in "the cat chased the mouse"?

    Chaser and chased are two different words from the same `n_nouns`, so that only the order tells
    them apart: "the mouse chased the cat" has the same words. Without articles it is "cats chase
    mice", where exchanging the two nouns is the same as reading the sentence backwards. A stop
    ends the sentence with ".". Word ids: nouns, then verbs, then "the", then ".".
    """

    n_nouns: int = 20
    n_verbs: int = 5
    articles: bool = True
    stop: bool = False

    @property
    def vocab_size(self) -> int:
        return self.n_nouns + self.n_verbs + 2

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Sentences (size, n), who chased (size,), who was chased (size,)."""

        def draw(high: int, low: int = 0) -> Tensor:
            return torch.randint(low, high, (size,), generator=generator)

        chaser = draw(self.n_nouns)
        chased = (chaser + draw(self.n_nouns, low=1)) % self.n_nouns
        the = torch.full((size,), self.n_nouns + self.n_verbs)
        words = [chaser, self.n_nouns + draw(self.n_verbs), chased]
        if self.articles:
            words = [the, *words[:2], the, words[2]]
        return torch.stack([*words, *[the + 1] * self.stop], dim=1), chaser, chased


@dataclass(frozen=True)
class Modes:
    """A language whose rules change: which symbol comes next depends on the symbol before and on
    the mode that is in force.

    A text starts with a mode token. At each later place, with probability `p_switch`, a mode token
    comes (any of the `n_modes`, all equally likely) and its mode is in force from then on.
    Otherwise a symbol comes, drawn from the row of the last symbol in the table of the last mode;
    before the first symbol the language draws one that nobody sees. So whoever knows the last mode
    token and the last symbol knows all that can be known, however long the text. Token ids: 0 ...
    n_symbols - 1 are symbols, then the modes.
    """

    n_symbols: int = 16
    n_modes: int = 4
    p_switch: float = 0.12
    sharpness: float = 2.5  # the larger, the fewer symbols are likely after a symbol
    seed: int = 5  # of the tables

    @property
    def vocab_size(self) -> int:
        return self.n_symbols + self.n_modes

    @property
    def tables(self) -> Float[Tensor, "n_modes n_symbols n_symbols"]:
        """The probability of each next symbol, for each mode and last symbol."""
        shape = (self.n_modes, self.n_symbols, self.n_symbols)
        logits = torch.randn(shape, generator=torch.Generator().manual_seed(self.seed))
        return (self.sharpness * logits).softmax(-1)

    def batch(
        self, size: int, length: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, "size length"], Float[Tensor, "size length"]]:
        """Texts, and the best loss: -log of the probability that the language gives each token,
        for one who knows the language and the text before it. The first token has 0; the loss of a
        symbol before which no symbol stands is that of one who was told the hidden first one."""
        tables = self.tables
        edges = tables.cumsum(-1)[..., :-1].contiguous()
        switch = torch.rand(length, size, generator=generator) < self.p_switch
        switch[0] = True
        place = torch.arange(length)[:, None]
        last_switch = torch.where(switch, place, 0).cummax(0).values
        drawn = torch.randint(self.n_modes, (length, size), generator=generator)
        mode = drawn.gather(0, last_switch)  # in force after each place
        chance = torch.rand(length, size, 1, generator=generator)
        symbols = [torch.randint(self.n_symbols, (size,), generator=generator)]
        for t in range(1, length):
            after = (chance[t] > edges[mode[t], symbols[-1]]).sum(-1)
            symbols.append(torch.where(switch[t], symbols[-1], after))
        symbol = torch.stack(symbols)
        ids = torch.where(switch, self.n_symbols + mode, symbol)
        known = (1 - self.p_switch) * tables[mode[1:], symbol[:-1], symbol[1:]]
        likely = known.masked_fill(switch[1:], self.p_switch / self.n_modes)
        best = torch.cat([torch.zeros(1, size), -likely.log()])
        return ids.T.contiguous(), best.T.contiguous()


@dataclass(frozen=True)
class Needle:
    """One look-up, anywhere: `n_keys` pairs stand among random fillers, and the last token asks for
    the value of one key.

    A pair is one token that stands for a key and its value. Every key has one pair in each text, at
    a random place; its value is drawn anew for each text. Token ids: pair (key, value) is
    key * n_values + value, then the fillers, then one question for each key.
    """

    n_keys: int = 6
    n_values: int = 6
    n_fillers: int = 12

    @property
    def vocab_size(self) -> int:
        return self.n_keys * self.n_values + self.n_fillers + self.n_keys

    def batch(
        self, size: int, length: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, "size length"], Int[Tensor, " size"], Int[Tensor, " size"]]:
        """Texts, the values that are asked for, and how far before the question they stand.

        Raises:
            ValueError: for a length without room for all pairs and the question.
        """
        if length <= self.n_keys:
            raise ValueError(f"{self.n_keys} pairs and a question do not fit in {length} tokens")
        n_pairs, rows = self.n_keys * self.n_values, torch.arange(size)

        def draw(low: int, high: int, *shape: int) -> Tensor:
            return torch.randint(low, high, (size, *shape), generator=generator)

        ids = draw(n_pairs, n_pairs + self.n_fillers, length)
        places = torch.rand(size, length - 1, generator=generator).argsort(1)[:, : self.n_keys]
        values, asked = draw(0, self.n_values, self.n_keys), draw(0, self.n_keys)
        ids.scatter_(1, places, torch.arange(self.n_keys) * self.n_values + values)
        ids[:, -1] = n_pairs + self.n_fillers + asked
        return ids, values[rows, asked], length - 1 - places[rows, asked]


@dataclass(frozen=True)
class Texts:
    """Texts with what is known about them. All are as wide as the longest possible text; what
    stands behind the end of a text is filled up with "." and counts for nothing.

    Attributes:
        asked: True where the word that comes next is decided by the words up to here.
        links: for each relation its gold links, a row (text, query, key) for each: the word at
            query is understood by the word at key, which stands before it.
    """

    ids: Int[Tensor, "size n"]
    lengths: Int[Tensor, " size"]
    asked: Bool[Tensor, "size n"]
    links: dict[str, Int[Tensor, "n_links 3"]]

    @property
    def inside(self) -> Bool[Tensor, "size n"]:
        """True at the words of a text, False behind its end."""
        return torch.arange(self.ids.shape[1]) < self.lengths[:, None]


class TinyEnglish:
    """Little texts in which it is known which word depends on which:

        zib mopa kel dorn the dog near the cat eats bones .
        anna met peter today . she sings . zib mopa kel dorn

    Four relations have gold links, each from a word to an earlier one:

    - subject: after the verb comes what the *subject* likes to eat (bones: a dog), whatever nouns
      stand between. Link: verb -> subject.
    - pronoun: after she or he comes the habit of *that* person (sings: anna). A woman and a man are
      named before, in either order. Link: pronoun -> name.
    - repeat: two or three people are called by invented names, new in each text. After a first
      name that comes again comes its surname. Link: the repeated first name -> the surname where
      it stood before.
    - previous: each word -> the word before it. No next word depends on it.

    What a noun eats and what a person does is the same in every text; first names and surnames go
    together by chance.

    Args:
        stops: end each invented name with ".".
    """

    EATS = {"dog": "bones", "cat": "fish", "bird": "seeds", "horse": "hay", "fox": "grapes",
            "bear": "honey", "rabbit": "carrots", "mouse": "cheese"}  # fmt: skip
    WOMEN = {"anna": "sings", "mary": "dances", "lucy": "reads", "emma": "paints"}
    MEN = {"peter": "swims", "john": "cooks", "paul": "runs", "mark": "writes"}
    FIRST = ("zib", "kel", "wug", "tam", "nop", "fid", "lar", "quo")
    LAST = ("mopa", "dorn", "besk", "ruvi", "halt", "jint", "sogo", "plim")
    BETWEEN = ("near", "behind", "above")
    VERBS = ("eats", "wants", "likes")
    MEETS = ("met", "saw", "called")
    WHEN = ("today", "often", "then", "here")
    RELATIONS = ("subject", "pronoun", "repeat", "previous")

    def __init__(self, stops: bool = False):
        self.stops = stops
        people = {**self.WOMEN, **self.MEN}
        self.words = (".", "the", "she", "he", *self.EATS, *self.EATS.values(), *people,
                      *people.values(), *self.FIRST, *self.LAST, *self.BETWEEN, *self.VERBS,
                      *self.MEETS, *self.WHEN)  # fmt: skip
        self.id_of = {word: i for i, word in enumerate(self.words)}
        self.vocab_size = len(self.words)
        self.length = 34 if stops else 29  # words in the longest text

    def encode(self, text: str) -> Int[Tensor, "1 n"]:
        """The ids of a text, words and stops set apart by spaces.

        Raises:
            ValueError: for an empty text or a word that the language does not have.
        """
        words = text.lower().split()
        unknown = [w for w in words if w not in self.id_of]
        if unknown or not words:
            raise ValueError(
                f"the word {unknown[0]!r} is not in this language" if unknown else "no words"
            )
        return torch.tensor([[self.id_of[w] for w in words]])

    def decode(self, ids: Int[Tensor, " n"]) -> list[str]:
        """The words of a text."""
        return [self.words[i] for i in ids.tolist()]

    def batch(self, size: int, generator: torch.Generator) -> Texts:
        """Texts with their links."""
        draw = random.Random(int(torch.randint(2**62, (), generator=generator)))
        texts = [self._text(draw) for _ in range(size)]
        lengths = torch.tensor([len(words) for words, _ in texts])
        stops = ["."] * self.length
        ids = [[self.id_of[w] for w in (words + stops)[: self.length]] for words, _ in texts]
        links = {
            name: torch.tensor(
                [(t, q, k) for t, (_, found) in enumerate(texts) for n, q, k in found if n == name],
                dtype=torch.long,
            ).view(-1, 3)
            for name in self.RELATIONS[:3]
        }
        asked = torch.zeros(size, self.length, dtype=torch.bool)
        for rows in links.values():
            asked[rows[:, 0], rows[:, 1]] = True
        ids = torch.tensor(ids, dtype=torch.long).view(size, self.length)
        texts = Texts(ids, lengths, asked, links)
        t, before = texts.inside[:, 1:].nonzero().unbind(1)
        links["previous"] = torch.stack([t, before + 1, before], dim=1)
        return texts

    def _text(self, draw: random.Random) -> tuple[list[str], list[tuple[str, int, int]]]:
        """The words of one text and its links (relation, query, key)."""
        words, links = [], []

        def say(sentence, found=()):
            links.extend((name, len(words) + q, len(words) + k) for name, q, k in found)
            words.extend(sentence)

        people = list(zip(draw.sample(self.FIRST, 3), draw.sample(self.LAST, 3), strict=True))
        if draw.random() < 0.5:
            people.pop()
        stories = [self._eating(draw), self._meeting(draw)]
        draw.shuffle(stories)
        stop = ["."] * self.stops
        for person in people[:2]:
            say([*person, *stop])
        say(*stories[0])
        for person in people[2:]:
            say([*person, *stop])
        say(*stories[1])
        for first, last in draw.sample(people, 2):
            say([first, last, *stop])
            links.append(("repeat", len(words) - 2 - len(stop), words.index(last)))
        return words, links

    def _eating(self, draw):
        """"the dog near the cat eats bones ." and its link."""
        subject, *others = draw.sample(list(self.EATS), 3)
        sentence = ["the", subject]
        for noun in others[: draw.choice((0, 1, 1, 2))]:
            sentence += [draw.choice(self.BETWEEN), "the", noun]
        link = ("subject", len(sentence), 1)
        return [*sentence, draw.choice(self.VERBS), self.EATS[subject], "."], [link]

    def _meeting(self, draw):
        """"anna met peter . she sings ." and its link."""
        woman, man = draw.choice(list(self.WOMEN)), draw.choice(list(self.MEN))
        one, other = draw.sample((woman, man), 2)
        sentence = [one, draw.choice(self.MEETS), other]
        sentence += [draw.choice(self.WHEN)] if draw.random() < 0.5 else []
        she = draw.random() < 0.5
        who, habit = (woman, self.WOMEN[woman]) if she else (man, self.MEN[man])
        link = ("pronoun", len(sentence) + 1, sentence.index(who))
        return [*sentence, ".", "she" if she else "he", habit, "."], [link]


UNASKED = -100  # an answer that nobody asks for; cross_entropy passes it over


@dataclass(frozen=True)
class Spelled:
    """Texts of `Letters`.

    Attributes:
        pos: of each token (letter in its word, word in its sentence, sentence in the text), from 0.
        answers: the first letter of the token's own word and of its own sentence; UNASKED at spaces
            and stops.
    """

    ids: Int[Tensor, "size n"]
    pos: Int[Tensor, "size n 3"]
    answers: Int[Tensor, "size n 2"]


@dataclass(frozen=True)
class Letters:
    """Random letters in words and sentences: "dab cfea. ja gg bahd." - which letter does the own
    word begin with, which the own sentence?

    Words have 2 to 5 letters, sentences 2 to 4 words; a text ends after `length` tokens, wherever
    that is. Ids: 0 ... n_letters - 1 are letters, then the space, then the stop.
    """

    n_letters: int = 10
    length: int = 48

    @property
    def vocab_size(self) -> int:
        return self.n_letters + 2

    def batch(self, size: int, generator: torch.Generator) -> Spelled:
        """Texts with the positions and the answers of each token."""
        draw = random.Random(int(torch.randint(2**62, (), generator=generator)))
        rows = [self._text(draw) for _ in range(size)]
        ids, pos, answers = ([row[part] for row in rows] for part in range(3))
        return Spelled(
            torch.tensor(ids, dtype=torch.long).view(size, self.length),
            torch.tensor(pos, dtype=torch.long).view(size, self.length, 3),
            torch.tensor(answers, dtype=torch.long).view(size, self.length, 2),
        )

    def _text(self, draw: random.Random) -> tuple[list, list, list]:
        ids, pos, answers = [], [], []
        sentence = 0
        while len(ids) < self.length:
            n_words, opening = draw.randint(2, 4), None
            for word in range(n_words):
                letters = [draw.randrange(self.n_letters) for _ in range(draw.randint(2, 5))]
                opening = letters[0] if opening is None else opening
                ids += [*letters, self.n_letters + (word == n_words - 1)]
                pos += [(place, word, sentence) for place in range(len(letters) + 1)]
                answers += [(letters[0], opening)] * len(letters) + [(UNASKED, UNASKED)]
            sentence += 1
        return ids[: self.length], pos[: self.length], answers[: self.length]


@dataclass(frozen=True)
class Nodes:
    """Trees of `Trees`, their nodes listed, each parent before its children.

    Attributes:
        paths: of each node, as child numbers from the root, -1 where a path has ended (and all
            along for what is no node).
        inside: True at what belongs to the tree, False behind its end.
        answers: the labels of the node's parent and of its sibling; UNASKED where there is none.
    """

    ids: Int[Tensor, "size n"]
    paths: Int[Tensor, "size n depth"]
    inside: Bool[Tensor, "size n"]
    answers: Int[Tensor, "size n 2"]


@dataclass(frozen=True)
class Trees:
    """Random binary trees with a random label at each node: what is the label of the parent, what
    that of the sibling?

    A node has two children or none, and the root's children always have theirs. Nodes are listed
    depth first, left before right. The list of labels alone does not say what the tree is;
    with `brackets` it does: "( 3 ( 1 ) ( 4 ) )". Ids: labels, then what fills up, then "(", ")".
    """

    n_labels: int = 10
    depth: int = 4
    most: int = 15  # nodes
    brackets: bool = False

    @property
    def vocab_size(self) -> int:
        return self.n_labels + 3

    @property
    def length(self) -> int:
        return self.most * (3 if self.brackets else 1)

    def batch(self, size: int, generator: torch.Generator) -> Nodes:
        """Trees with the paths and the answers of each node."""
        draw = random.Random(int(torch.randint(2**62, (), generator=generator)))
        rows = []
        while len(rows) < size:
            row = list(self._grow(draw, (), UNASKED, UNASKED, draw.randrange(self.n_labels)))
            if len(row) <= self.length:
                rows.append(row)
        fill = (self.n_labels, (-1,) * self.depth, (UNASKED, UNASKED))
        filled = [row + [fill] * (self.length - len(row)) for row in rows]
        ids, paths, answers = ([[t[part] for t in row] for row in filled] for part in range(3))
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
        return Nodes(
            torch.tensor(ids, dtype=torch.long).view(size, self.length),
            torch.tensor(paths, dtype=torch.long).view(size, self.length, self.depth),
            torch.arange(self.length) < lengths[:, None],
            torch.tensor(answers, dtype=torch.long).view(size, self.length, 2),
        )

    def _grow(self, draw: random.Random, path, parent: int, sibling: int, label: int):
        """The tokens of a node and all below it: (id, path, answers)."""
        none, unasked = (-1,) * self.depth, (UNASKED, UNASKED)
        if self.brackets:
            yield self.n_labels + 1, none, unasked
        yield label, (*path, *none[len(path) :]), (parent, sibling)
        if len(path) < self.depth and (len(path) < 2 or draw.random() < 0.45):
            left, right = draw.randrange(self.n_labels), draw.randrange(self.n_labels)
            yield from self._grow(draw, (*path, 0), label, right, left)
            yield from self._grow(draw, (*path, 1), label, left, right)
        if self.brackets:
            yield self.n_labels + 2, none, unasked


@dataclass(frozen=True)
class Graphs:
    """Random graphs, their nodes coloured 0 or 1 at random: which colour have most neighbours?

    Each two of the n_nodes nodes are joined with probability p. There is no answer for a node
    without neighbours, or with as many of either colour.
    """

    n_nodes: int = 14
    p: float = 0.2

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Colours (size, n), edges (size, n, n) True where two nodes are joined, answers (size, n),
        UNASKED where there is none."""
        shape = (size, self.n_nodes, self.n_nodes)
        edges = (torch.rand(shape, generator=generator) < self.p).triu(1)
        edges = edges | edges.mT
        colours = torch.randint(0, 2, shape[:2], generator=generator)
        more = (edges.float() @ (2.0 * colours - 1)[..., None])[..., 0]  # ones less zeros
        return colours, edges, torch.where(more == 0, UNASKED, (more > 0).long())


@dataclass(frozen=True)
class Recent:
    """Items among fillers: which was the back-th item, counted backwards from here?

    A token is a filler with probability `fillers`, else an item; an item counts itself as the
    first. Ids: 0 ... n_items - 1 are items, then as many fillers.
    """

    n_items: int = 8
    back: int = 3
    length: int = 32
    fillers: float = 0.5

    @property
    def vocab_size(self) -> int:
        return 2 * self.n_items

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Texts (size, length) and answers (size, length), UNASKED where there were too few."""
        shape = (size, self.length)
        item = torch.rand(shape, generator=generator) >= self.fillers
        ids = torch.randint(0, self.n_items, shape, generator=generator)
        ids = torch.where(item, ids, self.n_items + ids)
        items_first = ids.gather(1, (~item).long().argsort(dim=1, stable=True))
        wanted = item.long().cumsum(1) - self.back  # the number of the item that is asked for
        answers = items_first.gather(1, wanted.clamp(min=0))
        return ids, torch.where(wanted >= 0, answers, UNASKED)
