"""A web server that is no server of a model: it says the same to everybody."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

JSON, PAGE, EVENTS = "application/json", "text/html", "text/event-stream"
NO_LISTS = [("<html>hi</html>", PAGE), ("[1, 2]", JSON), ("null", JSON), ("{}", JSON), ('{"data": null}', JSON),
            ('{"data": [1]}', JSON), ('{"data": [{"name": "no id"}]}', JSON)]  # fmt: skip
"""What web servers may say to /v1/models."""


@contextmanager
def web_server(said: str, kind: str, to_posts: str = "", kind_of_posts: str = "") -> Iterator[str]:
    """Its address. It says ``said``, a body of the type ``kind``; to a POST ``to_posts``, where that is given."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self, text: str, kind: str) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def do_GET(self) -> None:
            self.answer(said, kind)

        def do_POST(self) -> None:
            self.answer(to_posts or said, kind_of_posts or kind)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
