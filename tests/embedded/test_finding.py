"""A running `up` is found by its state file, and nobody else is taken for it."""

from __future__ import annotations

import json
import threading

import pytest

from embedded.home import Home
from indexer import embedded
from indexer.embedded import UpServer


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"port": 1}', '{"host": 1, "port": "x", "new": 1}']
)
def test_a_state_file_that_says_nothing_finds_nobody(home: Home, text: str) -> None:
    home.folder.mkdir()
    assert embedded.find_server(home.folder) is None
    (home.folder / embedded.UP_FILE).write_text(text)
    assert embedded.find_server(home.folder) is None


def test_another_program_on_the_port_is_not_taken_for_ours(home: Home) -> None:
    """A state file outlives a kill -9, and its port may be somebody else's by now."""
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"alive": True, "instance": "another"}).encode())

        def log_message(self, *_: object) -> None: ...

    home.folder.mkdir()
    with HTTPServer(("127.0.0.1", 0), Other) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            server = UpServer(
                host="127.0.0.1", port=other.server_port, pid=1, token="secret", instance="ours"
            )
            embedded.announce(home.folder, server)
            assert embedded.find_server(home.folder) is None
            embedded.announce(home.folder, UpServer(**{**vars(server), "instance": "another"}))
            assert embedded.find_server(home.folder) is not None
        finally:
            other.shutdown()
            thread.join()


def test_only_we_can_read_the_token(home: Home) -> None:
    home.folder.mkdir()
    server = UpServer(host="127.0.0.1", port=1, pid=1, token="secret", instance="ours")
    embedded.announce(home.folder, server)
    assert (home.folder / embedded.UP_FILE).stat().st_mode & 0o777 == 0o600
    embedded.withdraw(home.folder)
    embedded.withdraw(home.folder)
