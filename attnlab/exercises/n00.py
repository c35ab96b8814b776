"""Checks of notebook 00, the tour."""

import torch

from attnlab.teach import call, exercise, require, require_number, require_tensor


@exercise("0.1", "Your first check", minutes=3, difficulty=1)
def number_of_weights(answer):
    got = {nh: require_number(call(answer, *nh)) for nh in ((9, 12), (5, 1), (64, 8))}

    def says(formula) -> bool:
        return all(value == formula(*nh) for nh, value in got.items())

    require(
        not says(lambda n, h: n * h),
        "one weight per token: a query has a weight for each key, not one in all",
    )
    require(not says(lambda n, h: n * n), "one head only: each head has weights of its own")
    require(not says(lambda n, h: h * 2 * n), "added instead of multiplied: n queries times n keys")
    require(
        not says(lambda n, h: h * n * (n + 1) // 2),
        "half of the pairs: that is with a causal mask; here every token sees every other",
    )
    require(
        not says(lambda n, h: h * n * (n - 1)),
        "no weight on itself: a token is among its own keys",
    )
    require(says(lambda n, h: h * n * n), "not the number: multiply the entries of the shape")


@exercise("0.2", "Who looks where?", minutes=5, difficulty=1)
def favourites(answer):
    tokens = ["the", "cat", "sat", "down"]
    weights = torch.tensor([
        [[.6, .2, .1, .1], [.5, .3, .1, .1], [.2, .7, .0, .1], [.1, .2, .3, .4]],
        [[.1, .8, .1, .0], [.1, .2, .6, .1], [.1, .1, .2, .6], [.7, .1, .1, .1]],
    ])  # fmt: skip
    got = [call(answer, weights, tokens, head) for head in (0, 1)]
    got = [list(g) if isinstance(g, tuple) else g for g in got]

    def names(head, axis):
        return [tokens[i] for i in weights[head].argmax(axis).tolist()]

    def says(*lists) -> bool:
        return got == list(lists)

    numbers = isinstance(got[0], torch.Tensor) or (
        isinstance(got[0], list) and all(isinstance(g, int | float) for g in got[0])
    )
    require(not numbers, "numbers instead of tokens: look each key's number up in `tokens`")
    require(
        isinstance(got[0], list) and all(isinstance(g, str) for g in got[0]),
        "not a list of tokens: return a Python list with a string for each query",
    )
    require(
        not says(names(0, 0), names(1, 0)),
        "largest per column: that is the query that looks most at each key; take the largest over "
        "the keys, the last axis",
    )
    require(
        got[0] != got[1], "always the same head: use the argument `head` to choose the weights"
    )
    least = [[tokens[i] for i in weights[h].argmin(-1).tolist()] for h in (0, 1)]
    require(not says(*least), "the smallest instead of the largest: take the largest weight")
    require(len(got[0]) == 4, "not one token for each query: the list has the wrong length")
    require(says(names(0, -1), names(1, -1)), "not the favourites: compare with the rows by eye")


@exercise("0.3", "The output by hand", minutes=6, difficulty=2)
def output_of_a_query(answer):
    weights = torch.tensor([0.5, 0.3, 0.2, 0.0])  # of one query
    values = torch.tensor([[1.0, 0.0, 2.0], [0.0, 4.0, 0.0], [3.0, 1.0, 1.0], [9.0, 9.0, 9.0]])
    got = call(answer, weights, values)
    require(
        tuple(getattr(got, "shape", (3,))) != (4,),
        "one number per key: average over the keys; what is left has d_head numbers",
    )
    require(
        tuple(getattr(got, "shape", (3,))) != (4, 3),
        "not added up: the weighted values still have to be summed over the keys",
    )
    got = require_tensor(got, (3,))

    def says(value) -> bool:
        return torch.allclose(got.float(), value, atol=1e-5)

    require(not says(values.mean(0)), "plain mean: each value counts by its weight")
    require(
        not says((weights[:, None] * values).mean(0)),
        "mean instead of sum: the weights sum to 1 already, so add up and do not divide",
    )
    require(
        not says(weights.softmax(0) @ values),
        "softmax of weights: they are weights already, softmax was applied to the scores",
    )
    require(
        not says(values[weights.argmax()]),
        "the favourite only: every key counts, by its weight",
    )
    require(says(weights @ values), "not the output: sum_j weight_j value_j, over the keys j")
    weights, values = torch.tensor([0.1, 0.2, 0.3, 0.2, 0.2]), torch.randn(5, 2)
    try:
        got = call(answer, weights, values)
    except (IndexError, RuntimeError):
        got = None
    require(
        isinstance(got, torch.Tensor) and got.shape == (2,) and says(weights @ values),
        "right for one size only: there may be any number of keys",
    )
