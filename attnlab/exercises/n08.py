"""Checks of notebook 08, putting positions in."""

import math

import torch

from attnlab.exercises.n01 import close
from attnlab.teach import call, exercise, require, require_number, require_tensor


@exercise("8.1", "Balance", minutes=5, difficulty=1)
def balance(answer):
    value = require_number(answer)
    near = 0.02 * math.sqrt(2)
    mistakes = {
        "energy of the table taken as d: sin² + cos² = 1 for each pair, so it is d/2": 0.02,
        "root forgotten: β stretches each entry, so the energy grows with β²": 2 * 0.02**2,
        "both slips: the table's energy is d/2, not d, and β acts squared": 0.02**2,
        "upside down: β must make the positions smaller": 1 / near,
        "upside down: β must make the positions smaller; and its energy grows with β²": 1250,
        "factor 2 on the wrong side: the table has the energy d/2, so β may be larger than 0.02": (
            0.02 / math.sqrt(2)
        ),
    }
    for name, number in mistakes.items():
        require(not math.isclose(value, number, rel_tol=0.01), name)
    require(math.isclose(value, near, rel_tol=0.005), "not balanced: solve β² · d/2 = 0.02² · d")


@exercise("8.2", "Stretch a table", minutes=12, difficulty=2)
def lookup(answer):
    table = torch.randn(6, 4)
    pos = torch.arange(16)
    at = pos / 3

    def lerp(low, high, share):
        return table[low] + share[:, None] * (table[high] - table[low])

    low, share = at.floor().long(), at - at.floor()
    expected = lerp(low, at.ceil().long(), share)
    got = require_tensor(call(answer, table, pos[:-1], 3.0))
    require(
        tuple(got.shape) != (15,), "rows, not numbers: return one row of d entries per position"
    )
    require_tensor(got, (15, 4))
    short = {
        "rounded down: between two rows, take a share of both": table[low],
        "rounded to the nearest row: between two rows, take a share of both": table[
            at.round().long()
        ],
        "rounded up: between two rows, take a share of both": table[at.ceil().long()],
        "shares swapped: near a row, that row must count most": lerp(
            low, at.ceil().long(), 1 - share
        ),
        "half and half: the share depends on how near each row is": (
            (table[low] + table[at.ceil().long()]) / 2
        ),
        "stretch ignored: row pos instead of row pos / stretch": table[pos.clamp(max=5)],
        "multiplied instead of divided: stretching reads the table more slowly": table[
            (3 * pos).clamp(max=5)
        ],
        "wrapped around: position 6 must not be row 0 again": table[pos % 6],
    }
    for name, wrong in short.items():
        require(not close(got, wrong[:-1]), name)
    require(close(got, expected[:-1]), "not the rows between: at pos = 1, stretch 3, take 2/3 of "
            "row 0 and 1/3 of row 1")  # fmt: skip
    try:
        got = call(answer, table, pos, 3.0)
    except IndexError:
        got = None
    require(
        got is not None and close(require_tensor(got, (16, 4)), expected),
        "one row too far: position 15 is exactly row 5, the last one, and there is no row 6",
    )
    plain = require_tensor(call(answer, table, torch.tensor([4, 0, 5]), 1.0), (3, 4))
    require(close(plain, table[[4, 0, 5]]), "right for one stretch only: stretch = 1 reads rows")


@exercise("8.3", "Concatenate without concatenating", minutes=8, difficulty=2)
def project(answer):
    x, p, w = torch.randn(5, 6), torch.randn(5, 6), torch.randn(12, 3)
    top, bottom = w[:6], w[6:]
    got = require_tensor(call(answer, x, p, w))
    require(
        tuple(got.shape) != (10, 3),
        "tokens stacked: there are as many tokens as before; it is the features that grow",
    )
    require_tensor(got, (5, 3))
    mistakes = {
        "blocks swapped: the first rows of w belong to the words": x @ bottom + p @ top,
        "one block for both: that is addition; positions have rows of their own": (x + p) @ top,
        "one block for both: that is addition; words have the first rows": (x + p) @ bottom,
        "positions lost: add their projection": x @ top,
        "words lost: add their projection": p @ bottom,
        "averaged: the two projections are added, not averaged": (x @ top + p @ bottom) / 2,
        "rows dealt out in turn: the words' rows lie side by side, first": (
            x @ w[0::2] + p @ w[1::2]
        ),
        "subtracted: the two projections are added": x @ top - p @ bottom,
    }
    for name, wrong in mistakes.items():
        require(not close(got, wrong), name)
    expected = torch.cat([x, p], dim=-1) @ w
    require(close(got, expected), "not the projection of [X P]: compare with torch.cat")
    x, p, w = torch.randn(4, 5), torch.randn(4, 2), torch.randn(7, 3)
    try:
        got = call(answer, x, p, w)
    except (RuntimeError, IndexError):
        got = None
    require(
        got is not None and close(require_tensor(got, (4, 3)), torch.cat([x, p], dim=-1) @ w),
        "right for equal widths only: the table may have fewer features than the words",
    )


@exercise("8.4", "Undo a sum", minutes=20, difficulty=3)
def decode(answer):
    words, places = torch.randn(30, 6), torch.randn(20, 6)
    word, place = torch.randint(0, 30, (60,)), torch.randint(0, 20, (60,))
    sums = words[word] + places[place]
    got = call(answer, sums, words, places)
    if isinstance(got, torch.Tensor) and got.dim() == 2:
        got = tuple(got)  # both in one tensor, a row each
    require(
        isinstance(got, (tuple, list)) and len(got) == 2,
        "not two answers: return the rows of words and the rows of places, as a pair",
    )
    got_word, got_place = (require_tensor(part, (60,)) for part in got)
    require(
        all(torch.equal(part, part.long().to(part.dtype)) for part in (got_word, got_place)),
        "not whole numbers: rows are counted 0, 1, …; divide with //",
    )

    def same(w, p):
        return torch.equal(got_word.long(), w) and torch.equal(got_place.long(), p)

    pairs = words[:, None] + places  # (30, 20, 6)
    flat = torch.cdist(sums, pairs.flatten(0, 1)).argmin(-1)
    alone = torch.cdist(sums, words).argmin(-1), torch.cdist(sums, places).argmin(-1)
    filters = (sums @ words.T).argmax(-1), (sums @ places.T).argmax(-1)
    then = torch.cdist(sums - words[alone[0]], places).argmin(-1)
    then_word = torch.cdist(sums - places[alone[1]], words).argmin(-1)
    for name, (w, p) in {
        "answers swapped: words first, then places": (place, word),
        "one at a time: the nearest word ignores the position inside the sum; compare with all "
        "pairs": alone,
        "dot product instead of distance: a long pair wins without being near": filters,
        "greedy: a wrong first guess cannot be mended; compare with all pairs": (alone[0], then),
        "greedy: a wrong first guess of the place cannot be mended; compare with all pairs": (
            then_word, alone[1],
        ),
        "pair number cut up wrongly: divide by the number of places": (flat // 30, flat % 30),
    }.items():  # fmt: skip
        require(not same(w, p), name)
    right = [(g.long() == t).float().mean().item() for g, t in
             ((got_word, word), (got_place, place))]  # fmt: skip
    require(same(word, place), f"not the pairs: {right[0]:.0%} of your words and {right[1]:.0%} of "
            "your places are right")  # fmt: skip
    words, places = words[:7], places[:5]
    got = call(answer, words[[6, 0, 3]] + places[[1, 4, 0]], words, places)
    require(
        [require_tensor(part, (3,)).long().tolist() for part in got] == [[6, 0, 3], [1, 4, 0]],
        "right for one size only: take the numbers of words and places from the input",
    )
