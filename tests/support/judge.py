"""An OpenAI-compatible endpoint on this machine, for scorers that ask a judge."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass
class Judge:
    """Where it listens, and the requests that it was sent."""

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def listening(verdict: Callable[[str], str]) -> Iterator[Judge]:
    """Answer chat completions while the block runs; ``verdict`` maps the last message's text."""
    judge = Judge("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            judge.asked.append(asked)
            content = asked["messages"][-1]["content"]
            text = content if isinstance(content, str) else content[-1]["text"]
            message = {"role": "assistant", "content": verdict(text)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            told = {"id": "0", "object": "chat.completion", "created": 0, "choices": [choice]}
            body = json.dumps({**told, "model": asked["model"]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *told: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    judge.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
