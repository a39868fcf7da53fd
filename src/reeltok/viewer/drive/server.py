"""The page to drive on, as answers to requests; and a server of Python's own that gives them."""

import base64
import json
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, urlsplit

from reeltok.files.parsing import parse_json
from reeltok.viewer.drive.sessions import Sessions
from reeltok.viewer.drive.world import Frame
from reeltok.wording import explain

LARGEST = 10_000  # bytes of a request
PORTS = range(7870, 7890)
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What goes back to the browser."""

    data: bytes
    kind: str = "application/json"
    status: int = 200
    name: str | None = None  # of a file to keep


class Pages:
    """What the page at `path` "", and the requests of its script, are answered."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions

    def answer(self, method: str, path: str, body: bytes = b"") -> Answer:
        """The answer to a request; what went wrong is a sentence in JSON.

        Its status is 400 where the request can be mended, else 500.
        """
        try:
            return self.page(method, path, body)
        except ValueError as error:
            return json_answer({"error": str(error)}, status=400)
        except Exception as error:
            sentence = explain(error)
            if sentence is None:
                traceback.print_exc()
                sentence = "this went wrong inside reeltok: its terminal shows where"
            return json_answer({"error": sentence}, status=500)

    def page(self, method: str, path: str, body: bytes) -> Answer:
        """The answer to a request where nothing goes wrong."""
        parts = urlsplit(path)
        asked = (method, parts.path.strip("/"))
        if asked == ("GET", ""):
            page = files("reeltok.viewer.drive").joinpath("page.html").read_bytes()
            return Answer(data=page, kind="text/html; charset=utf-8")
        if asked == ("GET", "starts"):
            return self.starts()
        if asked == ("GET", "video"):
            key = parse_qs(parts.query).get("session", [""])[0]
            data = self.sessions.record(key)
            return Answer(data=data, kind="video/mp4", name="drive.mp4")
        if asked in (("POST", "begin"), ("POST", "move")):
            given = self.read(body)
            return self.begin(given) if asked[1] == "begin" else self.move(given)
        return json_answer({"error": f"there is no page {asked[1]}"}, status=404)

    def read(self, body: bytes) -> dict[str, Any]:
        """The object of a request. ValueError for anything else."""
        found = parse_json(body, "the request")
        if not isinstance(found, dict):
            raise ValueError("a request is a JSON object")
        return found

    def starts(self) -> Answer:
        """What can be begun with, and what the page says of the world."""
        world = self.sessions.world
        names = [start.name for start in self.sessions.starts]
        return json_answer(
            {"starts": names, "side": world.side, "fps": world.fps, "new": world.new}
        )

    def begin(self, given: dict[str, Any]) -> Answer:
        """A new drive, and its first frames."""
        number = given.get("start", 0)
        if not isinstance(number, int):
            raise ValueError(f"a start is a number from 0, given was {number!r}")
        key, session = self.sessions.begin(number)
        found = {"session": key, "frames": drawn(session.frames), "truths": drawn(session.truths)}
        return json_answer(found | {"why": session.why})

    def move(self, given: dict[str, Any]) -> Answer:
        """The frames that an action leads to."""
        action = given.get("action")
        if not isinstance(action, list) or not all(isinstance(n, int | float) for n in action):
            raise ValueError("an action is a list of numbers")
        moved = self.sessions.move(str(given.get("session")), action)
        found = {"frames": drawn(moved.frames), "truths": drawn(moved.truths)}
        return json_answer(found | {"seconds": round(moved.seconds, 4)})


def drawn(frames: list[Frame]) -> list[str]:
    """Frames as PNGs, which a page shows as they are."""
    from PIL import Image

    found = []
    for frame in frames:
        held = BytesIO()
        Image.fromarray(frame).save(held, "PNG", compress_level=1)
        found.append("data:image/png;base64," + base64.b64encode(held.getvalue()).decode())
    return found


def json_answer(value: Any, *, status: int = 200) -> Answer:
    return Answer(data=json.dumps(value).encode(), status=status)


def headers_of(answer: Answer) -> dict[str, str]:
    """The headers of an answer: nothing is fetched from elsewhere, nothing is kept."""
    found = {
        "content-type": answer.kind,
        "content-length": str(len(answer.data)),
        "content-security-policy": POLICY,
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
    }
    if answer.name is not None:
        found["content-disposition"] = f'attachment; filename="{answer.name}"'
    return found


def refuse(headers: Mapping[str, str], size: str) -> Answer | None:
    """The refusal of a POST of `size` bytes, if there is one: too large, or sent by another site.

    Browsers name the site whose page sends something, other programs do not. `headers` are by their
    names in small letters.
    """
    if not (size.isascii() and size.isdigit() and len(size) <= 9) or int(size) > LARGEST:
        return json_answer({"error": "the request is too large"}, status=413)
    origin, host = headers.get("origin"), headers.get("host")
    if origin is None or headers.get("sec-fetch-site") == "same-origin":
        return None
    if origin.partition("://")[2] == host:
        return None
    said = f"the request comes from a page of {origin}, and this is {host}: open the page here"
    return json_answer({"error": said}, status=403)


def handler_of(pages: Pages) -> type[BaseHTTPRequestHandler]:
    """A handler of Python's server that asks `pages`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.give(pages.answer("GET", self.path))

        def do_POST(self) -> None:
            size = self.headers.get("content-length", "0")
            headers = {name.lower(): value for name, value in self.headers.items()}
            refused = refuse(headers, size)
            if refused is not None:
                self.close_connection = True  # its body is not read
                self.give(refused)
                return
            self.give(pages.answer("POST", self.path, self.rfile.read(int(size))))

        def give(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for name, value in headers_of(answer).items():
                self.send_header(name, value)
            try:
                self.end_headers()
                self.wfile.write(answer.data)
            except ConnectionError:  # the browser has left
                self.close_connection = True

        def log_message(self, format: str, *values: Any) -> None:
            """Nothing: the terminal is for errors."""

    return Handler


def serve_pages(
    pages: Pages, *, host: str, port: int | None, ready: Callable[[str], None] = lambda place: None
) -> None:
    """Answer until interrupted. `ready` is called with the address; OSError for a taken port."""
    server = open_server(pages, host, port)
    shown = f"[{host}]" if ":" in host else host
    ready(f"http://{shown}:{server.server_address[1]}")
    try:
        server.serve_forever()
    except KeyboardInterrupt:  # the way to end it
        pass
    finally:
        server.server_close()
        pages.sessions.close()


def open_server(pages: Pages, host: str, port: int | None) -> ThreadingHTTPServer:
    """A server at a port, or the first free one of PORTS. OSError where there is none."""
    failed: OSError | None = None
    for each in PORTS if port is None else (port,):
        try:
            server = ThreadingHTTPServer((host, each), handler_of(pages))
            server.daemon_threads = True
            return server
        except OSError as error:
            failed = error
    where = host if port is None else f"{host}, port {port}"
    said = failed.strerror if failed else "no port"
    raise OSError(
        f"the page cannot be shown at {where} ({said}): give another `port` or `host`"
    ) from failed
