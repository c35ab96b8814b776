"""A JupyterHub for a class. It runs on this machine, for this machine only; begin here, and change
what the comments marked FOR A CLASS name.

    pip install -r tests/classroom/requirements.txt
    npm install --global configurable-http-proxy
    CLASS_PASSWORD=... jupyterhub -f tests/classroom/jupyterhub_config.py

Then http://127.0.0.1:8000: any name, that password. Students' files are in ./students.
"""

# ruff: noqa: F821  (JupyterHub provides c)

import os
import shutil
import sys
from pathlib import Path

COURSE = Path(__file__).resolve().parents[2]
STUDENTS = Path("students").resolve()

# FOR TESTS ON THIS MACHINE ONLY: whoever has the password can be any student. (DummyAuthenticator,
# the usual choice for tests, lets in every process of the machine, without a password.)
# FOR A CLASS: your university's login (OAuthenticator, LDAPAuthenticator), and TLS before the hub.
c.JupyterHub.authenticator_class = "shared-password"
c.Authenticator.allow_all = True
c.Authenticator.username_pattern = r"[a-z0-9][a-z0-9_-]*"  # names become folders
if len(os.environ.get("CLASS_PASSWORD", "")) < 8:
    sys.exit("Set CLASS_PASSWORD, at least 8 characters: all students log in with it.")
c.SharedPasswordAuthenticator.user_password = os.environ["CLASS_PASSWORD"]

# Nobody outside this machine reaches the hub. FOR A CLASS: leave it so, and let a web server with
# TLS pass requests on.
c.JupyterHub.bind_url = "http://127.0.0.1:8000"
c.JupyterHub.hub_ip = "127.0.0.1"

# FOR TESTS ON THIS MACHINE ONLY: all servers run as the user who started the hub, so that a student
# who wants to can read everybody's files. FOR A CLASS: a spawner that separates students and
# enforces limits (SystemdSpawner, DockerSpawner, KubeSpawner). What follows holds for each of them.
c.JupyterHub.spawner_class = "jupyterhub.spawner.SimpleLocalProcessSpawner"
c.SimpleLocalProcessSpawner.home_dir_template = str(STUDENTS / "{username}")
c.Spawner.cmd = [sys.executable, "-m", "jupyterhub.singleuser"]
c.Spawner.start_timeout = c.Spawner.http_timeout = 180  # a whole class starts in the same minute

# JupyterLab, at the student's own copy of the notebooks.
c.Spawner.notebook_dir = "~"
c.Spawner.default_url = "/lab/tree/notebooks/00-start-here.ipynb"


def hand_out(spawner):
    """Give a student who has none a copy of the notebooks; answers that are there stay."""
    folder = STUDENTS / spawner.user.name / "notebooks"
    if not folder.exists():
        half = folder.with_name(".notebooks-half")  # an interrupted copy is not taken for a whole
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        for file in (COURSE / "notebooks").iterdir():
            if file.suffix in (".ipynb", ".md"):
                shutil.copy(file, half)
        half.rename(folder)


c.Spawner.pre_spawn_hook = hand_out  # not needed where nbgitpuller hands out the notebooks

threads = os.environ.get("CLASS_THREADS", "1")
c.Spawner.environment = {
    # Makes sliders prompt; without it each step may wait 40 ms for an acknowledgement.
    "JUPYTER_CONFIG_PATH": str(COURSE / "jupyter-config"),
    # The course's arrays are small: with more threads Run All takes more processor time, which here
    # is the other students'.
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads),
    "TOKENIZERS_PARALLELISM": "false",
    # One copy of the pretrained model for all, 84 MB; students need to read it, not to write. Fetch
    # it beforehand: ATTNLAB_CACHE=... python -m attnlab.pretrained
    "ATTNLAB_CACHE": os.environ.get("ATTNLAB_CACHE") or str(Path.home() / ".cache" / "attnlab"),
}

# A kernel whose notebook is open in no browser is stopped after two hours; its memory is free then.
# What the student wrote stays, and Run All brings the rest back.
c.Spawner.args = [
    "--MappingKernelManager.cull_idle_timeout=7200",
    "--MappingKernelManager.cull_interval=300",
]
# Whole servers that nobody uses: pip install jupyterhub-idle-culler, and take the comments away.
# c.JupyterHub.services = [
#     {"name": "culler", "command": [sys.executable, "-m", "jupyterhub_idle_culler",
#                                    "--timeout=14400"]}
# ]
# c.JupyterHub.load_roles = [
#     {"name": "culler", "services": ["culler"],
#      "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"]}
# ]

# Limits hold where the spawner can enforce them; this one cannot.
c.Spawner.mem_limit = "3G"
c.Spawner.cpu_limit = 2
