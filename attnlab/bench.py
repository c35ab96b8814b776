"""How fast every encoding is: `python -m attnlab.bench` times a whole layer, in ratios.

The yardstick ("base") is a layer without positions: one product for queries, keys and values, a
bare torch.nn.functional.scaled_dot_product_attention, one product for the output. Every encoding
of the registry, and other libraries' layers with the same encoding, are timed beside it: in every
round each layer runs once, in random order, and its time is divided by the base's of that round.
The table shows medians over the rounds. On a CPU the time is that of the process alone.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import random
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnlab import positions
from attnlab.attention import MultiHeadAttention, consecutive

LENGTHS = (128, 1024, 4096)
PACKAGES = {  # what to install: what to import
    "torch": "torch",
    "transformers": "transformers",
    "x-transformers": "x_transformers",
    "rotary-embedding-torch": "rotary_embedding_torch",
}


@dataclass(frozen=True)
class Sizes:
    """What every layer of a run has in common."""

    d_model: int
    n_heads: int
    max_len: int
    causal: bool

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_heads


class Base(nn.Module):
    """The yardstick: fused projections and a bare scaled_dot_product_attention."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.sizes = sizes
        self.in_proj = nn.Linear(sizes.d_model, 3 * sizes.d_model)
        self.out_proj = nn.Linear(sizes.d_model, sizes.d_model)

    def turn(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return q, k

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            t.unflatten(-1, (self.sizes.n_heads, -1)).transpose(1, 2)
            for t in self.in_proj(x).chunk(3, dim=-1)
        )
        q, k = self.turn(q, k)
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=self.sizes.causal)
        return self.out_proj(heads.transpose(1, 2).flatten(-2))


class Ours(nn.Module):
    """attnlab's layer, with everything that the encoding does before, in and after it."""

    def __init__(self, sizes: Sizes, name: str):
        super().__init__()
        self.causal = sizes.causal
        self.encoding = positions.make(
            name, d_model=sizes.d_model, n_heads=sizes.n_heads, max_len=sizes.max_len
        )
        self.attention = MultiHeadAttention(sizes.d_model, sizes.n_heads, encoding=self.encoding)

    def forward(self, x: Tensor) -> Tensor:
        pos = consecutive(0, x.shape[1], x.device)
        x = self.encoding.at_layer(self.encoding.embed(x, pos), pos, 0)
        return self.encoding.after_layer(self.attention(x, causal=self.causal), pos, 0)


class Calls(nn.Module):
    """Modules and the function that runs them on x: the wrapper around another library's layer."""

    def __init__(self, run: Callable[..., Tensor], **parts: nn.Module):
        super().__init__()
        self.parts, self.run = nn.ModuleDict(parts), run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, **self.parts)


def torch_layer(encoding: str, sizes: Sizes) -> nn.Module | None:
    """nn.MultiheadAttention; torch has no encodings but a table that one may look up."""
    layer = nn.MultiheadAttention(sizes.d_model, sizes.n_heads, batch_first=True)
    hidden = None
    if sizes.causal:
        hidden = nn.Transformer.generate_square_subsequent_mask(sizes.max_len)

    def attend(x, layer):
        n = x.shape[1]
        mask = None if hidden is None else hidden[:n, :n].to(x)
        return layer(x, x, x, need_weights=False, attn_mask=mask, is_causal=sizes.causal)[0]

    if encoding == "none":
        return Calls(attend, layer=layer)
    if encoding == "learned":
        table = nn.Embedding(sizes.max_len, sizes.d_model)
        return Calls(
            lambda x, layer, table: attend(x + table(torch.arange(x.shape[1]).to(x.device)), layer),
            layer=layer, table=table,
        )  # fmt: skip
    return None


def x_transformers_layer(encoding: str, sizes: Sizes, flash: bool) -> nn.Module | None:
    """x_transformers.Attention."""
    import x_transformers.x_transformers as xt

    layer = xt.Attention(
        sizes.d_model, heads=sizes.n_heads, dim_head=sizes.d_head, flash=flash, causal=sizes.causal
    )
    if encoding == "none":
        return Calls(lambda x, layer: layer(x), layer=layer)
    if encoding in ("sinusoidal", "learned"):
        table = (
            xt.ScaledSinusoidalEmbedding(sizes.d_model)
            if encoding == "sinusoidal"
            else xt.AbsolutePositionalEmbedding(sizes.d_model, sizes.max_len)
        )
        return Calls(lambda x, layer, table: layer(x + table(x)), layer=layer, table=table)
    if encoding == "rope":
        return Calls(
            lambda x, layer, rope: layer(x, rotary_pos_emb=rope.forward_from_seq_len(x.shape[1])),
            layer=layer, rope=xt.RotaryEmbedding(sizes.d_head),
        )  # fmt: skip
    if encoding in ("alibi", "t5"):
        bias = (
            xt.AlibiPositionalBias(sizes.n_heads)
            if encoding == "alibi"
            else xt.RelativePositionBias(
                sizes.d_head**0.5, causal=sizes.causal, heads=sizes.n_heads
            )
        )
        return Calls(lambda x, layer, bias: layer(x, rel_pos=bias), layer=layer, bias=bias)
    return None


def rotary_embedding_torch_layer(encoding: str, sizes: Sizes) -> nn.Module | None:
    """The base, with the queries and keys turned by rotary_embedding_torch."""
    if encoding != "rope":
        return None
    from rotary_embedding_torch import RotaryEmbedding

    layer = Base(sizes)
    layer.rope = RotaryEmbedding(sizes.d_head, cache_max_seq_len=max(8192, sizes.max_len))
    turn = layer.rope.rotate_queries_or_keys
    layer.turn = lambda q, k: (turn(q), turn(k))
    return layer


def transformers_layer(encoding: str, sizes: Sizes) -> nn.Module | None:
    """Hugging Face's attention layers with their scaled_dot_product_attention back end.

    Bloom's and MPT's layers have their own code; MPT's adds ALiBi along the keys, which equals
    the paper's only under a causal mask, at the same cost. Wav2Vec2-BERT has Shaw's key side only.
    """
    d, h, n, causal = sizes.d_model, sizes.n_heads, sizes.max_len, sizes.causal
    if encoding in ("none", "sinusoidal", "learned"):
        from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding
        from transformers.models.opt.modeling_opt import (
            OPTAttention,
            OPTConfig,
            OPTLearnedPositionalEmbedding,
        )

        config = OPTConfig(hidden_size=d, num_attention_heads=h, attention_dropout=0.0)
        config._attn_implementation = "sdpa"
        layer = OPTAttention(config, 0)
        layer.is_causal = causal
        if encoding == "none":
            return Calls(lambda x, layer: layer(x)[0], layer=layer)
        if encoding == "learned":
            table = OPTLearnedPositionalEmbedding(n, d)

            def run(x, layer, table):
                real = torch.ones(x.shape[:2], dtype=torch.long, device=x.device)
                return layer(x + table(real))[0]

            return Calls(run, layer=layer, table=table)
        table = MarianSinusoidalPositionalEmbedding(n, d)
        table.weight.copy_(table.create_weight())
        return Calls(
            lambda x, layer, table: layer(x + table(x.shape[:2]))[0], layer=layer, table=table
        )
    if encoding == "rope":
        from transformers.models.llama.modeling_llama import (
            LlamaAttention,
            LlamaConfig,
            LlamaRotaryEmbedding,
        )

        config = LlamaConfig(
            hidden_size=d, num_attention_heads=h, num_key_value_heads=h, max_position_embeddings=n
        )
        config._attn_implementation = "sdpa"
        layer = LlamaAttention(config, 0)
        layer.is_causal = causal

        def run(x, layer, rope):
            at = rope(x, torch.arange(x.shape[1], device=x.device)[None])
            return layer(x, at, None)[0]

        return Calls(run, layer=layer, rope=LlamaRotaryEmbedding(config))
    if encoding == "t5":
        from transformers.models.t5.modeling_t5 import T5Attention, T5Config

        config = T5Config(
            d_model=d, num_heads=h, d_kv=sizes.d_head, dropout_rate=0.0, is_decoder=causal
        )
        config._attn_implementation = "sdpa"
        layer = T5Attention(config, True, layer_idx=0, is_causal=causal)
        return Calls(lambda x, layer: layer(x)[0], layer=layer)
    if encoding == "alibi":
        from transformers.models.mpt.modeling_mpt import (
            MptAttention,
            MptConfig,
            build_mpt_alibi_tensor,
        )

        layer = MptAttention(MptConfig(d_model=d, n_heads=h, max_seq_len=n))
        hidden = torch.ones(n, n, dtype=torch.bool).triu(1) if causal else None

        def run(x, layer):
            n = x.shape[1]
            bias = build_mpt_alibi_tensor(h, n, device=x.device)
            return layer(x, bias, attention_mask=None if hidden is None else hidden[:n, :n])[0]

        return Calls(run, layer=layer)
    if encoding == "shaw":
        from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import (
            Wav2Vec2BertConfig,
            Wav2Vec2BertSelfAttention,
        )

        clip = positions.make("shaw", d_model=d, n_heads=h).clip
        config = Wav2Vec2BertConfig(
            hidden_size=d, num_attention_heads=h, attention_dropout=0.0,
            position_embeddings_type="relative_key", left_max_position_embeddings=clip,
            right_max_position_embeddings=clip,
        )  # fmt: skip
        config._attn_implementation = "sdpa"
        return Calls(lambda x, layer: layer(x)[0], layer=Wav2Vec2BertSelfAttention(config))
    return None


# name in the table: (package that must be there, function that builds the layer)
PEERS: dict[str, tuple[str, Callable]] = {
    "nn.MultiheadAttention": ("torch", torch_layer),
    "x-transformers": (
        "x-transformers", lambda name, sizes: x_transformers_layer(name, sizes, flash=False)
    ),
    "x-transformers flash": (
        "x-transformers", lambda name, sizes: x_transformers_layer(name, sizes, flash=True)
    ),
    "rotary-embedding-torch": ("rotary-embedding-torch", rotary_embedding_torch_layer),
    "Hugging Face": ("transformers", transformers_layer),
}  # fmt: skip


def versions() -> dict[str, str | None]:
    """The version of Python and of each package, None where it is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("torch", *PACKAGES):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def build(names: list[str], sizes: Sizes, peers: bool) -> tuple[dict, list[str]]:
    """{(encoding, whose): layer}, the base first, and a line on every peer that is missing."""
    torch.manual_seed(0)
    layers: dict[tuple[str, str], nn.Module] = {("none", "base"): Base(sizes)}
    missing: dict[str, str] = {}
    for name in names:
        layers[name, "attnlab"] = Ours(sizes, name)
        for whose, (package, make) in PEERS.items() if peers else ():
            try:
                layer = make(name, sizes)
            except ImportError:
                missing[package] = f"{package} is not installed and left out: pip install {package}"
            else:
                if layer is not None:
                    layers[name, whose] = layer
    return layers, list(missing.values())


class Clock:
    """Seconds of work: of this process on a CPU, of the finished kernels on a GPU."""

    def __init__(self, device: torch.device):
        self.wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type)
        self.read = time.process_time if self.wait is None else time.perf_counter

    def __call__(self, work: Callable[[], object], times: int) -> float:
        for wait in filter(None, [self.wait]):
            wait()
        start = self.read()
        for _ in range(times):
            work()
        for wait in filter(None, [self.wait]):
            wait()
        return (self.read() - start) / times


def forward(layer: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        layer(x)


def forward_backward(layer: nn.Module, x: Tensor) -> None:
    layer(x.detach().requires_grad_()).sum().backward()


PASSES = {"forward": forward, "forward + backward": forward_backward}


def peak_bytes(work: Callable[[], object], device: torch.device) -> int | None:
    """The most memory that work holds at once beyond what was there before, as torch allocates."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() - before
    if device.type != "cpu":
        return None
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or the profiler writes to stderr
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True, acc_events=True) as profile:
        work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def affordable(layers: dict, x: Tensor, gib: float) -> tuple[dict, list[str]]:
    """The layers that hold at most so much memory, and a line on each other one.

    Judged at 256 tokens: what an n x n layer holds grows with n^2.
    """
    n, probe = x.shape[1], x[:, :256]
    growth = (n / probe.shape[1]) ** 2
    keep, notes = {}, []
    for key, layer in layers.items():
        need = peak_bytes(lambda layer=layer: forward_backward(layer, probe), x.device)
        layer.zero_grad(set_to_none=True)
        if need is not None and need * growth > gib * 2**30 and growth > 1:
            encoding, whose = key
            notes.append(
                f"{whose}, {encoding}: n = {n} would hold up to {need * growth / 2**30:.0f} GiB, "
                "left out (see --memory)"
            )
        else:
            keep[key] = layer
    return keep, notes


def measure(
    layers: dict, x: Tensor, rounds: int, seconds: float, progress: Callable[[float], None]
) -> list[dict]:
    """One row for each layer: times, ratios to the base, and memory.

    Args:
        rounds: how often every layer is timed; more while `seconds` are not over.
        progress: told the share of the work that is done.
    """
    clock, order = Clock(x.device), random.Random(0)
    times: dict = {(key, p): [] for key in layers for p in PASSES}
    repeat, peak = {}, {}
    for i, (key, layer) in enumerate(layers.items()):
        for p, work in PASSES.items():
            layer.train(p != "forward")
            work(layer, x)  # whatever is built or cached on the first call
            once = clock(lambda work=work, layer=layer: work(layer, x), 1)
            repeat[key, p] = max(1, round(0.02 / max(once, 1e-6)))  # no clock reads microseconds
            peak[key, p] = peak_bytes(lambda work=work, layer=layer: work(layer, x), x.device)
            layer.zero_grad(set_to_none=True)
        progress((i + 1) / len(layers) * 0.2)
    start, done = time.monotonic(), 0
    while done < rounds or (time.monotonic() - start < seconds and done < 1000):
        jobs = [(key, p) for key in layers for p in PASSES]
        order.shuffle(jobs)
        for key, p in jobs:
            layer = layers[key].train(p != "forward")
            work = PASSES[p]
            times[key, p].append(clock(lambda: work(layer, x), repeat[key, p]))  # noqa: B023
            layer.zero_grad(set_to_none=True)
        done += 1
        by_time = (time.monotonic() - start) / seconds if seconds else 1.0
        progress(0.2 + 0.8 * min(done / rounds, by_time if done >= rounds else 1.0, 1.0))
    base = next(iter(layers))
    rows = []
    for encoding, whose in layers:
        row = {"encoding": encoding, "whose": whose, "n": x.shape[1], "rounds": done}
        for p in PASSES:
            own = times[(encoding, whose), p]
            ratios = [a / b for a, b in zip(own, times[base, p], strict=True)]
            row[p] = {
                "seconds": statistics.median(own),
                "ratio": statistics.median(ratios),
                "ratio_quartiles": quartiles(ratios),
                "peak_bytes": peak[(encoding, whose), p],
            }
        rows.append(row)
    return rows


def quartiles(values: list[float]) -> list[float]:
    """The values that a quarter and three quarters lie below."""
    if len(values) < 2:
        return [values[0]] * 2
    return statistics.quantiles(values, n=4, method="inclusive")[::2]


def table(rows: list[dict]) -> str:
    """The rows as text: ratios to the base with their quartiles, then memory."""
    lines = [
        f"{'':32s}{'forward':>27s}{'forward + backward':>28s}{'peak MiB':>16s}",
        f"{'encoding':20s}{'layer':24s}" + 2 * f"{'ms':>9s}{'x base':>8s}{'':11s}"
        + f"{'fwd':>8s}{'f + b':>8s}",
    ]  # fmt: skip
    for row in rows:
        line = f"{row['encoding']:20s}{row['whose']:24s}"
        for p in PASSES:
            low, high = row[p]["ratio_quartiles"]
            spread = f" {low:.2f}-{high:.2f}"
            line += f"{row[p]['seconds'] * 1e3:9.2f}{row[p]['ratio']:8.2f}{spread:11s}"
        for p in PASSES:
            held = row[p]["peak_bytes"]
            line += f"{'-':>8s}" if held is None else f"{held / 2**20:8.1f}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def write_atomically(path: Path, text: str) -> None:
    """The whole file or none: it gets its name only when it is complete."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def device_name(device: torch.device) -> str:
    """In words: which GPU, or which processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m attnlab.bench", description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, metavar="N")
    parser.add_argument("--encodings", nargs="+", metavar="NAME", default=positions.names())
    parser.add_argument("--rounds", type=int, default=7, help="at least so many (default 7)")
    parser.add_argument("--seconds", type=float, default=0, help="go on so long for each length")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--d-model", type=int, default=512)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--causal", action="store_true", help="with a causal mask, base included")
    parser.add_argument("--no-peers", action="store_true", help="leave other libraries out")
    parser.add_argument(
        "--memory", type=float, default=6, metavar="GIB", help="leave out what needs more (6)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file")
    options = parser.parse_args(arguments)
    for name in options.encodings:
        if name not in positions.names():
            parser.error(f"unknown encoding {name!r}; known: {', '.join(positions.names())}")
    if min(*options.lengths, options.rounds, options.threads, options.batch) < 1:
        parser.error("lengths, rounds, threads and batch must be at least 1")
    if options.heads < 1 or options.d_model % options.heads:
        parser.error("heads must divide d-model")
    if options.json and not options.json.absolute().parent.is_dir():
        parser.error(f"no folder {options.json.absolute().parent} to write to")
    try:
        device = torch.device(options.device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"device {options.device!r}: {str(error).splitlines()[0]}")

    threads_before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    sizes = Sizes(options.d_model, options.heads, max(options.lengths), options.causal)
    try:
        with torch.enable_grad():
            return run(options, sizes, device, arguments)
    except KeyboardInterrupt:
        print("\ninterrupted: nothing was written", file=sys.stderr)
        return 130
    finally:
        torch.set_num_threads(threads_before)


def run(options, sizes: Sizes, device: torch.device, arguments: list[str] | None) -> int:
    known = versions()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    print(
        f"{device_name(device)}, {options.threads} thread(s), torch {known['torch']}, "
        + (f"load {load:.1f}, " if load is not None else "")
        + f"float32, batch {options.batch}, d_model {sizes.d_model}, {sizes.n_heads} heads"
        + (", causal" if sizes.causal else "")
    )
    layers, notes = build(options.encodings, sizes, peers=not options.no_peers)
    layers = {key: layer.to(device) for key, layer in layers.items()}
    for note in notes:
        print(note)
    rows = []
    for n in options.lengths:
        x = torch.randn(options.batch, n, sizes.d_model, device=device)

        def progress(share: float, n: int = n) -> None:
            if sys.stderr.isatty():
                filled = int(30 * share)
                bar = "#" * filled + "." * (30 - filled)
                print(f"\rn = {n}: [{bar}] {share:4.0%} ", end="", file=sys.stderr, flush=True)

        progress(0.0)
        small_enough, too_large = affordable(layers, x, options.memory)
        notes += too_large
        new = measure(small_enough, x, options.rounds, options.seconds, progress)
        if sys.stderr.isatty():
            print("\r" + " " * 60 + "\r", end="", file=sys.stderr, flush=True)
        title = f"\nn = {n}, {new[0]['rounds']} rounds"
        print(title, table(new), *too_large, sep="\n", flush=True)
        rows += new
    if options.json:
        words = sys.argv[1:] if arguments is None else arguments
        report = {
            "command": shlex.join(["python", "-m", "attnlab.bench", *words]),
            "device": device_name(device),
            "threads": options.threads,
            "load_before": load,
            "versions": known,
            "sizes": {
                "d_model": sizes.d_model, "n_heads": sizes.n_heads, "batch": options.batch,
                "causal": sizes.causal, "dtype": "float32",
            },
            "left_out": notes,
            "rows": rows,
        }  # fmt: skip
        write_atomically(options.json, json.dumps(report, indent=1) + "\n")
        print(f"\nwritten to {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
