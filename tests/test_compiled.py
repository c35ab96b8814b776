"""Functions that torch compiles: the same numbers in one pass over memory, or an error."""

import pytest
import torch

from attnlab import compiled
from attnlab.measure import peak_bytes
from attnlab.positions import RoPE, rotary

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # the compiler's own
    pytest.mark.skipif(
        compiled.compiler_problem("cpu") is not None, reason="no C++ compiler for torch.compile"
    ),
]


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("dtype, options", [
    (torch.float32, {}),
    (torch.bfloat16, {"layout": "interleaved"}),
    (torch.bfloat16, {"d_rotary": 32, "scaling": "yarn", "factor": 2.0}),
])  # fmt: skip
def test_compiled_rotation_is_the_same_in_one_pass(dtype, options, monkeypatch):
    torch.manual_seed(0)
    rope, pos = RoPE(64, **options), torch.arange(500)
    # as it leaves a projection: (batch, n, heads, d_head) in memory
    x = torch.randn(2, 500, 4, 64).to(dtype).transpose(1, 2).requires_grad_()
    up = torch.randn_like(x)
    runs, held = [], []
    for pays in (False, True):
        monkeypatch.setattr(rotary, "compiling_pays", lambda x, pays=pays: pays)
        out = rope.rotate(x, pos)
        runs.append((out.detach(), *torch.autograd.grad((out * up).sum(), x)))
        with torch.no_grad():
            rope.rotate(x, pos)  # compiled for this, too
            held.append(peak_bytes(lambda: rope.rotate(x, pos), x.device))
    for eager, fast in zip(*runs, strict=True):
        assert fast.dtype == dtype
        atol = 1e-5 if dtype == torch.float32 else 0.05  # one rounding of numbers below 8
        torch.testing.assert_close(fast, eager, atol=atol, rtol=0)
    size = x.numel() * x.element_size()
    assert held[1] <= 1.01 * size < 1.4 * size <= held[0]


def test_rotation_stays_as_it_is_on_a_cpu():
    assert not rotary.compiling_pays(torch.zeros(rotary.COMPILE_FROM))


def test_too_many_versions_raise_and_do_not_go_on_uncompiled(monkeypatch):
    monkeypatch.setattr(compiled, "VARIANTS", 2)

    def double(x):
        return 2 * x

    with torch.compiler.config.patch(recompile_limit=2):
        run = compiled.compiled(double, every_length_its_own=True)
        for n in (3, 4, 3):
            assert torch.equal(run(torch.ones(n)), 2 * torch.ones(n))
        with pytest.raises(RuntimeError, match="2 versions of double are compiled"):
            run(torch.ones(5))


def test_more_versions_than_torchs_limit_are_kept():
    with torch.compiler.config.patch(recompile_limit=1):

        def triple(x):
            return 3 * x

        run = compiled.compiled(triple, every_length_its_own=True)
        for n in (2, 3, 4):
            assert torch.equal(run(torch.ones(n)), 3 * torch.ones(n))
