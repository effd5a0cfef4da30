"""HTTP: only declared reads look, only credentials change, and every bad night has a name."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
import stamina

from opskit import http as ours
from opskit.errors import CannotTell, Denied, Faulty, NotFound, Refused, ServiceError, Throttled, Unreachable
from opskit.http import ATTEMPTS, Http, Pace, Read

READS = (Read("GET", "/things/{id}", "things: read"), Read("GET", "/things", "things: read"), Read("POST", "/ask", "-"))


@dataclass
class Said:
    """One answer of the server. `silent`: none at all; `reset`: the connection is cut."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    silent: bool = False
    reset: bool = False


@dataclass
class Server:
    """A real server on loopback that answers as it was told, and remembers what it was asked."""

    address: str
    answers: list[Said] = field(default_factory=list)  # the last one is repeated
    asked: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    patience: threading.Event = field(default_factory=threading.Event)

    def will(self, *answers: Said) -> None:
        self.answers[:] = answers

    def http(self, **more: Any) -> Http:
        return Http("thing", self.address, READS, {"Authorization": "Bearer reading"}, **more)


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            known.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            said = known.answers.pop(0) if len(known.answers) > 1 else known.answers[0]
            if said.silent:
                known.patience.wait(10)
                self.close_connection = True
                return
            if said.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
                return
            self.send_response_only(said.status)
            for name, value in {"Content-Length": str(len(said.body)), **said.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(said.body)

        do_GET = do_POST = answer  # noqa: N815  # the library names them

        def log_message(self, *_: Any) -> None:
            pass

        def finish(self) -> None:
            try:
                super().finish()
            except (OSError, ValueError):
                return

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass

    listening = Quiet(("127.0.0.1", 0), Handler)
    known = Server(f"http://127.0.0.1:{listening.server_port}")
    thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
    thread.start()
    yield known
    known.patience.set()
    listening.shutdown()
    listening.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(ours, "TIMEOUT", httpx.Timeout(0.3))
    with stamina.set_testing(True, attempts=ATTEMPTS, cap=True):  # as many attempts, without the waits between
        yield


def test_a_declared_read_is_sent_with_the_reading_credential(server: Server) -> None:
    server.will(Said(body=b'{"id": 1}'))
    assert server.http().read("/things/1", {"limit": 5}).body == {"id": 1}
    ((method, path, headers, _),) = server.asked
    assert (method, path, headers["authorization"]) == ("GET", "/things/1?limit=5", "Bearer reading")


def test_a_declared_post_may_be_a_read(server: Server) -> None:
    server.will(Said())
    server.http().read("/ask", method="POST", body={"sql": "select 1"})
    assert server.asked[0][0] == "POST"
    assert json.loads(server.asked[0][3]) == {"sql": "select 1"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/things/1"),
        ("DELETE", "/things/1"),
        ("GET", "/others"),
        ("GET", "/things/1/retry"),
        ("GET", "/things/"),
        ("GET", "/things/1/../../others"),
        ("GET", "//elsewhere/things/1"),
        ("GET", "http://elsewhere.example/things/1"),
        ("get", "/things/1"),
    ],
)
def test_what_is_not_declared_as_a_read_is_not_sent(server: Server, method: str, path: str) -> None:
    server.will(Said())
    with pytest.raises(Refused, match="is not declared as a read, so it was not sent"):
        server.http(change_headers={"Authorization": "Bearer changing"}).read(path, method=method)
    assert server.asked == []


def test_without_the_credential_a_change_is_not_sent(server: Server) -> None:
    server.will(Said())
    with pytest.raises(Refused, match="holds no credential for changing"):
        server.http().change("POST", "/things/1")
    assert server.asked == []


def test_a_change_carries_its_credential_form_and_key(server: Server) -> None:
    server.will(Said())
    server.http(change_headers={"Authorization": "Bearer changing"}).change("POST", "/x", form={"a": "b"}, key="k1")
    ((_, _, headers, body),) = server.asked
    assert (headers["authorization"], headers["idempotency-key"], body) == ("Bearer changing", "k1", b"a=b")


BAD_NIGHTS: dict[str, tuple[Said, type[ServiceError], int]] = {
    "401": (Said(401, b'{"error": {"message": "Invalid API Key"}}'), Denied, 1),
    "403": (Said(403, b'{"error": {"message": "lacks a permission"}}'), Denied, 1),
    "404": (Said(404, b'{"error": {"message": "No such thing"}}'), NotFound, 1),
    "410": (Said(410), Faulty, 1),
    "302": (Said(302, headers={"Location": "http://127.0.0.1:9/"}), Faulty, 1),
    "429": (Said(429), Throttled, ATTEMPTS),
    "429, at once": (Said(429, headers={"Retry-After": "0"}), Throttled, ATTEMPTS),
    "429, in a while": (Said(429, headers={"Retry-After": "3600"}), Throttled, 1),
    "429, at a date": (Said(429, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), Throttled, ATTEMPTS),
    "500": (Said(500, b"<html>oops</html>"), Faulty, ATTEMPTS),
    "503": (Said(503, b""), Faulty, ATTEMPTS),
    "reset": (Said(reset=True), Unreachable, ATTEMPTS),
    "silence": (Said(silent=True), Unreachable, ATTEMPTS),
    "a lying length": (Said(headers={"Content-Length": "100"}), Unreachable, ATTEMPTS),
    "undecodable": (Said(body=b"no gzip", headers={"Content-Encoding": "gzip"}), Unreachable, ATTEMPTS),
}


@pytest.mark.parametrize(("said", "kind", "attempts"), BAD_NIGHTS.values(), ids=BAD_NIGHTS.keys())
def test_a_bad_night_has_a_name_and_reads_are_tried_again_where_that_may_help(
    server: Server, said: Said, kind: type[ServiceError], attempts: int
) -> None:
    server.will(said)
    with pytest.raises(kind, match=r"^thing: ") as caught:
        server.http().read("/things")
    assert type(caught.value) is kind
    assert len(server.asked) == attempts


@pytest.mark.parametrize(("said", "kind"), [(s, k) for s, k, _ in BAD_NIGHTS.values()], ids=BAD_NIGHTS.keys())
def test_a_change_is_sent_once_whatever_happens(server: Server, said: Said, kind: type[ServiceError]) -> None:
    server.will(said)
    with pytest.raises(kind):
        server.http(change_headers={}).change("POST", "/things/1")
    assert len(server.asked) == 1


def test_nobody_listening_is_unreachable() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(Unreachable, match="no answer from"):
        Http("thing", address, READS).read("/things")


@pytest.mark.parametrize("address", ["http://no-such-host.invalid", "not an address", "http://", "ftp://127.0.0.1"])
def test_a_wrong_address_is_unreachable(address: str) -> None:
    with pytest.raises(Unreachable):
        Http("thing", address, READS).read("/things")


def test_a_read_recovers(server: Server) -> None:
    server.will(Said(500), Said(reset=True), Said(body=b'{"well": true}'))
    with stamina.set_testing(False):
        assert server.http().read("/things").body == {"well": True}
    assert len(server.asked) == 3


@pytest.mark.parametrize("body", [b"<html>maintenance</html>", b"", b"{", b"\xff\xfe\x00", b"{'a': 1}"])
def test_garbage_is_faulty_when_it_is_looked_into(server: Server, body: bytes) -> None:
    server.will(Said(body=body))
    answer = server.http().read("/things")
    with pytest.raises(Faulty, match="something that is not JSON"):
        _ = answer.body


def test_lines_are_taken_where_they_are_objects(server: Server) -> None:
    server.will(Said(body=b'{"a": 1}\n\nnoise\n[1]\n{"b": 2}\n{"torn": '))
    assert list(server.http().read("/things").lines) == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": {"message": "Stripe says"}}', "Stripe says"),
        (b'{"error": {"code": "forbidden"}}', "forbidden"),
        (b'{"detail": "Sentry says"}', "Sentry says"),
        (b'{"message": "so"}', "so"),
        (b'{"error": "plain"}', "plain"),
        (b'["list"]', "['list']"),
        (b"null", "None"),
        (b"", "(empty answer)"),
        (b"<html>no</html>", "<html>no</html>"),
    ],
)
def test_the_vendors_own_words_are_passed_on(server: Server, body: bytes, said: str) -> None:
    server.will(Said(403, body))
    with pytest.raises(Denied) as caught:
        server.http().read("/things")
    assert caught.value.message == f"thing: GET /things answered 403: {said}"
    assert caught.value.status == 403


@pytest.mark.parametrize("date", ["", "nonsense", "Mon, 23 Nov 2026 13:00:00 -0000", "Mon, 99 Nov 2026 13:00:00 GMT"])
def test_a_strange_date_is_no_trouble(server: Server, date: str) -> None:
    server.will(Said(headers={"Date": date}))
    http = server.http()
    http.read("/things")
    assert http.skew is None


def test_the_services_clock_is_compared(server: Server) -> None:
    server.will(Said(headers={"Date": "Thu, 01 Jan 1970 00:00:00 GMT"}))
    http = server.http()
    http.read("/things")
    assert http.skew is not None
    assert http.skew < -30


def test_a_pace_is_halved_when_told_to_slow_down(server: Server) -> None:
    server.will(Said(429, headers={"Retry-After": "3600"}))
    pace = Pace(1000.0)
    with pytest.raises(Throttled) as caught:
        server.http(pace=pace).read("/things")
    assert pace.per_second == 500
    assert caught.value.retry_after == 3600


def test_a_pace_recovers_call_by_call(server: Server) -> None:
    pace = Pace(1000.0)
    pace.halve()
    pace.halve()
    http = server.http(pace=pace)
    server.will(*[Said()] * 10)
    found = []
    for _ in range(10):
        http.read("/things")
        found.append(pace.per_second)
    assert found == sorted(found)
    assert found[0] < 500
    assert found[-1] == 1000


def test_every_failure_to_look_is_a_failure_to_tell() -> None:
    assert all(issubclass(kind, CannotTell) for _, kind, _ in BAD_NIGHTS.values())


@pytest.mark.parametrize(
    ("path", "covered"),
    [
        ("/a/1/b", True),
        ("/a/1/2/b", False),
        ("/a//b", False),
        ("/a/1/b/", False),
        ("/a/1/bx", False),
        ("/a/1/b?x", False),
    ],
)
def test_a_placeholder_is_one_segment(path: str, covered: bool) -> None:
    assert Read("GET", "/a/{id}/b", "").covers("GET", path) is covered


def test_the_dot_in_a_route_is_a_dot() -> None:
    assert not Read("GET", "/summary.json", "").covers("GET", "/summaryxjson")
