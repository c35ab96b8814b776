"""A real JupyterHub on this machine, for tests: its environment, its start and its end.

    environment = make_environment()
    with Hub(environment) as hub:
        ...                              # hub.url, hub.password
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
REQUIREMENTS = HERE / "requirements.txt"
PROXY = "configurable-http-proxy@5.3.0"
NEWEST = os.environ.get("ATTNLAB_NEWEST", "") not in ("", "0")

# For whoever looks at the page from a program, and for containers, where all is root.
SERVER_SETTINGS = {
    "ServerApp": {"allow_root": True},
    "LabApp": {
        "expose_app_in_browser": True, "news_url": None, "extension_manager": "readonly",
        "check_for_updates_class": "jupyterlab.handlers.announcements.NeverCheckForUpdate",
    },
}  # fmt: skip


class CannotRun(RuntimeError):
    """There can be no hub here; the message says why and what to do."""


def problem() -> str | None:
    """Why no hub can be tried on this machine, or None."""
    if not Path("/proc/self/smaps_rollup").exists():
        return "the classroom is measured with Linux's own account of memory; this is no Linux"
    for tool in ("npm", "node"):
        if shutil.which(tool) is None:
            return f"{tool} not found: install Node.js 20 or newer (JupyterHub's proxy runs on it)"
    return None


# --------------------------------------------------------------------------------------------
# The environment
# --------------------------------------------------------------------------------------------


def default_folder() -> Path:
    """Where the hub's environment is kept: in the user's cache, one for each course environment."""
    import platformdirs

    key = hashlib.sha256(f"{sys.prefix} {sys.version} {NEWEST}".encode()).hexdigest()[:8]
    return platformdirs.user_cache_path("attnlab") / f"classroom-{key}"


def make_environment(folder: Path | None = None) -> Path:
    """An environment that sees everything of the course's environment, and has the hub besides.

    Nothing is installed into the course's own. It is kept and used again as long as what it is
    made of stays the same.

    Raises:
        CannotRun: if a tool or the network is missing, or `folder` holds something else.
    """
    if problem():
        raise CannotRun(problem())
    folder, made_of = Path(folder or default_folder()), recipe()
    stamp = folder / "complete"
    if stamp.exists() and stamp.read_text("utf-8") == made_of:
        return folder
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").exists():
        raise CannotRun(f"{folder} holds something else; name an empty folder, or a new one")
    print(f"making the hub's environment in {folder}", file=sys.stderr, flush=True)
    stamp.unlink(missing_ok=True)
    venv.create(folder, clear=True, with_pip=True)
    see_the_course(folder)
    install(folder)
    share_the_course(folder)
    stamp.write_text(made_of, encoding="utf-8")
    return folder


def recipe() -> str:
    """What an environment is made of: where this differs, it is made anew."""
    installed = sorted(f"{d.name}=={d.version}" for d in importlib.metadata.distributions())
    parts = [sys.prefix, sys.version, REQUIREMENTS.read_text("utf-8"), PROXY, str(NEWEST)]
    return "\n".join(parts + installed) + "\n"


def see_the_course(folder: Path) -> None:
    """Let Python in `folder` import what the course's Python can."""
    ours = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    site = next((folder / "lib").glob("python*/site-packages"))
    # addsitedir, unlike a bare path, also follows what is installed there as `-e`.
    lines = [f"import site; site.addsitedir({path!r})\n" for path in ours]
    (site / "course.pth").write_text("".join(lines), encoding="utf-8")


def install(folder: Path) -> None:
    wanted = ["-r", str(REQUIREMENTS)]
    if NEWEST:
        text = REQUIREMENTS.read_text("utf-8")
        wanted = re.findall(r"(?m)^([\w.-]+)==", text)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-input"]
    attempt("pip", [*pip, *wanted], "pip could not install JupyterHub")
    proxy = PROXY.partition("@")[0] if NEWEST else PROXY
    npm = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), proxy]
    attempt("npm", npm, "npm could not install JupyterHub's proxy")


def attempt(name: str, command: list[str], what: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise CannotRun(
            f"{what}. This needs the network once; behind a proxy, set HTTPS_PROXY.\n"
            f"What {name} said:\n{done.stdout[-1500:]}"
        )


def share_the_course(folder: Path) -> None:
    """JupyterLab's pages, the widgets' and the kernel's files are looked for beside Python. Copies:
    a server hands out no file that a link points to."""
    for part in ("share/jupyter", "etc/jupyter"):
        if (Path(sys.prefix) / part).is_dir():
            shutil.copytree(Path(sys.prefix) / part, folder / part, dirs_exist_ok=True)
    settings = folder / "etc/jupyter/jupyter_server_config.json"
    settings.write_text(json.dumps(SERVER_SETTINGS), encoding="utf-8")


def versions(folder: Path) -> dict[str, str]:
    """What is compared: Python, hub, proxy, server and the course's largest parts."""
    names = ["jupyterhub", "nbgitpuller", "jupyter_server", "jupyterlab", "ipykernel",
             "ipywidgets", "anywidget", "torch"]  # fmt: skip
    code = f"import importlib.metadata as m; print([m.version(n) for n in {names}])"
    python = str(folder / "bin" / "python")
    said = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    proxy = folder / "node_modules/configurable-http-proxy/package.json"
    return {
        "python": sys.version.split()[0],
        **dict(zip(names, json.loads(said.replace("'", '"')), strict=True)),
        "configurable-http-proxy": json.loads(proxy.read_text("utf-8"))["version"],
    }


# --------------------------------------------------------------------------------------------
# The hub
# --------------------------------------------------------------------------------------------


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


class Hub:
    """The hub of `jupyterhub_config.py` on free ports of 127.0.0.1, in a folder of its own.

    Args:
        environment: from `make_environment`.
        threads: of each kernel.

    Attributes:
        url: without a slash at its end.
        password: of every student.
        students: the folder with a folder for each student.
        left_behind: after the end, what had to be killed because it had not ended by itself.

    Raises:
        CannotRun: if the hub does not start.
    """

    def __init__(self, environment: Path, threads: int = 1):
        self.environment, self.password = Path(environment), secrets.token_hex(8)
        self.folder = Path(tempfile.mkdtemp(prefix="attnlab-class-"))
        self.students = self.folder / "students"
        self.left_behind: list[str] = []
        self.seen: set = set()
        port, inner, proxy = free_ports(3)
        self.url = f"http://127.0.0.1:{port}"
        self.log = open(self.folder / "log", "w", encoding="utf-8")
        try:
            self.process = subprocess.Popen(
                [
                    str(self.environment / "bin" / "python"), "-m", "jupyterhub",
                    "-f", str(HERE / "jupyterhub_config.py"), f"--JupyterHub.bind_url={self.url}",
                    f"--JupyterHub.hub_port={inner}",
                    f"--ConfigurableHTTPProxy.api_url=http://127.0.0.1:{proxy}",
                ],
                cwd=self.folder, env=self.variables(threads), stdout=self.log, stderr=self.log,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
            self.wait_until_it_answers()
        except BaseException:
            self.close()
            raise

    def variables(self, threads: int) -> dict[str, str]:
        """What the hub finds in its environment: nothing of whoever starts the test but the paths
        of its tools and of its caches."""
        kept = {k: os.environ[k] for k in ("HOME", "LANG", "ATTNLAB_CACHE") if k in os.environ}
        tools = [self.environment / "bin", self.environment / "node_modules/.bin"]
        return {
            **kept,
            "PATH": os.pathsep.join([*map(str, tools), os.environ["PATH"]]),
            "PYTHONPATH": str(ROOT),  # this copy of the course, wherever another is installed
            "CLASS_PASSWORD": self.password,
            "CLASS_THREADS": str(threads),
        }

    def wait_until_it_answers(self, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/hub/health", timeout=5):
                    return
            except OSError:
                if re.search("EADDRINUSE|[Aa]ddress already in use", self.tail()):
                    raise CannotRun(
                        f"Another program took one of the hub's ports ({self.url} is the first of "
                        "three); start again."
                    ) from None
                status = self.process.poll()
                if status is not None or time.monotonic() > end:
                    what = "did not answer" if status is None else f"ended with status {status}"
                    raise CannotRun(f"The hub {what}. Its log ends:\n{self.tail()}") from None
                time.sleep(0.1)

    def tail(self) -> str:
        """The end of the hub's log."""
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")[-3000:]

    def processes(self) -> dict[str, list]:
        """Its processes by whom they work for: "hub", "proxy", and each student's name."""
        import psutil

        found = {"hub": [psutil.Process(self.process.pid)]}
        for child in found["hub"][0].children():
            with contextlib.suppress(psutil.NoSuchProcess):
                name = child.environ().get("JUPYTERHUB_USER", "proxy")
                found[name] = [child, *child.children(recursive=True)]
        self.seen.update(*found.values())
        return found

    def close(self, seconds: float = 60) -> None:
        """End the hub as Ctrl-C does, note in `left_behind` what did not end with it, kill that."""
        import psutil

        if hasattr(self, "process"):
            with contextlib.suppress(psutil.NoSuchProcess):
                self.processes()
            self.process.terminate()
            for process in psutil.wait_procs(self.seen, timeout=seconds)[1]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    self.left_behind.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
                    process.kill()
            self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
