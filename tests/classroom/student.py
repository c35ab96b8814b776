"""A student, as the hub sees one: logs in, opens a notebook, runs it, drags a slider.

Everything goes the way that a browser takes: the hub's form, its proxy, the websocket of the
student's own server, and a thread of the kernel for widgets, as JupyterLab has it.
"""

import asyncio
import json
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote

import requests
from jupyter_server.services.kernels.connection.base import (
    deserialize_msg_from_ws_v1,
    serialize_msg_to_ws_v1,
)
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

PROTOCOL = "v1.kernel.websocket.jupyter.org"
PATIENCE = 300.0  # seconds: for a whole class on a small machine


class Student:
    """
    Args:
        url: of the hub, without a slash at its end.
        name: of the student.

    Raises:
        requests.HTTPError: if the hub or the server says no.
    """

    def __init__(self, url: str, name: str):
        self.url, self.name, self.token = url, name, ""
        self.base = f"{url}/user/{name}"  # of the student's server
        self.account = f"{url}/hub/api/users/{name}"

    def log_in(self, password: str) -> None:
        """Through the hub's form. What follows goes with a token that the hub hands out then."""
        with requests.Session() as browser:
            browser.get(f"{self.url}/hub/login", timeout=PATIENCE).raise_for_status()
            xsrf = browser.cookies.get("_xsrf", path="/hub/")
            form = {"username": self.name, "password": password, "_xsrf": xsrf}
            reply = browser.post(f"{self.url}/hub/login", data=form, allow_redirects=False,
                                 timeout=PATIENCE)  # fmt: skip
            reply.raise_for_status()
            xsrf = browser.cookies.get("_xsrf", path="/hub/")
            reply = browser.post(f"{self.account}/tokens", headers={"X-XSRFToken": xsrf}, json={},
                                 timeout=PATIENCE)  # fmt: skip
            reply.raise_for_status()
            self.token = reply.json()["token"]

    def ask(self, method: str, address: str, **options):
        """What an address answers, from JSON; None if it answers nothing."""
        headers = {"Authorization": f"token {self.token}"}
        reply = requests.request(method, address, headers=headers, timeout=PATIENCE, **options)
        reply.raise_for_status()
        return reply.json() if reply.content else None

    def start_server(self) -> None:
        self.ask("POST", f"{self.account}/server")
        self.wait_until(lambda servers: servers.get("", {}).get("ready"), "not ready")

    def stop_server(self) -> None:
        self.ask("DELETE", f"{self.account}/server")
        self.wait_until(lambda servers: not servers, "still there")

    def wait_until(self, true, otherwise: str) -> None:
        end = time.monotonic() + PATIENCE
        while not true(self.ask("GET", self.account)["servers"]):
            if time.monotonic() > end:
                raise TimeoutError(
                    f"the server of {self.name} is {otherwise} after {PATIENCE:.0f} s"
                )
            time.sleep(0.2)

    def read(self, path: str) -> dict:
        """A file of the student's own, as the server's contents interface gives it."""
        return self.ask("GET", f"{self.base}/api/contents/{quote(path)}?content=1")

    def write(self, path: str, notebook: dict) -> None:
        body = {"type": "notebook", "format": "json", "content": notebook}
        self.ask("PUT", f"{self.base}/api/contents/{quote(path)}", json=body)

    async def open(self, path: str) -> "Kernel":
        """A kernel for the notebook at `path`, connected."""
        body = {"path": path, "name": "", "type": "notebook", "kernel": {"name": "python3"}}
        session = await asyncio.to_thread(
            self.ask, "POST", f"{self.base}/api/sessions", json=body
        )
        address = f"{self.base}/api/kernels/{session['kernel']['id']}/channels"
        request = HTTPRequest(
            address.replace("http", "ws", 1), headers={"Authorization": f"token {self.token}"},
            connect_timeout=PATIENCE, request_timeout=PATIENCE,
        )  # fmt: skip
        socket = await websocket_connect(
            request, subprotocols=[PROTOCOL], max_message_size=2**28
        )
        if socket.selected_subprotocol != PROTOCOL:
            raise RuntimeError(f"the server does not speak {PROTOCOL}")
        kernel = Kernel(self.name, socket)
        await kernel.request("shell", "kernel_info_request", {})
        return kernel


@dataclass
class Message:
    """One from the kernel. at: seconds when it arrived, of time.perf_counter."""

    at: float
    kind: str
    parent: str
    content: dict
    buffers: list[bytes]


@dataclass
class Drag:
    """What came back while a slider was dragged.

    Attributes:
        milliseconds: of each step, from the new value to the new picture.
        pictures: what came, one for each step.
        wrong: what did not come as it should.
    """

    milliseconds: list[float] = field(default_factory=list)
    pictures: list[bytes] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Kernel:
    """A kernel at the other end of a websocket. `models` are the widgets that it has opened."""

    def __init__(self, owner: str, socket):
        self.owner, self.socket, self.session = owner, socket, uuid.uuid4().hex
        self.models: dict[str, dict] = {}
        self.waiting: dict[str, asyncio.Queue] = {}
        self.reader = asyncio.create_task(self.listen())

    async def listen(self) -> None:
        while (data := await self.socket.read_message()) is not None:
            at = time.perf_counter()
            _, (header, parent, _, content, *buffers) = deserialize_msg_from_ws_v1(data)
            kind, parent = json.loads(header)["msg_type"], json.loads(parent).get("msg_id", "")
            message = Message(at, kind, parent, json.loads(content), buffers)
            if kind == "comm_open":
                self.models[message.content["comm_id"]] = message.content["data"].get("state", {})
            if parent in self.waiting:
                self.waiting[parent].put_nowait(message)
        for queue in self.waiting.values():  # whoever still waits would wait for ever
            queue.put_nowait(None)

    async def send(self, channel: str, kind: str, content: dict, subshell: str | None = None):
        """Send, and give the queue of what comes back."""
        header = {
            "msg_id": uuid.uuid4().hex, "username": self.owner, "session": self.session,
            "date": datetime.now(UTC).isoformat(), "msg_type": kind, "version": "5.4",
            **({"subshell_id": subshell} if subshell else {}),
        }  # fmt: skip
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
        queue = self.waiting[header["msg_id"]] = asyncio.Queue()
        data = serialize_msg_to_ws_v1(message, channel, pack=lambda x: json.dumps(x).encode())
        await self.socket.write_message(data, binary=True)
        return header["msg_id"], queue

    async def request(
        self, channel: str, kind: str, content: dict, *, subshell: str | None = None,
        ends: tuple[str, ...] = ("reply", "idle"),
    ) -> list[Message]:  # fmt: skip
        """Send, and wait until all of `ends` have come: the reply, the word that all is done."""
        number, queue = await self.send(channel, kind, content, subshell)
        messages, missing = [], set(ends)
        try:
            async with asyncio.timeout(PATIENCE):
                while missing:
                    message = await queue.get()
                    if message is None:
                        raise ConnectionError(f"the server of {self.owner} closed the connection")
                    messages.append(message)
                    if message.kind.endswith("_reply"):
                        missing.discard("reply")
                    elif message.content.get("execution_state") == "idle":
                        missing.discard("idle")
        except TimeoutError:
            raise TimeoutError(
                f"{self.owner}: no end of a {kind} after {PATIENCE:.0f} s"
            ) from None
        finally:
            del self.waiting[number]
        return messages

    async def run(self, source: str) -> tuple[str, str]:
        """Run a cell; what it printed, and its error ("" if there is none)."""
        content = {"code": source, "silent": False, "store_history": True, "allow_stdin": False,
                   "stop_on_error": True, "user_expressions": {}}  # fmt: skip
        printed, error = "", ""
        for message in await self.request("shell", "execute_request", content):
            if message.kind == "stream":
                printed += message.content["text"]
            elif message.kind == "error":
                error = f"{message.content['ename']}: {message.content['evalue']}"
        return printed, error

    async def run_all(self, notebook: dict) -> list[str]:
        """Run the cells of a notebook one after another; what went wrong, empty if nothing."""
        wrong = []
        for i, cell in enumerate(notebook["cells"]):
            if cell["cell_type"] == "code" and cell["source"].strip():
                error = (await self.run(cell["source"]))[1]
                wrong += [f"{self.owner}, cell {i}: {error}"] if error else []
        return wrong

    def explorer(self, *traits: str) -> str:
        """The id of the newest explorer that has these traits."""
        found = [key for key, state in self.models.items() if {"_ui", *traits} <= set(state)]
        if not found:
            raise LookupError(f"{self.owner}: no explorer with {', '.join(traits)}")
        return found[-1]

    async def drag(self, model: str, trait: str, values: list, pause: float) -> Drag:
        """Move a slider through `values`, one every `pause` seconds; the next waits, as in the
        page, until the kernel is done with the one before."""
        reply = await self.request("control", "create_subshell_request", {}, ends=("reply",))
        thread = reply[-1].content.get("subshell_id")  # None: a kernel without threads
        drag, after = Drag(), time.perf_counter()
        for value in values:
            await asyncio.sleep(max(0.0, after - time.perf_counter()))
            start = time.perf_counter()
            after = start + pause
            data = {"method": "update", "state": {trait: value}, "buffer_paths": []}
            content = {"comm_id": model, "data": data}
            answers = await self.request("shell", "comm_msg", content, subshell=thread,
                                         ends=("idle",))  # fmt: skip
            came = [(m.at, picture) for m in answers if (picture := picture_of(m, model))]
            if not came:
                drag.wrong.append(f"{self.owner}: no picture for {trait} = {value}")
                continue
            if [came[0][1]] == drag.pictures[-1:]:
                drag.wrong.append(f"{self.owner}: the same picture again for {trait} = {value}")
            drag.milliseconds.append(1000 * (came[0][0] - start))
            drag.pictures.append(came[0][1])
        return drag

    async def state(self, model: str) -> dict:
        """What the kernel says its widget's traits are now."""
        content = {"comm_id": model, "data": {"method": "request_state"}}
        for message in await self.request("shell", "comm_msg", content, ends=("idle",)):
            if message.kind == "comm_msg" and message.content["comm_id"] == model:
                return message.content["data"]["state"]
        raise LookupError(f"{self.owner}: the kernel does not know the widget")

    async def close(self) -> None:
        self.socket.close()
        await self.reader


def picture_of(message: Message, model: str) -> bytes | None:
    """The widget's new picture, if the message brings one."""
    if message.kind != "comm_msg" or message.content["comm_id"] != model:
        return None
    paths = message.content["data"].get("buffer_paths", [])
    return message.buffers[paths.index(["_view"])] if ["_view"] in paths else None
