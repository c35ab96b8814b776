"""Drive a real JupyterLab in headless Chromium.

    with Lab(folder) as lab, Browser() as browser:
        page = browser.page()
        lab.open(page, "notebook.ipynb")
        errors = lab.run_all(page)

JupyterLab is asked, not guessed at: `--LabApp.expose_app_in_browser` gives the page the
application object, whose commands open a notebook and run it, and whose model holds the outputs.
(The toolbar says "idle" before there is a kernel, and the page holds only the cells in view.)
"""

import contextlib
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
from pathlib import Path

CHROMIUM_FLAGS = [
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# What a widget that failed leaves in the page, where the notebook's model does not show it.
WIDGET_TROUBLE = (
    r"Error displaying widget|Error creating widget|Loading widget|model not found"
    r"|Javascript Error|Failed to load"
)

# JupyterLab's own noise on the console: patterns, each with the reason why it is harmless. None so
# far.
HARMLESS: list[str] = []


def chromium() -> str | None:
    """The browser to use: $CHROMIUM, or one in the PATH."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


class Lab:
    """A JupyterLab server of its own: free port, fresh settings and workspaces, no news, no
    network."""

    def __init__(self, root: Path):
        self.root = Path(root)
        self.home = Path(tempfile.mkdtemp(prefix="attnlab-lab-"))
        self.token = secrets.token_hex(16)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        settings = self.home / "settings/@jupyterlab/apputils-extension"
        settings.mkdir(parents=True)
        (settings / "notification.jupyterlab-settings").write_text(
            json.dumps({"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True})
        )
        folders = {
            "JUPYTER_CONFIG_DIR": "config", "JUPYTERLAB_SETTINGS_DIR": "settings",
            "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "JUPYTER_RUNTIME_DIR": "runtime",
            "IPYTHONDIR": "ipython", "JUPYTER_DATA_DIR": "data",
        }  # fmt: skip
        self.env = {
            **os.environ, **{k: str(self.home / v) for k, v in folders.items()},
            "JUPYTER_CONFIG_PATH": str(Path(__file__).resolve().parents[2] / "jupyter-config"),
        }  # fmt: skip
        self.log = open(self.home / "log", "w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1",
                f"--port={self.port}", "--ServerApp.port_retries=0", "--allow-root",
                f"--IdentityProvider.token={self.token}", f"--ServerApp.root_dir={self.root}",
                "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None",
                "--LabApp.check_for_updates_class="
                "jupyterlab.handlers.announcements.NeverCheckForUpdate",
                "--LabApp.extension_manager=readonly",
            ],
            env=self.env,
            stdout=self.log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        end = time.monotonic() + 120
        while True:
            try:
                self.api("/api/status")
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    status = self.process.poll()
                    tail = (self.home / "log").read_text(encoding="utf-8")[-3000:]
                    self.close()
                    raise RuntimeError(
                        f"JupyterLab did not start (status {status}, None: still runs):\n{tail}"
                    ) from None
                time.sleep(0.1)

    def api(self, path: str, method: str = "GET"):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", method=method,
            headers={"Authorization": f"token {self.token}"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=10) as reply:
            body = reply.read()
        return json.loads(body) if body else None

    def open(self, page, path: str) -> None:
        """Open a notebook and wait until its kernel has answered."""
        url = f"http://127.0.0.1:{self.port}/lab/tree/{path}?reset&token={self.token}"
        page.goto(url, wait_until="domcontentloaded")
        self.show(page, path)

    @staticmethod
    def show(page, path: str) -> None:
        """Show a notebook in the JupyterLab that the page has; wait until its kernel answers."""
        page.wait_for_function("() => window.jupyterapp?.shell")
        page.evaluate(
            """async (path) => {
                const app = window.jupyterapp;
                await app.restored;
                const panel = await app.commands.execute(
                    'docmanager:open', {path, factory: 'Notebook'});
                await panel.context.ready;
                await panel.sessionContext.ready;
                await panel.revealed;
                await panel.sessionContext.session.kernel.info;
                window.notebook = panel;
            }""",
            path,
        )

    @staticmethod
    def run_all(page, timeout: float = 300) -> list[str]:
        """Run all cells; what went wrong, empty if nothing."""
        page.evaluate(
            """() => {
                window.finished = null;
                notebook.activate();
                jupyterapp.commands.execute('notebook:run-all-cells').then(
                    () => { window.finished = 'ok'; }, (e) => { window.finished = String(e); });
            }"""
        )
        page.wait_for_function("() => window.finished", timeout=1000 * timeout)
        return page.evaluate(
            """(trouble) => {
                const wrong = finished === 'ok' ? [] : [finished];
                notebook.content.model.toJSON().cells.forEach((cell, i) => {
                    if (cell.cell_type !== 'code') return;
                    const source = [].concat(cell.source).join('');
                    if (source.trim() && cell.execution_count == null)
                        wrong.push(`cell ${i} did not run`);
                    for (const o of cell.outputs)
                        if (o.output_type === 'error')
                            wrong.push(`cell ${i}: ${o.ename}: ${o.evalue}`);
                });
                for (const node of document.querySelectorAll('.jp-OutputArea-output'))
                    if (new RegExp(trouble).test(node.textContent))
                        wrong.push(node.textContent.slice(0, 200));
                return wrong;
            }""",
            WIDGET_TROUBLE,
        )

    def execute(self, page, code: str) -> str:
        """Run code in the open notebook's kernel, beside its cells; what it printed."""
        return page.evaluate(
            """async (code) => {
                let text = '';
                const future = notebook.sessionContext.session.kernel.requestExecute(
                    {code, store_history: false});
                future.onIOPub = (m) => {
                    if (m.header.msg_type === 'stream') text += m.content.text;
                    if (m.header.msg_type === 'error') text += m.content.evalue;
                };
                await future.done;
                return text;
            }""",
            code,
        )

    def stop_kernels(self) -> None:
        for session in self.api("/api/sessions"):
            with contextlib.suppress(OSError):
                self.api("/api/sessions/" + session["id"], "DELETE")

    def close(self) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.stop_kernels()
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Browser:
    """Headless Chromium; every page has a fresh profile and keeps its console errors."""

    def __init__(self):
        from playwright.sync_api import sync_playwright

        self.playwright = sync_playwright().start()
        self.browser = self.playwright.chromium.launch(
            executable_path=chromium(), headless=True, args=CHROMIUM_FLAGS
        )

    def page(self, width: int = 1400, height: int = 1000, **options):
        page = self.browser.new_context(
            viewport={"width": width, "height": height}, **options
        ).new_page()
        page.set_default_timeout(90_000)
        page.errors = []

        def note(text):
            if not any(re.search(pattern, text) for pattern in HARMLESS):
                page.errors.append(text)

        page.on("console", lambda m: m.type == "error" and note(f"{m.text} ({m.location['url']})"))
        page.on("pageerror", lambda e: note(f"uncaught: {e}"))
        return page

    def close(self) -> None:
        self.browser.close()
        self.playwright.stop()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def notebook(*cells: str) -> str:
    """A notebook file with these code cells."""
    return json.dumps({
        "nbformat": 4, "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        "cells": [
            {"cell_type": "code", "id": f"cell-{i}", "metadata": {}, "outputs": [],
             "execution_count": None, "source": source}
            for i, source in enumerate(cells)
        ],
    })  # fmt: skip
