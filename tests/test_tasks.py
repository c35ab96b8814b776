"""The small languages: what they say about their texts is true."""

import pytest
import torch

from attnlab import tasks
from attnlab.tasks import Roles, TinyEnglish, WhoChasedWhom

LANGUAGES = {"bare": TinyEnglish(), "stops": TinyEnglish(stops=True)}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=LANGUAGES, scope="module")
def language(request):
    return LANGUAGES[request.param]


@pytest.fixture(scope="module")
def texts(language):
    return language.batch(400, seeded())


def words_of(language, texts):
    return [
        language.decode(row[:n]) for row, n in zip(texts.ids, texts.lengths.tolist(), strict=True)
    ]


def test_the_same_generator_gives_the_same_texts(language):
    one, two, other = (language.batch(5, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(one.ids, two.ids) and not torch.equal(one.ids, other.ids)
    assert all(torch.equal(one.links[r], two.links[r]) for r in language.RELATIONS)


def test_a_generator_goes_on(language):
    generator = seeded()
    assert not torch.equal(language.batch(5, generator).ids, language.batch(5, generator).ids)


def test_shapes_and_padding(language, texts):
    assert texts.ids.shape == texts.asked.shape == texts.inside.shape == (400, language.length)
    assert texts.lengths.max() == language.length
    assert texts.inside.sum(1).equal(texts.lengths)
    assert (texts.ids[~texts.inside] == language.id_of["."]).all()
    assert 0 <= texts.ids.min() and texts.ids.max() < language.vocab_size
    assert len(set(language.words)) == language.vocab_size


def test_no_texts(language):
    empty = language.batch(0, seeded())
    assert empty.ids.shape == (0, language.length)
    assert all(rows.shape == (0, 3) for rows in empty.links.values())


def test_every_link_goes_back_to_a_word_of_the_text(language, texts):
    assert tuple(texts.links) == language.RELATIONS
    for rows in texts.links.values():
        text, query, key = rows.unbind(1)
        assert (key >= 0).all() and (key < query).all() and (query < texts.lengths[text]).all()


def test_links_say_what_the_language_promises(language, texts):
    words = words_of(language, texts)
    people = {**language.WOMEN, **language.MEN}
    for t, q, k in texts.links["subject"].tolist():
        assert words[t][q] in language.VERBS
        assert language.EATS[words[t][k]] == words[t][q + 1]
    for t, q, k in texts.links["pronoun"].tolist():
        assert words[t][k] in (language.WOMEN if words[t][q] == "she" else language.MEN)
        assert people[words[t][k]] == words[t][q + 1]
    for t, q, k in texts.links["repeat"].tolist():
        first = words[t].index(words[t][q])
        assert first < q and k == first + 1 and words[t][k] == words[t][q + 1]
        assert words[t][q] in language.FIRST and words[t][k] in language.LAST
    previous = texts.links["previous"]
    assert (previous[:, 1] - previous[:, 2] == 1).all()
    assert len(previous) == int((texts.lengths - 1).sum())


def test_asked_are_the_queries_whose_next_word_is_decided(language, texts):
    asked = torch.zeros_like(texts.asked)
    for name in ("subject", "pronoun", "repeat"):
        asked[texts.links[name][:, 0], texts.links[name][:, 1]] = True
    assert asked.equal(texts.asked)
    assert texts.asked.sum(1).eq(4).all()


@pytest.mark.parametrize(
    ("relation", "most"), [("subject", 0.6), ("pronoun", 0.4), ("repeat", 0.3)]
)
def test_no_fixed_offset_solves_a_relation(texts, relation, most):
    offsets = texts.links[relation][:, 1] - texts.links[relation][:, 2]
    assert offsets.bincount().max() / len(offsets) < most


def test_no_relation_is_solved_by_the_words_alone(language, texts):
    """After she or he, no name is likelier first; nouns before the verb are no better than the
    subject; a surname does not follow from its first name."""
    words = words_of(language, texts)
    first = [
        words[t][k] == next(w for w in words[t] if w in {**language.WOMEN, **language.MEN})
        for t, _, k in texts.links["pronoun"].tolist()
    ]
    assert 0.4 < sum(first) / len(first) < 0.6
    nearest = [
        next(w for w in reversed(words[t][:q]) if w in language.EATS) == words[t][k]
        for t, q, k in texts.links["subject"].tolist()
    ]
    assert 0.15 < sum(nearest) / len(nearest) < 0.35  # right only where nothing stands between
    pairs = {(words[t][q], words[t][k]) for t, q, k in texts.links["repeat"].tolist()}
    assert len(pairs) == 64


def test_encode_undoes_decode(language, texts):
    words = language.decode(texts.ids[0, : texts.lengths[0]])
    assert language.encode(" ".join(words)).equal(texts.ids[:1, : texts.lengths[0]])
    assert language.encode("The DOG eats").shape == (1, 3)


@pytest.mark.parametrize(("text", "said"), [("the unicorn eats", "'unicorn'"), ("  ", "no words")])
def test_encode_names_what_it_cannot_read(text, said):
    with pytest.raises(ValueError, match=said):
        TinyEnglish().encode(text)


def test_roles_stand_at_their_offsets():
    ids, verb, roles = Roles(offsets=(-2, 1)).batch(50, seeded())
    rows = torch.arange(50)
    assert torch.stack([ids[rows, verb - 2], ids[rows, verb + 1]], 1).equal(roles)


def test_who_chased_whom_has_the_same_words_both_ways():
    task = WhoChasedWhom(stop=True)
    ids, chaser, chased = task.batch(50, seeded())
    assert (chaser != chased).all()
    assert ids[:, 1].equal(chaser) and ids[:, 4].equal(chased) and ids.shape == (50, 6)


def test_letters_know_their_words_and_sentences():
    task = tasks.Letters()
    texts = task.batch(40, seeded())
    for ids, pos, answers in zip(
        texts.ids.tolist(), texts.pos.tolist(), texts.answers.tolist(), strict=True
    ):
        place = word = sentence = 0
        for t, token in enumerate(ids):
            assert pos[t] == [place, word, sentence]
            if token < 10:
                first, opening = t - place, t
                while opening and ids[opening - 1] != 11:
                    opening -= 1
                assert answers[t] == [ids[first], ids[opening]]
                place += 1
            else:
                assert answers[t] == [tasks.UNASKED] * 2
                place, word = 0, word + 1 if token == 10 else 0
                sentence += token == 11
    assert texts.ids.shape == (40, 48) and texts.ids.max() < task.vocab_size


@pytest.mark.parametrize("brackets", [False, True])
def test_trees_know_parents_and_siblings(brackets):
    task = tasks.Trees(brackets=brackets)
    trees = task.batch(60, seeded())
    assert trees.ids.shape == (60, task.length) and trees.ids.max() < task.vocab_size
    for row in range(60):
        ids, answers = trees.ids[row].tolist(), trees.answers[row].tolist()
        label, at = {}, {}
        for t, path in enumerate(trees.paths[row].tolist()):
            if ids[t] < 10 and trees.inside[row, t]:
                path = tuple(c for c in path if c >= 0)
                label[path], at[path] = ids[t], t
        assert () in label and 7 <= len(label) <= task.most
        for path, t in at.items():
            if path:
                sibling = (*path[:-1], 1 - path[-1])
                assert answers[t] == [label[path[:-1]], label[sibling]]
            else:
                assert answers[t] == [tasks.UNASKED] * 2
        assert sorted(at) == [path for path, _ in sorted(at.items(), key=lambda item: item[1])]
        asked = sum(a != [tasks.UNASKED] * 2 for a in answers)
        assert asked == len(label) - 1
        assert trees.inside[row].sum() == len(label) * (3 if brackets else 1)


def test_brackets_tell_the_tree():
    trees = tasks.Trees(brackets=True).batch(30, seeded())
    for row in range(30):
        stack, found = [], {}
        for t, token in enumerate(trees.ids[row].tolist()):
            if token == 11:
                stack.append(None)
            elif token == 12:
                stack.pop()
            elif token < 10:
                stack[-1] = token
                if len(stack) > 1:
                    found[t] = stack[-2]
        assert found == {
            t: a for t, (a, _) in enumerate(trees.answers[row].tolist()) if a != tasks.UNASKED
        }


def test_graphs_ask_for_the_colour_of_most_neighbours():
    colours, edges, answers = tasks.Graphs().batch(50, seeded())
    assert torch.equal(edges, edges.mT) and not edges.diagonal(dim1=1, dim2=2).any()
    for b in range(50):
        for v in range(14):
            ones = [colours[b, u].item() for u in range(14) if edges[b, v, u]]
            more = 2 * sum(ones) - len(ones)
            assert answers[b, v] == (tasks.UNASKED if more == 0 else int(more > 0))


@pytest.mark.parametrize("back, fillers", [(3, 0.5), (1, 0.0), (2, 0.9)])
def test_recent_items_by_loops(back, fillers):
    ids, answers = tasks.Recent(back=back, fillers=fillers).batch(50, seeded())
    for row, answer in zip(ids.tolist(), answers.tolist(), strict=True):
        items = []
        for token, said in zip(row, answer, strict=True):
            items += [token] if token < 8 else []
            assert said == (items[-back] if len(items) >= back else tasks.UNASKED)
    share = (ids >= 8).float().mean().item()
    assert share == pytest.approx(fillers, abs=0.05)


@pytest.mark.parametrize("task", [tasks.Letters(), tasks.Trees(), tasks.Graphs(), tasks.Recent()])
def test_structured_tasks_draw_from_the_generator_alone(task):
    def flat(batch):
        return batch[0] if isinstance(batch, tuple) else batch.ids

    generator = seeded(1)
    assert torch.equal(flat(task.batch(4, seeded(1))), flat(task.batch(4, generator)))
    assert not torch.equal(flat(task.batch(4, seeded(1))), flat(task.batch(4, generator)))
    assert len(flat(task.batch(0, generator))) == 0
