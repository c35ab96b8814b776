"""Heads & Positions: set up and start the course.

    python run.py               open the course in JupyterLab
    python run.py lab ARGS      the same, with options for JupyterLab: --no-browser, --port=9999
    python run.py test          run every check and every test
    python run.py test ARGS     hand ARGS to pytest alone: tests/test_attention.py -k causal

The first start makes the folder .venv beside this file and installs into it what requirements.txt
names; later starts find it ready. Nothing outside .venv is changed, and deleting .venv undoes it.
ATTNLAB_NEWEST=1 installs the newest release of everything instead of the tested versions;
ATTNLAB_OLDEST=1 the oldest releases that attnlab promises to work with, to test them.
"""

# Standard library only. No f-strings, no annotations: an old Python has to be able to read this
# file as far as the line that says which Python is needed.

import sys

OLDEST, NEWEST_TESTED = (3, 11), (3, 13)


def version_problem(version, program):
    """What is wrong with this Python, as a message, or None."""
    if tuple(version[:2]) >= OLDEST:
        return None
    return (
        "This course needs Python 3.11, 3.12 or 3.13. This one is {}.{}: {}\n"
        "If a newer one is installed, name it:  python3.12 run.py   (Windows:  py -3.12 run.py)\n"
        "Otherwise install one from https://www.python.org/downloads/ and run this again."
    ).format(version[0], version[1], program)


if version_problem(sys.version_info, sys.executable):
    sys.exit(version_problem(sys.version_info, sys.executable))

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile

ROOT = os.path.dirname(os.path.abspath(__file__))
# PyTorch's own index of builds without CUDA. The ordinary Linux build carries gigabytes of CUDA.
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PEERS = ("rotary-embedding-torch", "transformers", "x-transformers")
START = "notebooks/00-start-here.ipynb"


class Stop(Exception):
    """The set-up cannot go on; the message says why and what to do."""


def say(text, stream=None):
    stream = stream or sys.stdout
    stream.write(text + "\n")
    stream.flush()  # pip and pytest write to the same screen


def newest():
    """True where the newest releases are wanted instead of the tested ones."""
    return os.environ.get("ATTNLAB_NEWEST", "") not in ("", "0")


def oldest():
    """True where the oldest releases are wanted that pyproject.toml allows."""
    return os.environ.get("ATTNLAB_OLDEST", "") not in ("", "0")


def has_nvidia():
    return bool(shutil.which("nvidia-smi")) or os.path.exists("/proc/driver/nvidia/version")


def unpinned(requirements):
    """The text of requirements.txt with every `==version` taken away."""
    return re.sub(r"(?m)^([A-Za-z0-9][\w.\-\[\],]*)[ \t]*==[^\s;#]+", r"\1", requirements)


def lowered(requirements, pyproject):
    """The text of requirements.txt with attnlab's dependencies at their lower bounds, and without
    the packages that attnlab is only compared with: they need newer ones."""
    for name, bound in re.findall(r'(?m)^    "([\w-]+)>=([\d.]+)",$', pyproject):
        requirements = re.sub(r"(?m)^{}==.*$".format(name), name + "==" + bound, requirements)
    return re.sub(r"(?m)^({})==.*\n".format("|".join(PEERS)), "", requirements)


def torch_requirement(requirements):
    """The line for torch in the text of requirements.txt: `torch==2.13.0`, or `torch`."""
    found = re.search(r"(?m)^torch\b(?![\w.\-])[^#;\n]*", requirements)
    if not found:
        raise Stop("requirements.txt has no line for torch. Take the file from the course again.")
    return "".join(found.group().split())


def diagnose(log):
    """What to do about a failed pip, from the text of its log."""
    text = "\n".join(log.lower().splitlines()[-100:])  # a retry that helped is further up

    def seen(*signs):
        return any(sign in text for sign in signs)

    if seen("no space left", "errno 28", "winerror 112", "not enough space on the disk"):
        return (
            "The disk is full. Make room (about 3 GB here, and 1 GB in {}).".format(
                tempfile.gettempdir()
            )
        )
    if seen("certificate_verify_failed", "sslcertverificationerror"):
        return (
            "The package index was reached, but its certificate was refused. In a company or\n"
            "university network, ask for the proxy's certificate and set PIP_CERT to its file."
        )
    if seen(
        "failed to establish a new connection",
        "name resolution",
        "getaddrinfo failed",
        "nodename nor servname",
        "network is unreachable",
        "connection broken",
        "connecttimeout",
        "readtimeout",
        "read timed out",
        "proxyerror",
        "connection refused",
        "connection reset",
    ):
        return (
            "The package index could not be reached. Check the network; behind a proxy, set\n"
            "HTTPS_PROXY to its address."
        )
    if seen("no matching distribution found", "could not find a version"):
        return (
            "A package has no build for this Python ({}.{}) on this machine. PyTorch is built\n"
            "for 64-bit Python on Linux, Windows and Macs with Apple's own processor. Try Python\n"
            "3.12:  python3.12 run.py   (Windows:  py -3.12 run.py)"
        ).format(*sys.version_info[:2])
    if seen("permission denied", "permissionerror", "access is denied", "errno 13"):
        return (
            "A file could not be written. Close every JupyterLab that runs from this folder, and\n"
            "check that the folder is yours."
        )
    return "The lines above say why."


class Setup:
    """The environment in `root`/.venv: what it should hold, and how it gets there."""

    def __init__(self, root=ROOT):
        self.root = root
        self.env = os.path.join(root, ".venv")
        self.python = os.path.join(
            self.env, *(("Scripts", "python.exe") if os.name == "nt" else ("bin", "python"))
        )
        self.stamp = os.path.join(self.env, "course-stamp.txt")
        self.log = os.path.join(self.env, "install.log")
        self.oldest_list = os.path.join(self.env, "oldest.txt")

    def read(self, name):
        path = os.path.join(self.root, name)
        if not os.path.exists(path):
            raise Stop(name + " is missing. Take the whole course folder, not run.py alone.")
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def requirements(self):
        text = self.read("requirements.txt")
        if oldest():
            return lowered(text, self.read("pyproject.toml"))
        return unpinned(text) if newest() else text

    def key(self):
        """Changes whenever the environment has to be installed anew."""
        parts = [self.requirements(), self.read("pyproject.toml"), sys.version, self.root]
        return hashlib.sha256("\0".join(parts).encode("utf-8")).hexdigest()

    def ready(self):
        """True if .venv holds what is wanted: the stamp, written last, says so."""
        try:
            with open(self.stamp, encoding="utf-8") as file:
                return file.read() == self.key() and os.path.exists(self.python)
        except OSError:
            return False

    def prepare(self):
        """Make .venv hold what is wanted. Raises Stop with a message if that fails."""
        if self.ready():
            return
        cpu = sys.platform == "linux" and not has_nvidia()
        self.check_disk(10 if sys.platform == "linux" and not cpu else 3)
        if sys.version_info[:2] > NEWEST_TESTED:
            say("Note: tested with Python 3.11 to 3.13; this is {}.{}.".format(*sys.version_info))
        say("Setting up the course in " + self.env)
        say("Once only, a few minutes. Ctrl-C stops; the next start goes on from there.")
        steps = [("making the environment .venv", self.make_venv)]
        if cpu:
            steps.append(("installing PyTorch without CUDA (about 200 MB)", self.install_cpu_torch))
        steps.append(("installing JupyterLab and the rest (about 200 MB)", self.install_rest))
        steps.append(("trying it out", self.try_out))
        for number, (what, step) in enumerate(steps, 1):
            say("\n[{}/{}] {} ...".format(number, len(steps), what))
            step()
        with open(self.stamp, "w", encoding="utf-8") as file:
            file.write(self.key())
        say("\nReady.\n")

    def check_disk(self, needed_gb):
        if os.path.exists(self.stamp):  # it was complete once: an update needs little
            needed_gb = 1
        free_gb = shutil.disk_usage(self.root).free / 1e9
        if free_gb < needed_gb:
            raise Stop(
                "The set-up needs {} GB of free disk; {} has {:.1f} GB.\n"
                "Make room, or move the course folder to a bigger disk.".format(
                    needed_gb, self.root, free_gb
                )
            )

    def make_venv(self):
        """Reuse a .venv that works, rebuild one that does not."""
        if os.path.exists(self.stamp):
            os.remove(self.stamp)  # whatever happens from here on, it is not ready
        if self.usable():
            say("found one, reusing it")
            return
        if importlib.util.find_spec("ensurepip") is None:
            raise Stop(
                "This Python lacks ensurepip, which puts pip into a new environment. On Debian\n"
                "and Ubuntu it is a package of its own:\n"
                "    sudo apt install python{}.{}-venv".format(*sys.version_info[:2])
            )
        if self.call([sys.executable, "-m", "venv", "--clear", self.env]) != 0:
            raise Stop("Python could not make .venv; the lines above say why.")

    def usable(self):
        """True if .venv has this Python, pip, no package that was left half installed, and was not
        made for the oldest releases if the tested ones are wanted, or the other way round: what
        only one of the two lists has would stay, and fail beside the other's versions.

        A pip that is interrupted leaves a package without its list of files (RECORD); pip then
        takes it for installed, and can neither complete nor remove it.
        """
        if not os.path.exists(self.python) or os.path.exists(self.oldest_list) != oldest():
            return False
        code = (
            "import sys, pip, importlib.metadata as m;"
            "same = sys.version_info[:2] == {};"
            "whole = all(d.read_text('RECORD') for d in m.distributions());"
            "sys.exit(not (same and whole))"
        ).format(tuple(sys.version_info[:2]))
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return self.call([self.python, "-I", "-c", code], **quiet) == 0

    def install_cpu_torch(self):
        """Try PyTorch's own index, not for long: where it is out of reach, the usual one serves."""
        code = self.pip(
            ["--no-deps", "--index-url", CPU_INDEX, "--retries", "1", "--timeout", "15"]
            + (["--upgrade"] if newest() else [])
            + [torch_requirement(self.requirements())]
        )
        if code != 0:
            say("That did not work; the next step takes the usual build of PyTorch instead,")
            say("which may be larger (several GB).")

    def install_rest(self):
        # The file with other pins lies in .venv; pip reads `-e .` from where it is started.
        name = "requirements.txt"
        if newest() or oldest():
            name = os.path.join(self.env, "newest.txt") if newest() else self.oldest_list
            with open(name, "w", encoding="utf-8") as file:
                file.write(self.requirements())
        eager = ["--upgrade", "--upgrade-strategy", "eager"] if newest() else []
        if self.pip(eager + ["-r", name]) != 0:
            raise Stop(
                "The installation failed.\n{}\n(pip's full record: {})".format(
                    diagnose(self.read(self.log)), self.log
                )
            )

    def pip(self, arguments):
        """pip, its output on the screen and, in full, in .venv/install.log."""
        with open(self.log, "w"):
            pass
        command = [self.python, "-m", "pip", "--log", self.log, "--disable-pip-version-check"]
        return self.call(command + ["install", "--no-input"] + arguments)

    def try_out(self):
        code = (
            "import attnlab, jupyterlab, torch;"
            "print('attnlab, JupyterLab', jupyterlab.__version__, 'and torch', torch.__version__)"
        )
        if self.call([self.python, "-c", code]) != 0:
            raise Stop(
                "Everything is installed, but it does not start; the lines above say why.\n"
                "Delete the folder .venv and run this again."
            )
        # Otherwise JupyterLab's first word to a student is a question about news.
        announcements = "@jupyterlab/apputils-extension:announcements"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        labextension = [self.python, "-m", "jupyterlab.labextensions", "disable"]
        self.call(labextension + ["--level=sys_prefix", announcements], **quiet)

    def call(self, command, **options):
        """The exit status of a command run in the course's folder."""
        return subprocess.call(command, cwd=self.root, **options)


def lab_command(setup, arguments):
    """The command line of JupyterLab, open on the first notebook unless a file is named."""
    command = [setup.python, "-m", "jupyterlab", "--ServerApp.root_dir=" + setup.root]
    if all(argument.startswith("-") for argument in arguments):
        first = START if os.path.exists(os.path.join(setup.root, START)) else "notebooks"
        command.append("--LabApp.default_url=/lab/tree/" + first)
    return command + arguments


def lab(setup, arguments):
    say("Starting JupyterLab. Ctrl-C in this window stops it.")
    command = lab_command(setup, arguments)
    # jupyter-config makes sliders prompt; the reader's own settings stay in force beside it.
    paths = [os.path.join(setup.root, "jupyter-config"), os.environ.get("JUPYTER_CONFIG_PATH")]
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, paths))
    if os.name != "nt":  # become JupyterLab, so that Ctrl-C and kill reach it and nobody else
        os.execv(command[0], command)
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # JupyterLab has had it too, and asks before it stops
            continue


def test(setup, arguments):
    """Run the steps one after another, also after one has failed. Returns the exit status."""
    steps = [
        ("ruff", ["-m", "ruff", "check", "."]),
        ("notebooks match their sources", [os.path.join("notebooks", "build.py"), "--check"]),
        # Two at a time; the cells of a notebook stay together and in order: see tests/conftest.py.
        ("tests and notebooks",
         ["-m", "pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]),
    ]
    if oldest():  # what old releases and new ones of other packages warn of is not ours
        steps = [
            ("tests", ["-m", "pytest", "tests", "-n", "2", "--dist", "loadfile",
                       "-m", "not browser", "-W", "ignore"]),
            ("notebooks", [os.path.join("notebooks", "weigh.py")]),
        ]
    if arguments:
        steps = [("pytest", ["-m", "pytest"] + arguments)]
    failed, status = [], 0
    for what, command in steps:
        say("== {}: python {}".format(what, " ".join(command)))
        code = setup.call([setup.python] + command)
        if code != 0:
            failed.append(what)
            status = status or code
    if failed and len(steps) > 1:
        say("Failed: " + ", ".join(failed))
    return status


def main(arguments, setup=None):
    setup = setup or Setup()
    command = arguments[0] if arguments else "lab"
    if command in ("-h", "--help", "help"):
        say(__doc__.strip())
        return 0
    if command.startswith("-"):
        arguments, command = ["lab"] + arguments, "lab"
    commands = {"lab": lab, "test": test}
    if command not in commands:
        say(
            "Unknown command '{}'. There are two: `python run.py` opens the course,\n"
            "`python run.py test` tests it. `python run.py --help` says more.".format(command),
            sys.stderr,
        )
        return 2
    try:
        setup.prepare()
        return commands[command](setup, arguments[1:])
    except Stop as problem:
        say("\nStopped: {}\nThen run the same command again.".format(problem), sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("\nStopped by you. The next start goes on from here.", sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
