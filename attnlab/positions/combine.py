"""Ways to bring tables of positions together with the token vectors, other than adding one."""

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from attnlab.positions.absolute import Absolute, Learned, Sinusoidal
from attnlab.positions.base import Encoding, working_dtype


class Concatenated(Encoding):
    """[X P]: positions get features of their own, so the model is d_content + d wide.

    A projection of the concatenation is [X P] [W_x; W_p] = X W_x + P W_p: addition is the case
    W_x = W_p.
    """

    def __init__(self, table: Absolute):
        super().__init__()
        self.positions = table

    def embed(
        self, x: Float[Tensor, "batch n d_content"], pos: Real[Tensor, " n"]
    ) -> Float[Tensor, "batch n d_content_plus_d"]:
        table = self.positions.table(pos, x.dtype)
        return torch.cat([x, table.expand(len(x), -1, -1)], dim=-1)


class Mixed(Encoding):
    """alpha X + beta P with two trained numbers. Before a LayerNorm only alpha/beta matters."""

    def __init__(self, table: Absolute, alpha: float = 1.0, beta: float = 1.0):
        super().__init__()
        self.positions = table
        self.alpha, self.beta = (nn.Parameter(torch.tensor(float(v))) for v in (alpha, beta))

    def embed(
        self, x: Float[Tensor, "batch n d_model"], pos: Real[Tensor, " n"]
    ) -> Float[Tensor, "batch n d_model"]:
        wide = working_dtype(x.dtype)
        return (self.alpha * x.to(wide) + self.beta * self.positions.table(pos, wide)).to(x.dtype)


class LayerWise(Encoding):
    """H_l = Layer(H_{l-1} + lambda_l P): the table is added before every layer, with a trained
    strength for each.

    Source: compare Dehghani et al. 2019 (Universal Transformer), section 2.1.

    Raises:
        ValueError: from `at_layer`, for a layer that has no strength.
    """

    def __init__(self, table: Absolute, n_layers: int):
        super().__init__()
        self.positions = table
        self.strength = nn.Parameter(torch.ones(n_layers))

    def at_layer(
        self, x: Float[Tensor, "batch n d_model"], pos: Real[Tensor, " n"], layer: int
    ) -> Float[Tensor, "batch n d_model"]:
        if not 0 <= layer < len(self.strength):
            raise ValueError(f"layer {layer} has no strength: there are {len(self.strength)}")
        wide = working_dtype(x.dtype)
        added = self.strength[layer] * self.positions.table(pos, wide)
        return (x.to(wide) + added).to(x.dtype)


class SinusoidalThenLearned(Encoding):
    """H = Layer(X + PE_sinusoidal) + PE_learned; in a stack, the learned table follows every layer.

    This hybrid is sometimes called "Sandwich". It is not the published Sandwich (class `Sandwich`),
    which is a bias on the scores with nothing trained. The sinusoidal part takes any position, but
    the learned part has max_len rows, and they limit the whole to max_len positions.

    Source: none is known to us; one meets the formula without a reference.

    Raises:
        ValueError: if d_model is odd; from `after_layer`, for a position beyond the learned table.
    """

    def __init__(self, max_len: int, d_model: int):
        super().__init__()
        self.before, self.after = Sinusoidal(d_model), Learned(max_len, d_model)

    def embed(
        self, x: Float[Tensor, "batch n d_model"], pos: Real[Tensor, " n"]
    ) -> Float[Tensor, "batch n d_model"]:
        return self.before.embed(x, pos)

    def after_layer(
        self, x: Float[Tensor, "batch n d_model"], pos: Real[Tensor, " n"], layer: int
    ) -> Float[Tensor, "batch n d_model"]:
        return self.after.embed(x, pos)
