"""Small made-up languages in which the right answer is known."""

import random
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
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

        hello zib mopa . hello kel dorn . the dog near the cat eats bones .
        anna met peter today . she sings . bye zib mopa .

    Four relations have gold links, each from a word to an earlier one:

    - subject: after the verb comes what the *subject* likes to eat (bones: a dog), whatever nouns
      stand between. Link: verb -> subject.
    - pronoun: after she or he comes the habit of *that* person (sings: anna). A woman and a man are
      named before, in either order. Link: pronoun -> name.
    - repeat: people have invented names, new in each text. After a first name that comes again
      comes its surname. Link: the repeated first name -> the surname where it stood before.
    - previous: each word -> the word before it. No next word depends on it.

    What a noun eats and what a name does is the same in every text; names go together by chance.
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

    def __init__(self):
        people = {**self.WOMEN, **self.MEN}
        self.words = (".", "the", "she", "he", "hello", "bye", *self.EATS, *self.EATS.values(),
                      *people, *people.values(), *self.FIRST, *self.LAST, *self.BETWEEN,
                      *self.VERBS, *self.MEETS, *self.WHEN)  # fmt: skip
        self.id_of = {word: i for i, word in enumerate(self.words)}

    @property
    def vocab_size(self) -> int:
        return len(self.words)

    length = 39  # words in the longest text

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
        texts = Texts(torch.tensor(ids), lengths, asked, links)
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
        stories = [self._eating(draw), self._meeting(draw)]
        draw.shuffle(stories)
        say(["hello", *people[0], "."])
        say(["hello", *people[1], "."])
        say(*stories[0])
        if draw.random() < 0.5:
            say(["hello", *people[2], "."])
        else:
            people.pop()
        say(*stories[1])
        for first, last in draw.sample(people, 2):
            before = words.index(last)
            links.append(("repeat", len(words) + 1, before))
            say(["bye", first, last, "."])
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
