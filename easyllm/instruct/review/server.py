"""The server of the review page: on this machine only, until Ctrl-C."""

import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route

from easyllm.core.asgi import Server
from easyllm.core.errors import refuse
from easyllm.core.messages import LANGUAGES, language, say
from easyllm.core.pages import page_files
from easyllm.core.progress import note
from easyllm.instruct.review.api import Asked, routes
from easyllm.instruct.review.desk import Desk
from easyllm.instruct.review.folder import Folder
from easyllm.instruct.review.guard import Guard

PAGE = Path(__file__).with_name("page")
HOST = "127.0.0.1"


def serve(
    folder: Folder,
    author: str,
    port: int = 0,
    sample: float | None = None,
    open_browser: bool = True,
    confidence: float = 0.95,
) -> None:
    """Let ``author`` review in the browser until Ctrl-C; the page's address is the one line on stdout.

    ``sample`` is the share of bad rows to accept, for a review of a sample. Port 0 takes a free one. Raises UserError
    where the rows, the log or the port cannot be had.
    """
    desk = Desk(folder, author)
    listening = listen(port)
    token = secrets.token_urlsafe(24)
    url = f"http://{HOST}:{listening.getsockname()[1]}/?token={token}"
    app = Guard(build_app(desk, Asked(sample, confidence)), token)
    server = Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", server_header=False))
    print(url, flush=True)
    note(say("review_open", file=str(folder.rows_file), author=author))
    with shown(url, open_browser):
        server.run(sockets=[listening])
    counts = desk.standing(desk.revision)["counts"]
    note("\n" + say("review_closed", log=str(folder.log_file), **counts))
    if counts["undecided"] or counts["conflict"]:
        note(say("review_goes_on", path=quote(str(folder.rows_file))))


def build_app(desk: Desk, asked: Asked) -> Starlette:
    """The page, its files and the API."""

    def page(request: Request) -> Response:
        """With its language in it before anything is drawn: nothing flickers from one language to the other."""
        wanted = request.query_params.get("lang", "")
        chosen = wanted if wanted in LANGUAGES else language()
        return HTMLResponse((PAGE / "index.html").read_text("utf-8").replace('lang="en"', f'lang="{chosen}"', 1))

    return Starlette(routes=[Route("/", page), *routes(desk, asked), Mount("/page", page_files(PAGE))])


def listen(port: int) -> socket.socket:
    """A socket on loopback. Raises UserError REVIEW-020."""
    # Named TCP, since asyncio sends small answers at once only for such: else each would wait 40 ms for the last one.
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a page just closed leaves TIME_WAIT
        found.bind((HOST, port))
        found.listen(128)
    except (OSError, OverflowError) as error:
        found.close()
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise refuse("REVIEW-020", port=port, reason=reason) from error
    return found


@contextmanager
def shown(url: str, wanted: bool) -> Iterator[None]:
    """Open the browser, where there is one with windows.

    It is handed a file that only the user can read and that leads to ``url``: its arguments are everybody's to see,
    and the token is not.
    """
    windows = sys.platform == "darwin" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")))
    if not (wanted and windows):
        yield
        return
    import webbrowser

    with tempfile.TemporaryDirectory(prefix="easyllm-review-") as place:
        leads = Path(place) / "open.html"
        leads.touch(0o600)
        leads.write_text(f'<!doctype html><meta http-equiv="refresh" content="0; url={url}">', "utf-8")
        webbrowser.open(leads.as_uri())
        yield
