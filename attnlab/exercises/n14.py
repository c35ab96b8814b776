"""Checks of notebook 14, what attention costs."""

import torch
from torch import nn

from attnlab import positions
from attnlab.exercises._watch import Largest
from attnlab.exercises.n01 import close
from attnlab.teach import call, exercise, require, require_number, require_tensor


@exercise("14.1", "Operations of a layer", minutes=8, difficulty=1)
def operations(answer):
    cases = [(10, 64, 8, 8), (100, 64, 8, 2), (1000, 96, 6, 1), (7, 48, 4, 2), (512, 512, 8, 4)]
    got = {case: require_number(call(answer, *case)) for case in cases}

    def counted(n, d, h, g, *, factor=2, kv=True, pairs=None, scores=2, output=True, heads=1):
        narrow = d // h * g if kv else d
        pairs = n * n if pairs is None else pairs(n)
        products = n * d * (d + 2 * narrow) + scores * heads * pairs * d + output * n * d * d
        return factor * products

    def is_(**how):
        return all(got[case] == counted(*case, **how) for case in cases)

    names = {
        "factor 2 forgotten: a multiplication and an addition are two operations": {"factor": 1},
        "n_kv_heads ignored: W_K and W_V are narrower, n_kv_heads · d_head wide": {"kv": False},
        "n not n²: each of n queries meets each of n keys": {"pairs": lambda n: n},
        "causal half: nothing was said of a mask, and a mask saves no products": {
            "pairs": lambda n: n * (n + 1) / 2},
        "weights times values forgotten: they take as many operations as the scores": {"scores": 1},
        "attention forgotten: scores and values depend on n²": {"scores": 0},
        "output projection forgotten: W_O is a fourth product": {"output": False},
    }  # fmt: skip
    for name, how in names.items():
        require(not is_(**how), name)
    each = all(got[case] == counted(*case, heads=case[2]) for case in cases)
    require(not each, "one head too wide: a head has d_model / n_heads numbers; together they have "
            "d_model")  # fmt: skip
    shared = all(
        got[c] == counted(*c, scores=0) + 4 * c[0] ** 2 * (c[1] // c[2] * c[3]) for c in cases
    )
    require(not shared, "fewer scores with shared keys: every query head still meets every key")
    thrice = all(got[c] == 3 * counted(*c) for c in cases)
    require(not thrice, "training: the forward pass was asked for, a backward pass is twice more")
    only = all(got[c] == 4 * c[0] ** 2 * c[1] for c in cases)
    require(not only, "projections forgotten: they are most of the work for short texts")
    for case in cases:
        right = counted(*case)
        require(got[case] == right, f"not the count: for n, d_model, n_heads, n_kv_heads = {case} "
                f"you return {got[case]:g}")  # fmt: skip


@exercise("14.2", "How many tokens fit?", minutes=8, difficulty=2)
def tokens_that_fit(answer):
    cases = [  # free bytes, layers, key/value heads, d_head, bytes of a number, texts
        (10 * 2**30, 32, 8, 128, 2, 4), (10**9, 12, 12, 64, 4, 1), (5 * 10**9, 48, 1, 128, 2, 7),
        (1000, 1, 1, 8, 2, 3), (2000, 1, 1, 8, 2, 3), (10**10, 24, 4, 96, 2, 16),
    ]  # fmt: skip
    got = {case: require_number(call(answer, *case)) for case in cases}

    def one(m, layers, g, d, b, texts, *, both=2, bits=1, skip=()):
        sizes = {"layers": layers, "heads": g, "numbers": d, "bytes": b, "texts": texts}
        product = both * bits
        for name, size in sizes.items():
            product *= 1 if name in skip else size
        return m, product

    def is_(rule=lambda m, p: m // p, **how):
        return all(got[case] == rule(*one(*case, **how)) for case in cases)

    names = {
        "keys only: values are kept as well": {"both": 1},
        "texts forgotten: each text has a cache of its own": {"skip": ("texts",)},
        "layers forgotten: each layer has a cache of its own": {"skip": ("layers",)},
        "n_kv_heads ignored: each key/value head keeps d_head numbers": {"skip": ("heads",)},
        "numbers not bytes: a number takes bytes_per_number bytes": {"skip": ("bytes",)},
        "d_head ignored: a key is d_head numbers": {"skip": ("numbers",)},
        "bits: the sizes are in bytes": {"bits": 8},
        "twice too much: keys and values make 2, not 4": {"both": 4},
    }
    for name, how in names.items():
        require(not is_(**how), name)
    require(not is_(lambda m, p: round(m / p)), "rounded to the nearest: that token does not "
            "always fit; round down")  # fmt: skip
    require(not is_(lambda m, p: -(-m // p)), "rounded up: that token does not fit any more")
    require(not is_(lambda m, p: int((m / (p / 2)) ** 0.5)), "n²: the cache grows with n, only the "
            "scores grow with its square")  # fmt: skip
    require(not is_(lambda m, p: m / p), "not a whole number: round down")
    for case in cases:
        m, product = one(*case)
        all_texts = case[-1] * (m // product)
        require(got[case] != all_texts or case[-1] == 1, "all texts together: the number for each "
                "text was asked for")  # fmt: skip
        require(got[case] == m // product, f"not the number: for {case} you return {got[case]:g}")


def weights16(q, k, visible, *, scale=True, twice=False, after=False, fill=-torch.inf, dim=-1):
    """The weights, and the ways in which they go wrong."""
    d = q.shape[-1]
    if scale and not after:
        q = q * d**-0.5
    if twice:
        k = k * d**-0.5
    scores = q @ k.mT
    if after:
        scores = scores / d**0.5
    return scores.masked_fill(~visible, fill).softmax(dim)


@exercise("14.3", "Weights in float16", minutes=12, difficulty=2)
def weights_in_half(answer):
    def ask(q, k, visible):
        try:
            return call(answer, q, k, visible)
        except RuntimeError as error:
            require("without overflow" not in str(error), "a mask that does not fit: -1e9 is no "
                    "float16 number, whose smallest is -65504; use -inf")  # fmt: skip
            raise

    torch.manual_seed(1)
    visible = torch.ones(5, 5).tril().bool()
    small = [torch.randn(2, 3, 5, 64).half() for _ in range(2)]
    got = ask(*small, visible)
    require(not isinstance(got, torch.Tensor) or got.dtype != torch.float32 or
            got.shape != (2, 3, 5, 5) or got.isnan().any(),
            "float32: compute as you like, but return the weights in the type of q")  # fmt: skip
    require_tensor(got, (2, 3, 5, 5))
    require(got.dtype == torch.float16, f"not float16: you return {got.dtype}")
    wide = [t.float() for t in small]
    right = weights16(*wide, visible)
    mistakes = {
        "not scaled: divide by the root of d_head": {"scale": False},
        "scaled twice: the root of d_head divides the product once": {"twice": True},
        "softmax over the queries: rows of weights sum to 1, over the keys": {"dim": -2},
        "mask ignored: hidden keys have weights": {"fill": 0.0},
    }
    unmasked = weights16(*wide, torch.ones_like(visible))

    def same(a, b):
        return (isinstance(a, torch.Tensor) and a.shape == b.shape
                and torch.allclose(a.float(), b.float(), atol=4e-3, rtol=2e-2))  # fmt: skip

    require(not same(got, unmasked), "mask ignored: hidden keys have weights")
    require(not same(got, weights16(*wide, ~visible).nan_to_num()), "the wrong way round: True = "
            "may look at")  # fmt: skip
    for name, how in mistakes.items():
        require(not same(got, weights16(*wide, visible, **how)), name)
    require(
        same(got, right), "not the weights: for ordinary numbers they differ from softmax(qk/√d)"
    )
    narrow = [torch.randn(1, 2, 3, 16).half() for _ in range(2)]
    require(
        same(ask(*narrow, visible[:3, :3]), weights16(*(t.float() for t in narrow),
             visible[:3, :3])), "right for one size only: d_k is the last number in the shape of q",
    )  # fmt: skip
    equal = (visible / visible.sum(-1, keepdim=True))[None, None]  # where all scores are equal
    tens = torch.full((1, 1, 5, 64), 10.0).half()
    for sign in (1, -1):  # before the forties, where NaN has another cause
        require(same(ask(sign * tens, tens, visible), equal), "softmax by hand: e^800 is inf and "
                "e^-800 is 0 in every type; subtract the row's largest score first, or call "
                "softmax")  # fmt: skip
    large = 4 * tens
    require(same(ask(large, large, visible), equal), "scaled after the product: 64 · 40 · 40 = "
            "102,400 is above 65,504, the largest float16, and inf − inf is NaN; scale the queries "
            "first, or multiply in float32")  # fmt: skip
    keys = large - 0.25 * torch.tensor([3, 1, 4, 0, 2]).half()[:, None]
    require(same(ask(large, keys, visible), weights16(large.float(), keys.float(), visible)),
            "scores cut off: what is above 65,504 must not all become one number; scale the "
            "queries first, or multiply in float32")  # fmt: skip
    got = ask(-large, large, visible)
    require(not (isinstance(got, torch.Tensor) and (got.triu(1) > 0).any()), "a mask that is not "
            "low enough: with scores of -12,800 your hidden keys win; use -inf")  # fmt: skip
    require(same(got, equal), "scaled after the product: -102,400 is -inf in float16")


@exercise("14.4", "The cache, repaired", minutes=15, difficulty=3)
def repaired_cache(answer):
    d = 16
    reference = positions.make("sinusoidal", d_model=d, n_heads=1)

    def right(x):
        return reference.embed(x, torch.arange(x.shape[1]))

    def made(length):
        try:
            return call(answer, d, length)
        except AttributeError as error:
            text = str(error)
            require("register_buffer" not in text, "not a Module: only an nn.Module has "
                    "register_buffer")  # fmt: skip
            require("before Module.__init__" not in text, "Module not initialised: call "
                    "super().__init__() before anything is stored")  # fmt: skip
            require("_generate_pe" not in text, "no _generate_pe: nobody wrote the method that "
                    "makes the table")  # fmt: skip
            raise

    require(not isinstance(answer, nn.Module), "an object: the check wants the class itself, "
            "without calling it")  # fmt: skip
    cache = made(8)
    require(isinstance(cache, nn.Module), "not a Module: then .to(device) and .half() pass it by")
    require(type(cache).forward is not nn.Module.forward, "no forward: `cache(x)` calls it")

    def run(cache, x, name):
        try:
            return call(cache, x)
        except RuntimeError as error:
            require("must match the size" not in str(error), name)
            raise

    torch.manual_seed(1)
    axis = "wrong axis: texts come first, so the tokens of x (batch, tokens, d_model) are x.size(1)"
    for shape in ((1, 5, d), (2, 5, d), (3, 8, d)):
        x = torch.randn(shape)
        got = require_tensor(run(cache, x, axis), shape)
        by_text = x + reference.table(torch.arange(shape[0]))[: shape[0], None]
        require(not close(got, by_text), axis)
        require(not close(got, x), "nothing added: the result is x + table")
        require(not close(got, right(x) - x), "x forgotten: the result is x + table")
        require(not close(got, right(x) - x + d**0.5 * x), "x multiplied by √d_model: here the "
                "result is x + table")  # fmt: skip
        require(close(got, right(x)), "not the sinusoidal table: sines in the even columns, "
                "cosines in the odd ones, omega_i = 10000^(-2i/d_model)")  # fmt: skip
    require(not cache.state_dict(), "saved with the model: the table can be made again, so "
            "persistent=False keeps it out of files")  # fmt: skip
    require(not list(cache.parameters()), "trained: a buffer is meant, not a parameter")
    require(list(cache.buffers()), "no buffer: register_buffer lets the table follow .to(device)")
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.randn(2, 5, d).to(dtype)
        got = require_tensor(call(made(8), x), (2, 5, d))
        require(got.dtype == dtype, f"another type: {dtype} came in and {got.dtype} comes out, "
                "twice the memory from here on")  # fmt: skip
        require((got.float() - right(x).float()).abs().max() < 0.05, "not the sum: in half "
                "precision it is further from x + table than rounding explains")  # fmt: skip
    x = torch.randn(1, 21, d)
    got = require_tensor(run(cache, x, "stops at max_len: a longer text raises an error; make a "
                             "longer table"), (1, 21, d))  # fmt: skip
    require(close(got, right(x)), "wrong beyond max_len: a text longer than the table gets other "
            "numbers")  # fmt: skip
    require(close(call(cache, x[:, :3]), right(x[:, :3])), "spoilt by a long text: short ones are "
            "wrong afterwards")  # fmt: skip
    one = made(1)
    x = torch.randn(2, 4, d)
    got = call(one, x)
    table = reference.table(torch.arange(1))
    require(not close(require_tensor(got), x + table), "one row for all: with max_len = 1 every "
            "token silently gets position 0")  # fmt: skip
    require(close(got, right(x)), "wrong beyond max_len: a text longer than the table gets other "
            "numbers")  # fmt: skip


@exercise("14.5", "Logsumexp in pieces", minutes=12, difficulty=3)
def in_pieces(answer):
    torch.manual_seed(2)
    whole = 3 * torch.randn(4, 10)
    huge = whole + torch.tensor([[500.0], [-500.0], [0.0], [1000.0]])
    for scores, what in ((whole, "ordinary"), (huge, "large")):
        blocks = [block.clone() for block in scores.split(4, dim=-1)]  # each with its own storage
        with Largest() as largest:
            got = call(answer, blocks)
        require(not isinstance(got, torch.Tensor) or not got.isinf().any(), "overflow: exp of "
                "large scores is inf, and of low ones 0; subtract the largest first")  # fmt: skip
        require_tensor(got, (4,))
        each = torch.stack([b.logsumexp(-1) for b in blocks])
        mistakes = {
            "sum of logarithms: add the exponentials, log a + log b is not log(a + b)": each.sum(0),
            "maximum only: the other terms count as well": scores.amax(-1),
            "last block only: add up all of them": each[-1],
            "first block only: add up all of them": each[0],
            "mean: the sum of exponentials is not divided": each.logsumexp(0) - 2.302585,
        }
        for name, wrong in mistakes.items():
            require(not close(got, wrong), name)
        if what == "ordinary":
            require(not close(got, scores.exp().sum(-1)), "logarithm forgotten: the sum of "
                    "exponentials is too large a number to keep")  # fmt: skip
            shifted = scores.logsumexp(-1) - scores.amax(-1)
            require(not close(got, shifted), "maximum not added back: what was subtracted before "
                    "exp is added after log")  # fmt: skip
        require(close(got, scores.logsumexp(-1)), "not the logarithm of the sum: compare with "
                "torch.cat(blocks, -1).logsumexp(-1)")  # fmt: skip
        require(largest.numbers < scores.numel(), "blocks joined: right, but all scores are in one "
                "tensor on the way; keep one number for each block and query")  # fmt: skip
    few = [torch.randn(2, 3), torch.randn(2, 1)]
    try:
        got = call(answer, few)
    except (IndexError, RuntimeError):
        got = None
    require(
        isinstance(got, torch.Tensor) and close(got, torch.cat(few, -1).logsumexp(-1)),
        "right for one size only: there may be any number of blocks, of any width",
    )
    hidden = whole.clone()
    hidden[1, :4] = -torch.inf  # a block of which this query sees nothing
    hidden[2] = -torch.inf
    got = call(answer, list(hidden.split(4, dim=-1)))
    require(isinstance(got, torch.Tensor) and not got.isnan().any(), "NaN from nothing: a block "
            "may be hidden (all -inf), and -inf − (-inf) is NaN")  # fmt: skip
    right = hidden.logsumexp(-1)
    seen = right.isfinite()
    require(close(got[seen], right[seen]) and got[2] == -torch.inf, "hidden blocks count: a row of "
            "-inf has the logarithm -inf, and adds nothing")  # fmt: skip
