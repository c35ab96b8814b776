"""The benchmark of statistics: every route is a row, what does not fit is left out by name."""

import json

import pytest
import torch

from attnlab import stats
from attnlab.bench import statistics

pytestmark = pytest.mark.filterwarnings(  # of other libraries
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)  # fmt: skip
CPU = torch.device("cpu")


@pytest.mark.peers
def test_rows_of_every_route():
    shares = []
    rows = statistics.measure((48, 96), CPU, 1.0, shares.append)
    assert json.loads(json.dumps(rows)) == rows
    assert shares == sorted(shares) and shares[-1] == 1
    of = {(row["route"], row["bias"]) for row in rows}
    assert of >= set(statistics.routes(8, 2, True, CPU)) | {("Hugging Face", "none")}
    assert {(row["n"], row["causal"]) for row in rows} == {
        (n, causal) for n in (48, 96) for causal in (True, False)
    }
    for row in rows:
        assert row["pass"]["seconds"] > 0 and row["pass"]["ratio"] > 0
        assert row["route"] != "attention" or row["pass"]["ratio"] == 1


def test_what_does_not_fit_is_left_out_and_says_how_large_it_would_be():
    rows = statistics.measure((256,), CPU, 1e-3, lambda share: None)
    for row in rows:
        by_matrix = row["route"] in ("dense", *statistics.PEERS)
        assert ("left_out" in row["pass"]) == by_matrix
        if by_matrix:
            assert row["pass"]["left_out"].startswith("would need 0.0")


@pytest.mark.parametrize("causal", [True, False])
def test_all_routes_find_the_same(causal):
    torch.manual_seed(0)
    works = statistics.routes(40, 2, causal, CPU)
    for bias in ("none", "t5"):
        entropy, distance = works["dense", bias]()
        for name in ("fused", "rows", "rows, all statistics"):
            if (name, bias) in works:
                found = works[name, bias]()
                torch.testing.assert_close(found.entropy, entropy, atol=1e-5, rtol=0)
                torch.testing.assert_close(found.distance, distance, atol=1e-4, rtol=0)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("peer", statistics.PEERS)
def test_peers_hand_out_weights(peer, causal):
    try:
        weights = statistics.PEERS[peer](7, 2, causal, CPU)()
    except ImportError:
        pytest.skip(f"{peer} is not installed")
    assert weights.shape == (1, 2, 7, 7)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, 7))
    visible = stats.causal_visible(7) if causal else torch.ones(7, 7, dtype=torch.bool)
    assert ((weights > 0) == visible).all()
