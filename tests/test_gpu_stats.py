"""Statistics without the matrix on a GPU: the same numbers, and lengths that only streaming has."""

import pytest
import torch
import torch.nn.functional as F

from attnlab import positions
from attnlab.bench import statistics
from attnlab.measure import Clock, peak_bytes
from attnlab.stats import FIELDS, summary

pytestmark = pytest.mark.gpu
FUSED = ("lse", "entropy", "distance", "sink_mass")


def cuda():
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    return torch.device("cuda")


def inputs(n, heads, dtype=torch.float32, seed=0):
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(2, 1, heads, n, 64, device="cuda", generator=generator).to(dtype)


def agree(found, meant, names, n):
    """Entropies to 1e-4 nats, correlations to 1e-6, distances to 1e-5 of the length."""
    for name in names:
        a, b = getattr(found, name).cpu().double(), getattr(meant, name).cpu().double()
        assert torch.equal(a.isnan(), b.isnan()), name
        a, b = a.nan_to_num(), b.nan_to_num()
        bound = 1e-6 if "correlation" in name else 1e-5 * n if "distance" in name else 1e-4
        if name in ("inner", "received"):
            bound = 1e-5 * max(1.0, float(b.max()))
        assert (a - b).abs().max() < bound, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", positions.names())
def test_rows_agree_with_float64_on_the_cpu(name, causal, dtype):
    cuda()
    torch.manual_seed(0)
    encoding = positions.make(name, d_model=4 * 64, n_heads=4)
    q, k = inputs(300, 4, dtype)
    options = {"causal": causal, "encoding": encoding}
    if name == "rope":  # half-precision queries are rounded after they were turned: turn them first
        at = torch.arange(300)
        q, k = encoding.qk(q, k, at.cuda(), at.cuda())
        options["encoding"] = None
    meant = summary(q.cpu().double(), k.cpu().double(), route="rows", **options)
    options["encoding"] = options["encoding"] and encoding.cuda()
    agree(summary(q, k, rows=64, **options), meant, FIELDS, 300)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("n", [1, 300, 2048])
def test_fused_agrees_with_float64_on_the_cpu(n, causal, dtype):
    cuda()
    q, k = inputs(n, 4, dtype)
    found = summary(q, k, causal=causal, only=FUSED)
    assert found.route == "fused"
    meant = summary(q.cpu().double(), k.cpu().double(), causal=causal, only=FUSED, route="rows")
    agree(found, meant, FUSED, n)


@pytest.mark.parametrize("causal", [True, False])
def test_fused_and_rows_agree_at_length(causal):
    cuda()
    q, k = inputs(16_384, 4)
    fused = summary(q, k, causal=causal, only=FUSED, route="fused")
    agree(fused, summary(q, k, causal=causal, only=FUSED, route="rows"), FUSED, 16_384)


@pytest.mark.slow
@pytest.mark.parametrize("only", [FIELDS, FUSED], ids=["all", "fused"])
@pytest.mark.parametrize("encoding", ["none", "t5"])
def test_131_thousand_tokens_of_16_heads(encoding, only):
    """The weights alone would be 1 TiB."""
    device, n = cuda(), 131_072
    q, k = inputs(n, 16)
    options = {"causal": True, "only": only}
    if encoding == "t5":
        options["encoding"] = positions.T5Bias(16).cuda()
    results = []
    peak = peak_bytes(lambda: results.append(summary(q, k, **options)), device)
    (found,) = results
    assert peak < 12 * 2**30
    assert found.route == ("fused" if encoding == "none" and only is FUSED else "rows")
    assert found.entropy.isfinite().all() and (found.entropy >= 0).all()
    # some queries, from the whole of their rows in float64
    at = torch.tensor([0, 1, 4097, n // 2, n - 1], device=device)
    scores = (q[:, :, at].double() @ k.double().mT) / 8
    if encoding == "t5":
        offset = torch.arange(n, device=device) - at[:, None]
        scores += options["encoding"].relative_bias(offset).detach()
    scores.masked_fill_(torch.arange(n, device=device) > at[:, None], -torch.inf)
    a = scores.softmax(-1)
    assert (found.entropy[:, :, at] - torch.special.entr(a).sum(-1)).abs().max() < 1e-4
    far = (at[:, None] - torch.arange(n, device=device)).abs()
    assert (found.distance[:, :, at] - (a * far).sum(-1)).abs().max() < 1e-5 * n


@pytest.mark.slow
@pytest.mark.parametrize("causal", [True, False])
def test_fused_entropy_and_distance_within_twice_one_attention(causal):
    """Of the same numbers: float32 in the kernel, which the statistics need."""
    device = cuda()
    q, k = inputs(32_768, 16)
    clock, times = Clock(device), {"attention": [], "statistics": []}
    for _ in range(5):
        times["attention"].append(clock(
            lambda: F.scaled_dot_product_attention(q, k, k, is_causal=causal)
        ))  # fmt: skip
        times["statistics"].append(clock(
            lambda: summary(q, k, causal=causal, only=("entropy", "distance"), route="fused")
        ))  # fmt: skip
    assert min(times["statistics"]) < 2.1 * min(times["attention"])


def test_the_benchmark_runs_here():
    rows = statistics.measure((512, 1024), cuda(), 1.0, lambda share: None)
    assert {row["route"] for row in rows} >= {"attention", "fused", "rows", "dense"}
    assert all("left_out" in row["pass"] or row["pass"]["seconds"] > 0 for row in rows)
