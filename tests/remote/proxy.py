"""A proxy in front of an emulated store that does to requests what networks and stores do; see `FaultProxy.add`."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

#: What a reply with this status says; a store that repeats the caller's token in its message is the worst of them.
MESSAGES = {
    401: "Invalid Credentials",
    403: "the account has no such permission",
    429: "Too many requests",
    500: "Internal error",
    503: "Service unavailable",
}
STATUSES = tuple(str(status) for status in MESSAGES)
KINDS = (
    *STATUSES,
    "reset before",
    "reset after",
    "lost response",
    "corrupt up",
    "corrupt down",
    "cut down",
    "black hole",
    "slow",
)
PHASES = ("upload", "download", "delete", "list", "any")
#: Bytes sent on at a time where the link is slow.
_PIECE = 1 << 14
_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "host", "content-length"}


@dataclass
class Seen:
    """A request as it came: what it does, to which object, whether it carries the object's bytes (not the start of a
    session, say), what was done to it, and the reply's status (0 for none)."""

    method: str
    path: str
    phase: str
    name: str
    content: bool = False
    fault: str = ""
    status: int = 0
    time: float = field(default_factory=time.monotonic)


@dataclass
class Fault:
    """What is done to requests of a phase whose object's name holds `name`: `after` are let pass, then `times` are hit."""

    kind: str
    phase: str
    name: str
    times: float
    after: int
    rate: float
    hits: int = 0


class FaultProxy:
    """Forwards to `upstream` (``http://host:port``) until told otherwise; `url` is where it listens.

    A service account's request for a token (``POST /token``) it answers itself, with `token`.

    Attributes:
        seen: Every request, in order.
        token: What such an account is given.
    """

    def __init__(self, upstream: str):
        self.upstream = upstream
        self.token = "token"
        self.seen: list[Seen] = []
        self._faults: list[Fault] = []
        self._lock, self._link = threading.Lock(), threading.Lock()
        self._free = threading.Event()
        self._sessions: dict[str, str] = {}
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def add(self, kind: str, phase: str = "any", name: str = "", times: float = 1, after: int = 0, rate: float = 1e6) -> Fault:
        """From now on do `kind` to requests, the first fault that matches wins.

        - a status: answered with it, nothing reaches the store
        - ``reset before``/``reset after``: the connection is reset before or after the request's body was read;
          nothing reaches the store
        - ``lost response``: the store does it, the reply is lost
        - ``corrupt up``/``corrupt down``: a bit flips in an object's bytes on their way
        - ``cut down``: half of the reply's body, then a reset
        - ``black hole``: nothing ever comes back, until `clear`
        - ``slow``: `rate` bytes a second, both ways, shared by all connections

        Args:
            kind: One of `KINDS`.
            phase: One of `PHASES`.
            name: Part of the object's name.
            times: How many requests; ``float("inf")`` for ever.
            after: How many of them pass first.
            rate: Of ``slow``, in bytes a second.
        """
        assert kind in KINDS
        assert phase in PHASES
        fault = Fault(kind, phase, name, times, after, rate)
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """The network is well again; what was held in the black hole is reset."""
        with self._lock:
            self._faults.clear()
            self._free.set()
            self._free = threading.Event()

    def close(self) -> None:
        """Stop."""
        self.clear()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def count(self, phase: str, name: str = "") -> int:
        """How many requests of a phase there were."""
        return sum(seen.phase == phase and name in seen.name for seen in self.seen)

    def strike(self, seen: Seen) -> tuple[Fault | None, threading.Event]:
        """The fault that hits a request, and what ends its wait."""
        with self._lock:
            self.seen.append(seen)
            for fault in self._faults:
                carries = seen.content or fault.kind != "corrupt up"
                if carries and fault.phase in (seen.phase, "any") and fault.name in seen.name:
                    fault.hits += 1
                    if fault.after < fault.hits <= fault.after + fault.times:
                        seen.fault = fault.kind
                        return fault, self._free
            return None, self._free

    def pace(self, size: int, rate: float) -> None:
        """Take the time that so many bytes take on a link that all connections share."""
        with self._link:
            time.sleep(size / rate)

    def describe(self, method: str, target: str, body: bytes) -> Seen:
        """What a request does, in Google's JSON API or S3's."""
        parts = urlsplit(target)
        query = parse_qs(parts.query, keep_blank_values=True)
        google = "/b/" in parts.path or "upload_id" in query
        if google:
            match = re.search(r"/o/([^?/]+)(/compose)?$", parts.path)
            name = unquote(match[1]) if match else query.get("name", query.get("prefix", [""]))[0]
            if "upload_id" in query:
                name = self._sessions.get(query["upload_id"][0], name)
            elif "multipart" in query.get("uploadType", []):
                name = _multipart(body)[0]
            composes = parts.path.endswith("/compose")
            writes = method in ("POST", "PUT") and ("/upload/" in parts.path or "upload_id" in query or composes)
            content = writes and not composes and ("upload_id" in query or "resumable" not in query.get("uploadType", []))
            reads = method == "GET" and ("media" in query.get("alt", []) or parts.path.startswith("/download/"))
        else:
            name = unquote(parts.path).strip("/").partition("/")[2] or query.get("prefix", [""])[0]
            writes = method in ("POST", "PUT") and "delete" not in query
            content = method == "PUT"
            reads = method == "GET" and "/" in unquote(parts.path).strip("/")
        deletes = method == "DELETE" or (method == "POST" and ("delete" in query or parts.path.startswith("/batch")))
        phase = "delete" if deletes else "upload" if writes else "download" if reads else "list"
        return Seen(method, target, phase, name, content)

    def remember(self, seen: Seen, location: str) -> None:
        """Which object an upload's session is for."""
        session = parse_qs(urlsplit(location).query).get("upload_id")
        if session:
            self._sessions[session[0]] = seen.name


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone is nothing to tell of."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultProxy

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing on the terminal."""

    def _serve(self) -> None:
        proxy = self.proxy
        if self.path == "/token":
            self._read(None)
            told = json.dumps({"access_token": proxy.token, "expires_in": 3600, "token_type": "Bearer"}).encode()
            return self._reply(Seen("POST", self.path, "any", ""), 200, [("Content-Type", "application/json")], told, None)
        early = proxy.describe(self.command, self.path, b"")
        # Of a multipart upload the name is in the body; what hits before that goes by the phase.
        late = early.phase == "upload" and not early.name
        fault, free = (None, threading.Event()) if late else proxy.strike(early)
        if fault and fault.kind == "reset before":
            return self._reset()
        body = self._read(fault)
        seen = early
        if late:
            seen = proxy.describe(self.command, self.path, body)
            fault, free = proxy.strike(seen)
            if fault and fault.kind == "slow":
                proxy.pace(len(body), fault.rate)
        kind = fault.kind if fault else ""
        if kind in ("reset before", "reset after"):
            return self._reset()
        if kind == "black hole":
            free.wait()
            return self._reset()
        if kind in STATUSES:
            return self._refuse(int(kind), seen)
        if kind == "corrupt up":
            body = _flip(body, "multipart" in self.path)
        status, headers, reply = self._forward(body)
        seen.status = status
        if kind == "lost response":
            return self._reset()
        if kind == "corrupt down":
            reply = _flip(reply)
        self._reply(seen, status, headers, reply, fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _serve

    def _read(self, fault: Fault | None) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(pieces)
        left, pieces = int(self.headers.get("Content-Length") or 0), []
        slow = fault is not None and fault.kind == "slow"
        while left:
            piece = self.rfile.read(min(left, _PIECE) if slow else left)
            if not piece:
                break
            if fault is not None and slow:
                self.proxy.pace(len(piece), fault.rate)
            left -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        host = urlsplit(self.proxy.upstream).netloc
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        connection = http.client.HTTPConnection(host, timeout=60)
        with contextlib.closing(connection):
            if body or self.command in ("POST", "PUT"):
                headers["Content-Length"] = str(len(body))
            connection.request(self.command, self.path, body or None, headers)
            reply = connection.getresponse()
            return reply.status, reply.getheaders(), reply.read()

    def _reply(self, seen: Seen, status: int, headers: list[tuple[str, str]], body: bytes, fault: Fault | None) -> None:
        self.send_response(status)
        length = str(len(body))
        for name, value in headers:
            if name.lower() == "location":
                self.proxy.remember(seen, value)
                value = value.replace(self.proxy.upstream, self.proxy.url)
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault and fault.kind == "cut down":
            self.wfile.write(body[: len(body) // 2])
            return self._reset()
        if fault and fault.kind == "slow":
            for start in range(0, len(body), _PIECE):
                self.proxy.pace(len(body[start : start + _PIECE]), fault.rate)
                self.wfile.write(body[start : start + _PIECE])
            return
        self.wfile.write(body)

    def _refuse(self, status: int, seen: Seen) -> None:
        seen.status = status
        token = self.headers.get("Authorization", "")
        told = f"{MESSAGES[status]} ({token}; try https://store/o?X-Goog-Signature={token.split()[-1] if token else ''}&x=1)"
        if "/b/" in self.path or "upload_id" in self.path:
            body, kind = json.dumps({"error": {"code": status, "message": told}}).encode(), "application/json"
        else:
            code = {403: "AccessDenied", 401: "InvalidAccessKeyId", 429: "SlowDown", 503: "SlowDown"}.get(status, "InternalError")
            body, kind = f"<Error><Code>{code}</Code><Message>{told}</Message></Error>".encode(), "application/xml"
        self._reply(seen, status, [("Content-Type", kind)], body, None)

    def _reset(self) -> None:
        # With no time to linger a close is a reset.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        os.close(self.connection.detach())


def _multipart(body: bytes) -> tuple[str, int, int]:
    """The object's name, and where its bytes begin and end, in a multipart upload as gcsfs makes it."""
    parts = body.split(b"\n\n", 2)
    if len(parts) < 3:
        return "", 0, len(body)
    name = json.loads(parts[1].split(b"\n--")[0])["name"]
    begin = len(parts[0]) + len(parts[1]) + 4
    return name, begin, body.rindex(b"\n--")


def _flip(body: bytes, multipart: bool = False) -> bytes:
    """`body` with one bit of its content flipped, in the middle."""
    begin, end = _multipart(body)[1:] if multipart else (0, len(body))
    if begin >= end:
        return body
    changed = bytearray(body)
    changed[(begin + end) // 2] ^= 1
    return bytes(changed)
