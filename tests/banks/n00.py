"""Right and wrong answers to the exercises of notebook 00."""

import torch

from banks import Bank


def by_hand(weights, tokens, head):
    found = []
    for row in weights[head].tolist():
        found.append(tokens[row.index(max(row))])
    return found


BANK = {
    "0.1": Bank(
        right=[
            lambda n_tokens, n_heads: n_heads * n_tokens**2,
            lambda n_tokens, n_heads: torch.empty(1, n_heads, n_tokens, n_tokens).numel(),
        ],
        wrong={
            "one-weight-per-token": lambda n_tokens, n_heads: n_tokens * n_heads,
            "one-head-only": lambda n_tokens, n_heads: n_tokens**2,
            "added-instead-of-multiplied": lambda n_tokens, n_heads: n_heads * 2 * n_tokens,
            "half-of-the-pairs": lambda n_tokens, n_heads: n_heads * n_tokens * (n_tokens + 1) // 2,
            "no-weight-on-itself": lambda n_tokens, n_heads: n_heads * n_tokens * (n_tokens - 1),
            "not-the-number": lambda n_tokens, n_heads: n_tokens**n_heads,
        },
    ),
    "0.2": Bank(
        right=[
            lambda weights, tokens, head: [tokens[j] for j in weights[head].argmax(dim=-1)],
            by_hand,
        ],
        wrong={
            "numbers-instead-of-tokens": lambda weights, tokens, head: weights[head].argmax(-1),
            "numbers-instead-of-tokens#list": lambda weights, tokens, head: (
                weights[head].argmax(-1).tolist()
            ),
            "not-a-list-of-tokens": lambda weights, tokens, head: " ".join(
                tokens[j] for j in weights[head].argmax(-1)
            ),
            "largest-per-column": lambda weights, tokens, head: [
                tokens[j] for j in weights[head].argmax(dim=0)
            ],
            "always-the-same-head": lambda weights, tokens, head: [
                tokens[j] for j in weights[0].argmax(-1)
            ],
            "always-the-same-head#tokens": lambda weights, tokens, head: tokens,
            "the-smallest-instead-of-the-largest": lambda weights, tokens, head: [
                tokens[j] for j in weights[head].argmin(-1)
            ],
            "not-one-token-for-each-query": lambda weights, tokens, head: [
                tokens[int(weights[head].max(0).values.argmax())] + str(head)
            ],
        },
    ),
    "0.3": Bank(
        right=[
            lambda weights, values: weights @ values,
            lambda weights, values: (weights[:, None] * values).sum(dim=0),
            lambda weights, values: sum(w * v for w, v in zip(weights, values, strict=True)),
        ],
        wrong={
            "plain-mean": lambda weights, values: values.mean(0),
            "mean-instead-of-sum": lambda weights, values: (weights[:, None] * values).mean(0),
            "softmax-of-weights": lambda weights, values: weights.softmax(0) @ values,
            "the-favourite-only": lambda weights, values: values[weights.argmax()],
            "one-number-per-key": lambda weights, values: weights * values.sum(-1),
            "not-added-up": lambda weights, values: weights[:, None] * values,
            "not-the-output": lambda weights, values: values.sum(0),
            "right-for-one-size-only": lambda weights, values: sum(
                weights[j] * values[j] for j in range(4)
            ),
            "not-the-output#reversed": lambda weights, values: weights.flip(0) @ values,
        },
    ),
}
