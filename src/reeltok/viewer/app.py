"""The page that visitors see (gradio), and the server that shows it to them.

Nothing is fetched from elsewhere: fonts are the visitor's own, and a content security policy
forbids the rest.
"""

import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from threading import Event
from typing import Any

from reeltok.viewer.drive.asgi import DriveRoutes
from reeltok.viewer.drive.server import Pages
from reeltok.viewer.page import SIDES, Action, Form, Page
from reeltok.viewer.pictures import caption, draw_histogram, draw_table, steps_of
from reeltok.viewer.rooms import Room

WAITING = 20  # visitors in the queue
VIDEO = 480  # pixels of height
FONT, MONO = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'"
)
ELSEWHERE = ("file=http", "proxy=")  # gradio's ways to fetch from elsewhere for a visitor
CSS = """
#numbers {overflow-x: auto}
#numbers table, #numbers tr {border: 0}
#numbers table {border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums}
#numbers th, #numbers td {padding: .35rem .6rem; text-align: right; white-space: nowrap;
  border: 0; border-bottom: 1px solid var(--border-color-primary)}
#numbers th:first-child {text-align: left}
#histogram figure {margin: 0}
#histogram svg {width: 100%; height: 9rem; fill: var(--primary-500)}
#histogram div {display: flex; justify-content: space-between; font-size: .8rem}
#map img {image-rendering: pixelated}
"""


@dataclass(frozen=True)
class ResultView:
    """The parts of the page that show results."""

    box: Any
    numbers: Any
    choice: Any
    video: Any
    caption: Any
    step: Any
    map: Any
    histogram: Any
    files: Any

    @property
    def all(self) -> list[Any]:
        """All of them, in the order of `result_values`."""
        return [
            *(self.box, self.numbers, self.choice, self.video, self.caption),
            *(self.step, self.map, self.histogram, self.files),
        ]


def show_results() -> ResultView:
    """The parts that show results, hidden until there are any."""
    import gradio as gr

    with gr.Column(visible=False, elem_id="results") as box:
        numbers = gr.HTML(elem_id="numbers")
        choice = gr.Radio([], label="Shown", elem_id="choice")
        video = gr.Video(label="Video", elem_id="video", height=VIDEO, loop=True)
        caption = gr.Markdown()
        with gr.Row():
            with gr.Column():
                gr.Markdown("Tokens of one step, each id in a colour of its own")
                map_ = gr.Image(  # its own label would lie on the uppermost tokens
                    show_label=False,
                    alt_text="a map of tokens in colours",
                    elem_id="map",
                    interactive=False,
                    format="png",
                    buttons=["download", "fullscreen"],
                )
                step = gr.Slider(1, 2, 1, step=1, label="Step in time", elem_id="step")
            with gr.Column():
                histogram = gr.HTML(elem_id="histogram")
                files = gr.File(label="To keep", interactive=False, elem_id="files")
    return ResultView(box, numbers, choice, video, caption, step, map_, histogram, files)


def result_values(page: Page, room: Room, label: str) -> list[Any]:
    """New values of all parts: the numbers of all results, and what one of them shows."""
    import gradio as gr

    result, steps = room.results[label], steps_of(room.results[label])
    picture = page.draw_step(result, 1, room)
    return [
        gr.Column(visible=True),
        draw_table(room.results.values()),
        gr.Radio(list(room.results), value=label, visible=len(room.results) > 1),
        str(result.video),
        caption(result),
        gr.Slider(1, max(2, steps), 1, step=1, visible=steps > 1),
        None if picture is None else str(picture),
        draw_histogram(result),
        [str(result.reel), str(result.decoded)],
    ]


def build_page(page: Page, *, drives: bool = False) -> Any:
    """The page as gradio Blocks. `drives`: there is a page to drive on, to which it links."""
    import gradio as gr

    labels, limits = list(page.offer.places), page.limits
    with gr.Blocks(title="reeltok", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gr.Markdown(
            "# reeltok\nVideo to tokens and back. Drop a clip of up to "
            f"{limits.seconds:g} seconds and {limits.megabytes:g} megabytes."
        )
        if drives:
            gr.HTML('<a href="/drive/" target="_blank" id="drive">A world to drive</a>')
        with gr.Row():
            clip = gr.File(label="Video", elem_id="clip", height=150)
            reel = gr.File(label="Or a .reel file, to see its video", elem_id="reel", height=150)
        with gr.Row():
            models = gr.CheckboxGroup(labels, value=labels[:1], label="Tokenizers")
            side = gr.Radio(list(SIDES), value="256", label="Short side, at most (pixels)")
        with gr.Row():
            start = gr.Button("Code this video", variant="primary", elem_id="start")
            demo = gr.Button("Code the demonstration clip", elem_id="demo")
        shown = show_results()
        # One at a time: a tokenizer uses all cores, and who waits sees the place in the queue.
        queued: dict[str, Any] = {"concurrency_id": "tokenizers", "concurrency_limit": 1}
        queued |= {"inputs": [clip, reel, models, side], "outputs": shown.all}
        start.click(act(page, page.code_upload), **queued)
        demo.click(act(page, page.code_demo), **queued)
        reel.upload(act(page, page.open_upload), **queued)
        connect_results(page, shown)
        blocks.unload(leave(page))
    stay_here(blocks)
    return blocks


def act(page: Page, work: Action) -> Callable[..., list[Any]]:
    """What a button does: `work` on the form in the visitor's room, then show its first result."""
    import gradio as gr

    def pressed(
        video: str | None,
        reel: str | None,
        labels: list[str],
        side: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (gradio looks for it there)
    ) -> list[Any]:
        with page.complaints(complaint):
            room = page.rooms.of(request.session_hash or "")
            form = Form(video, reel, labels, side)
            work(form, room, lambda done, what: progress(done, desc=what))
            return result_values(page, room, next(iter(room.results)))

    return pressed


def connect_results(page: Page, shown: ResultView) -> None:
    """Choosing another result, and another step of its tokens."""
    import gradio as gr

    def choose(label: str, request: gr.Request) -> list[Any]:
        with page.complaints(complaint):
            room = page.rooms.of(request.session_hash or "")
            check_shown(room, label)
            return result_values(page, room, label)

    def move(label: str, step: int, request: gr.Request) -> str:
        with page.complaints(complaint):
            room = page.rooms.of(request.session_hash or "")
            check_shown(room, label)
            return str(page.draw_step(room.results[label], int(step), room))

    shown.choice.input(choose, shown.choice, shown.all, show_progress="hidden")
    shown.step.input(
        move,
        [shown.choice, shown.step],
        shown.map,
        show_progress="hidden",
        trigger_mode="always_last",
    )


def check_shown(room: Room, label: str) -> None:
    """ValueError where the result that is to be shown is no longer there."""
    if label not in room.results:
        raise ValueError("this result is no longer kept: code the video again")


def leave(page: Page) -> Callable[..., None]:
    """What happens when a visitor closes the page: the room goes."""
    import gradio as gr

    def left(request: gr.Request) -> None:
        page.rooms.drop(request.session_hash or "")

    return left


def stay_here(blocks: Any) -> None:
    """Let no part of the page take an address for a file: gradio would fetch it."""
    for part in blocks.blocks.values():
        keep = getattr(part, "async_move_resource_to_block_cache", None)
        if keep is not None:
            part.async_move_resource_to_block_cache = without_addresses(keep)


def without_addresses(keep: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
    """`keep` for paths of files; an error for addresses."""

    async def keep_files(path: Any) -> Any:
        if "://" in str(path):
            raise complaint("this page takes files, not addresses: drop the file")
        return await keep(path)

    return keep_files


def complaint(sentence: str) -> Exception:
    """An error that gradio shows as it is."""
    import gradio as gr

    return gr.Error(sentence, print_exception=False)


# The server.


class Guard:
    """Between server and page: tells the browser to fetch nothing from elsewhere, and refuses to
    fetch it for the browser (an ASGI application around another)."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif any(way in scope["path"].lower() for way in ELSEWHERE):
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b"nothing is fetched from there"})
        else:
            await self.app(scope, receive, self.guarded(send))

    def guarded(self, send: Any) -> Any:
        async def send_guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", POLICY.encode())
                message = {**message, "headers": [*message["headers"], policy]}
            await send(message)

        return send_guarded


def set_up(page: Page) -> None:
    """Tell gradio, before it is imported, to keep to the page's folder and off the network."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(page.rooms.root)
    hosts = [each for each in os.environ.get("NO_PROXY", "").split(",") if each]
    os.environ["NO_PROXY"] = ",".join([*hosts, "127.0.0.1", "localhost"])


def check_port(host: str, port: int | None) -> None:
    """OSError where nothing can be shown at this address; None is any port."""
    try:
        family, *_, place = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(place)
    except OSError as error:
        where = host if port is None else f"{host}, port {port}"
        raise OSError(
            f"the page cannot be shown at {where} ({error.strerror}): give another `port` or `host`"
        ) from error


def serve(
    page: Page,
    *,
    host: str,
    port: int | None,
    ready: Callable[[str], None],
    drive: Pages | None = None,
) -> None:
    """Show the page until interrupted; then remove all of its files.

    `ready` is called with the address; the page to `drive` on lies below /drive. OSError where the
    port is taken, ModuleNotFoundError where gradio is not installed.
    """
    try:
        set_up(page)
        import gradio as gr
        from starlette.middleware import Middleware

        blocks = build_page(page, drives=drive is not None).queue(max_size=WAITING)
        around = [Middleware(Guard)]
        around += [] if drive is None else [Middleware(DriveRoutes, pages=drive)]
        theme = gr.themes.Default(font=FONT, font_mono=MONO)
        check_port(host, port)
        _, address, _ = blocks.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            footer_links=[],
            max_file_size=round(page.limits.megabytes * 1e6),
            app_kwargs={"middleware": around},
            theme=theme,
            css=CSS,
        )
        ready(address.rstrip("/"))
        try:
            Event().wait()
        except KeyboardInterrupt:  # the way to end it
            pass
        finally:
            blocks.close(verbose=False)
    finally:
        page.rooms.close()
        if drive is not None:
            drive.sessions.close()
