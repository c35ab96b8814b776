"""run.py without a network: in a folder of its own, where a stub stands for .venv's Python."""

import ast
import collections
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = (ROOT / "requirements.txt").read_text(encoding="utf-8")
SMALL_REQUIREMENTS = "# for tests\n-e .\nnumpy==2.4.6\ntorch==2.13.0  # pinned\n"

spec = importlib.util.spec_from_file_location("course_run", ROOT / "run.py")
run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run)

# Answers like .venv's Python: writes down how it was called, then does what plan.json says about
# the first of its words that is found in the call. An answer is used up, the last one stays.
STUB = """#!{python}
import json, os, sys
here = os.path.dirname(os.path.abspath(__file__))
call = " ".join(sys.argv[1:])
with open(os.path.join(here, "calls.txt"), "a") as file:
    file.write(call + chr(10))
with open(os.path.join(here, "settings.txt"), "w") as file:
    file.write(os.environ.get("JUPYTER_CONFIG_PATH", ""))
with open(os.path.join(here, "plan.json")) as file:
    plan = json.load(file)
for words, answers in plan.items():
    if words in call:
        status, log = answers[0]
        plan[words] = answers[1:] or answers
        with open(os.path.join(here, "plan.json"), "w") as file:
            json.dump(plan, file)
        if log:
            with open(sys.argv[sys.argv.index("--log") + 1], "a") as file:
                file.write(log + chr(10))
        sys.exit(status)
"""


class Course:
    """A copy of run.py with a stub environment, started as a user starts it."""

    def __init__(self, root):
        self.root = root
        self.bin = root / ".venv" / "bin"
        (root / "run.py").write_bytes((ROOT / "run.py").read_bytes())
        (root / "requirements.txt").write_text(SMALL_REQUIREMENTS)
        (root / "pyproject.toml").write_text("[project]\nname = 'x'\n")
        self.bin.mkdir(parents=True)
        stub = self.bin / "python"
        stub.write_text(STUB.format(python=sys.executable))
        stub.chmod(0o755)
        self.plan({})

    def plan(self, answers):
        """answers: words in a call -> list of (exit status, line for pip's log)."""
        (self.bin / "plan.json").write_text(json.dumps(answers))

    def start(self, *arguments, **environment):
        """Exit status, everything printed, and the calls that the stub got."""
        log = self.bin / "calls.txt"
        log.write_text("")
        done = subprocess.run(
            [sys.executable, str(self.root / "run.py"), *arguments],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        Result = collections.namedtuple("Result", "status text calls")
        return Result(done.returncode, done.stdout, log.read_text().splitlines())

    @property
    def stamp(self):
        return self.root / ".venv" / "course-stamp.txt"


@pytest.fixture
def course(tmp_path):
    if os.name == "nt":
        pytest.skip("the stub is a script with a #! line")
    return Course(tmp_path)


@pytest.fixture(autouse=True)
def tested_versions(monkeypatch):
    """Whatever the tests themselves run under, run.py is asked for the pinned versions."""
    monkeypatch.delenv("ATTNLAB_NEWEST", raising=False)
    monkeypatch.delenv("ATTNLAB_OLDEST", raising=False)


def pip_calls(calls):
    return [call for call in calls if call.startswith("-m pip")]


# --- which Python -------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 6, 15), (3, 10, 13)])
def test_an_old_python_is_told_what_is_needed(version):
    message = run.version_problem(version, "/usr/bin/oldpython")
    assert "3.11" in message and "{}.{}".format(*version) in message
    assert "/usr/bin/oldpython" in message and "python.org" in message


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 13, 2), (3, 14, 0)])
def test_a_new_python_is_accepted(version):
    assert run.version_problem(version, "python") is None


def test_an_old_python_can_read_the_file():
    source = (ROOT / "run.py").read_bytes()
    source.decode("ascii")  # Python 2 refuses anything else without a declaration
    tree = ast.parse(source, feature_version=(3, 4))
    check = next(i for i, node in enumerate(tree.body) if isinstance(node, ast.If))
    early = [node for node in tree.body[:check] if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in early] == ["import sys"]
    too_new = (ast.JoinedStr, ast.NamedExpr, ast.AnnAssign, ast.AsyncFunctionDef, ast.Nonlocal)
    for node in ast.walk(tree):
        assert not isinstance(node, too_new), f"line {node.lineno}: too new for Python 2.7"
        if isinstance(node, ast.FunctionDef):
            assert node.returns is None and not node.args.kwonlyargs and not node.args.posonlyargs
            assert all(argument.annotation is None for argument in node.args.args)
        if isinstance(node, ast.Raise):
            assert node.cause is None, f"line {node.lineno}: `raise ... from` is Python 3"
        if isinstance(node, ast.Call):
            assert getattr(node.func, "id", "") != "print", f"line {node.lineno}: use say()"


# --- the command line ---------------------------------------------------------------------------


def test_an_unknown_command_names_the_known_ones_and_installs_nothing(course):
    status, text, calls = course.start("tset")
    assert status == 2 and calls == []
    assert "'tset'" in text and "python run.py test" in text


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help_says_both_commands_and_installs_nothing(course, word):
    status, text, calls = course.start(word)
    assert status == 0 and calls == []
    assert "python run.py test" in text and "JupyterLab" in text


def test_lab_opens_the_first_notebook_and_passes_options_on(course):
    (course.root / "notebooks").mkdir()
    status, _, calls = course.start("--no-browser")
    assert status == 0
    assert calls[-1].startswith("-m jupyterlab ") and calls[-1].endswith(" --no-browser")
    assert "/lab/tree/notebooks " in calls[-1]
    (course.root / run.START).write_text("{}")
    _, _, calls = course.start("lab", "--port=9")
    assert calls[-1].endswith("/lab/tree/notebooks/00-start-here.ipynb --port=9")
    _, _, calls = course.start("lab", "notebooks/other.ipynb")
    assert calls[-1].endswith(" notebooks/other.ipynb") and "default_url" not in calls[-1]


def test_lab_takes_the_courses_settings_before_the_readers_own(course, monkeypatch):
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "own")
    assert course.start("lab")[0] == 0
    first, *rest = (course.bin / "settings.txt").read_text().split(os.pathsep)
    assert Path(first) == course.root / "jupyter-config" and rest == ["own"]
    assert (ROOT / "jupyter-config" / "jupyter_server_config.py").exists()


def test_test_runs_every_step_and_fails_if_one_fails(course):
    steps = [
        "-m ruff check .", "notebooks/build.py --check",
        "-m pytest -n 2 --dist loadfile --no-loadscope-reorder",
    ]  # fmt: skip
    status, _, calls = course.start("test")
    assert status == 0 and calls[-3:] == steps
    for step in steps:
        course.plan({step: [(3, "")]})
        status, text, calls = course.start("test")
        assert status == 3 and calls == steps, f"{step} failed and run.py went on otherwise"
        assert "Failed: " in text


def test_test_with_arguments_runs_pytest_alone(course):
    course.start("test")
    status, _, calls = course.start("test", "tests/test_x.py", "-k", "stamp")
    assert status == 0 and calls == ["-m pytest tests/test_x.py -k stamp"]


# --- when it installs ---------------------------------------------------------------------------


def test_the_second_start_installs_nothing(course):
    assert pip_calls(course.start("test").calls)
    assert not pip_calls(course.start("test").calls)


@pytest.mark.parametrize("changed", ["requirements.txt", "pyproject.toml"])
def test_a_changed_file_installs_again(course, changed):
    course.start("test")
    with (course.root / changed).open("a") as file:
        file.write("# changed\n")
    assert pip_calls(course.start("test").calls)
    assert not pip_calls(course.start("test").calls)


def test_another_python_or_a_moved_folder_is_another_environment(course, monkeypatch):
    setup = run.Setup(str(course.root))
    key = setup.key()
    with monkeypatch.context() as another:
        another.setattr(sys, "version", "3.99 of some day")
        assert setup.key() != key
    assert setup.key() == key
    setup.root = str(course.root / ".." / course.root.name)
    assert setup.key() != key


def test_a_missing_file_is_named(course):
    (course.root / "requirements.txt").unlink()
    status, text, _ = course.start("test")
    assert status == 1 and "requirements.txt is missing" in text and "Traceback" not in text


# --- when that fails ----------------------------------------------------------------------------

FAILURES = {
    "disk": ("OSError: [Errno 28] No space left on device", "disk is full"),
    "network": ("NewConnectionError: Temporary failure in name resolution", "Check the network"),
    "proxy": ("ProxyError('Cannot connect to proxy.')", "Check the network"),
    "certificate": ("SSLError: CERTIFICATE_VERIFY_FAILED", "PIP_CERT"),
    "no build": ("ERROR: No matching distribution found for torch==2.13.0", "no build for this"),
    "rights": ("PermissionError: [Errno 13] Permission denied: 'x'", "could not be written"),
    "other": ("ERROR: the moon is full", "lines above"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failed_install_says_what_to_do_and_the_next_try_works(course, name):
    line, advice = FAILURES[name]
    course.plan({"-r requirements.txt": [(1, line), (0, "")]})
    status, text, calls = course.start("test")
    assert status == 1 and "Traceback" not in text
    assert "Stopped: The installation failed." in text and advice in text
    assert "install.log" in text and "run the same command again" in text
    for other, (_, different) in FAILURES.items():
        assert other == name or different == advice or different not in text
    assert not course.stamp.exists()
    assert "-m pytest" not in calls[-1]
    assert course.start("test").status == 0
    assert course.stamp.exists()


def test_a_network_failure_is_not_taken_for_a_missing_build():
    assert "Check the network" in run.diagnose(
        "WARNING: Retrying after connection broken by 'NewConnectionError'\n"
        "ERROR: Could not find a version that satisfies the requirement torch==2.13.0\n"
        "ERROR: No matching distribution found for torch==2.13.0"
    )


def test_a_retry_that_helped_is_not_blamed():
    log = "connection broken by 'ReadTimeoutError'\n" + "Downloading\n" * 200 + "some other end"
    assert "lines above" in run.diagnose(log)


def test_an_interrupted_update_is_not_taken_for_complete(course):
    course.start("test")
    before = (course.root / "requirements.txt").read_text()
    (course.root / "requirements.txt").write_text(before + "another==1.0\n")
    course.plan({"-r requirements.txt": [(1, "no"), (0, "")]})
    assert course.start("test").status == 1
    (course.root / "requirements.txt").write_text(before)
    assert pip_calls(course.start("test").calls)


def test_what_does_not_start_is_reported(course):
    course.plan({"import attnlab": [(1, "")]})
    status, text, _ = course.start("test")
    assert status == 1 and "does not start" in text and not course.stamp.exists()


def test_ctrl_c_ends_without_a_traceback(course, monkeypatch, capsys):
    def interrupted(self, arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(run.Setup, "pip", interrupted)
    assert run.main(["test"], run.Setup(str(course.root))) == 130
    assert "Stopped by you" in capsys.readouterr().err
    assert not course.stamp.exists()


@pytest.mark.parametrize("nvidia, needed", [(False, 3), (True, 10)])
def test_too_little_disk_is_seen_before_anything_is_made(
    course, monkeypatch, capsys, nvidia, needed
):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(run, "has_nvidia", lambda: nvidia)
    monkeypatch.setattr(
        run.shutil, "disk_usage", lambda path: usage(100e9, 98e9, (needed - 0.5) * 1e9)
    )
    setup = run.Setup(str(course.root))
    assert run.main(["test"], setup) == 1
    message = capsys.readouterr().err
    assert f"needs {needed} GB" in message and f"{needed - 0.5:.1f} GB" in message
    assert not (course.bin / "calls.txt").exists()
    setup.check_disk(needed - 1)  # enough is enough


def test_a_python_without_ensurepip_is_told_the_package(course, monkeypatch, capsys):
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(run.Setup, "usable", lambda self: False)
    assert run.main(["test"], run.Setup(str(course.root))) == 1
    assert "apt install python{}.{}-venv".format(*sys.version_info) in capsys.readouterr().err


def test_a_half_made_venv_is_built_anew(tmp_path):
    """A real one: no pip, then pip, then a package whose installation was interrupted."""
    setup = run.Setup(str(tmp_path))
    assert not setup.usable()
    venv.create(setup.env, with_pip=False)
    assert not setup.usable(), "no pip in it"
    setup.make_venv()
    assert setup.usable()
    packages = next(Path(setup.env).glob("**/site-packages"))
    (packages / "half-1.0.dist-info").mkdir()
    (packages / "half-1.0.dist-info" / "METADATA").write_text("Name: half\nVersion: 1.0\n")
    assert not setup.usable(), "a package without RECORD"
    setup.make_venv()
    assert setup.usable()


# --- what it installs ---------------------------------------------------------------------------


def test_torch_is_read_from_the_requirements():
    line = run.torch_requirement(REQUIREMENTS)
    assert re.fullmatch(r"torch==\d+\.\d+\.\d+", line) and line in REQUIREMENTS.splitlines()
    assert run.torch_requirement("a\ntorch == 2.0.1 # why\nb") == "torch==2.0.1"
    assert run.torch_requirement("torchvision==1\ntorch-x==2\ntorch") == "torch"
    with pytest.raises(run.Stop, match="no line for torch"):
        run.torch_requirement("torchvision==1\n# torch==2\n")


def test_without_nvidia_torch_comes_first_and_without_cuda(course, monkeypatch):
    setup = run.Setup(str(course.root))
    monkeypatch.setattr(sys, "platform", "linux")
    for nvidia, expected in [(False, [run.CPU_INDEX, "-r requirements.txt"]), (True, ["-r"])]:
        monkeypatch.setattr(run, "has_nvidia", lambda nvidia=nvidia: nvidia)
        monkeypatch.setattr(setup, "check_disk", lambda needed: None)
        course.stamp.unlink(missing_ok=True)
        (course.bin / "calls.txt").unlink(missing_ok=True)
        setup.prepare()
        calls = pip_calls((course.bin / "calls.txt").read_text().splitlines())
        assert len(calls) == len(expected)
        assert all(part in call for part, call in zip(expected, calls, strict=True))
    monkeypatch.setattr(run, "has_nvidia", lambda: False)
    monkeypatch.setattr(sys, "platform", "darwin")
    course.stamp.unlink()
    (course.bin / "calls.txt").unlink()
    setup.prepare()
    assert run.CPU_INDEX not in (course.bin / "calls.txt").read_text()


@pytest.mark.skipif(sys.platform != "linux" or run.has_nvidia(), reason="Linux without NVIDIA only")
def test_out_of_reach_pytorch_s_index_is_done_without(course):
    course.plan({run.CPU_INDEX: [(1, "no network")]})
    status, text, calls = course.start("test")
    assert status == 0 and "the usual build of PyTorch" in text
    first, second = pip_calls(calls)
    assert first.endswith(" torch==2.13.0") and "--timeout 15" in first and "--retries 1" in first
    assert second.endswith("-r requirements.txt")


def test_newest_takes_every_pin_away_and_nothing_else():
    text = run.unpinned(REQUIREMENTS)
    assert "==" in REQUIREMENTS and "==" not in text
    assert len(text.splitlines()) == len(REQUIREMENTS.splitlines())
    assert "-e ." in text.splitlines()
    names = re.findall(r"(?m)^([a-z][\w-]*)==", REQUIREMENTS)
    assert len(names) > 10 and set(names) <= set(text.splitlines())
    assert run.unpinned("a[b]==1.0 ; python_version<'3.12'\nc>=2\n# d==1") == (
        "a[b] ; python_version<'3.12'\nc>=2\n# d==1"
    )


def test_newest_installs_the_newest(course):
    course.start("test")
    status, _, calls = course.start("test", ATTNLAB_NEWEST="1")
    assert status == 0
    *_, rest = pip_calls(calls)
    assert "--upgrade --upgrade-strategy eager" in rest and rest.endswith("newest.txt")
    assert (course.root / ".venv" / "newest.txt").read_text() == run.unpinned(SMALL_REQUIREMENTS)
    assert not pip_calls(course.start("test", ATTNLAB_NEWEST="1").calls)
    assert pip_calls(course.start("test").calls), "back to the tested versions"


def test_oldest_takes_the_lower_bounds_and_no_peers():
    text = run.lowered(REQUIREMENTS, (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    have = dict(re.findall(r"(?m)^([a-z][\w-]*)==(\S+)", text))
    pins = dict(re.findall(r"(?m)^([a-z][\w-]*)==(\S+)", REQUIREMENTS))
    needed = [Requirement(line) for line in importlib.metadata.requires("attnlab")]
    bounds = {r.name: str(r.specifier).removeprefix(">=") for r in needed}
    assert len(bounds) > 5 and bounds == {name: have[name] for name in bounds}
    assert set(pins) - set(have) == set(run.PEERS)
    assert {n: v for n, v in have.items() if n not in bounds} == {
        n: v for n, v in pins.items() if n not in bounds and n not in run.PEERS
    }


def test_oldest_is_an_environment_of_its_own(course):
    pyproject = '[project]\ndependencies = [\n    "numpy>=1.26",\n]'
    (course.root / "pyproject.toml").write_text(pyproject)
    made_for = course.root / ".venv" / "oldest.txt"
    made_for.write_text("")  # otherwise the stub would be cleared away
    status, _, calls = course.start("test", ATTNLAB_OLDEST="1")
    assert status == 0 and pip_calls(calls)[-1].endswith("oldest.txt")
    assert "numpy==1.26\n" in made_for.read_text()
    assert any("weigh.py" in call for call in calls) and not any("nbval" in c for c in calls)


def test_between_oldest_and_tested_the_environment_is_made_anew(tmp_path, monkeypatch):
    setup = run.Setup(str(tmp_path))
    left = Path(setup.env, "what-only-the-other-list-has")
    setup.make_venv()
    for wanted in "1", "":
        monkeypatch.setenv("ATTNLAB_OLDEST", wanted)
        left.touch()
        setup.make_venv()
        assert not left.exists() and not Path(setup.oldest_list).exists()
        Path(setup.oldest_list).write_text("")  # as an installation of the oldest releases does
        assert setup.usable() == run.oldest()


def test_the_pins_lie_in_the_ranges_of_attnlab():
    pins = dict(re.findall(r"(?m)^([a-z][\w-]*)==(\S+)", REQUIREMENTS))
    needed = [Requirement(line) for line in importlib.metadata.requires("attnlab")]
    assert len(needed) > 5
    for requirement in needed:
        assert pins[requirement.name] in requirement.specifier, str(requirement)


@pytest.mark.skipif(run.newest() or run.oldest(), reason="not the pinned versions, by request")
def test_what_is_installed_is_what_is_pinned():
    pins = dict(re.findall(r"(?m)^([a-z][\w-]*)==(\S+)", REQUIREMENTS))
    have = {name: importlib.metadata.version(name).split("+")[0] for name in pins}
    assert have == pins
