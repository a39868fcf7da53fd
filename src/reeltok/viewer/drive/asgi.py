"""The page to drive on below /drive of another page's server (an ASGI application around it)."""

import asyncio
from typing import Any

from reeltok.viewer.drive.server import LARGEST, Pages, headers_of, refuse

PLACE = "/drive"


class DriveRoutes:
    """Answers what lies below /drive itself, and hands on everything else."""

    def __init__(self, app: Any, pages: Pages) -> None:
        self.app, self.pages = app, pages

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not (path == PLACE or path.startswith(PLACE + "/")):
            await self.app(scope, receive, send)
            return
        if path == PLACE:  # its script asks for what lies beside the page
            await respond(send, 307, {"location": PLACE + "/", "content-length": "0"}, b"")
            return
        body = await read_body(receive)
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        refused = refuse(headers, str(len(body))) if scope["method"] == "POST" else None
        if refused is not None:
            answer = refused
        else:
            query = scope.get("query_string", b"").decode("latin-1")
            inner = f"{path.removeprefix(PLACE)}?{query}"
            work = self.pages.answer
            answer = await asyncio.to_thread(work, scope["method"], inner, body)
        await respond(send, answer.status, headers_of(answer), answer.data)


async def read_body(receive: Any) -> bytes:
    """The body of a request, or what is already more than any that is expected."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > LARGEST or not message.get("more_body"):
            return body


async def respond(send: Any, status: int, headers: dict[str, str], data: bytes) -> None:
    """Send an answer."""
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": data})
