"""Errors of one client beside five other clients, whose requests share one HTTP/2 connection: that of
Envoy or HAProxy to a port of ours. Whatever the error, the five stay whole."""

import contextlib
import json
import queue
import re
import socket
import subprocess
import tempfile
import time
import unittest
import urllib.request
from concurrent import futures

import grpc
import h2.config
import h2.connection
import h2.errors
import h2.events
from api_pb2 import ApiRequest
from api_pb2_grpc import ApiStub
from fronts import envoy_front, kept_port, proxy
from service import PATIENCE, Service
from service1_pb2 import ProcessNameRequest
from service1_pb2_grpc import Service1Stub
from testing import calls_pb2, calls_pb2_grpc

OTHERS = 5
HALF = b"half of a body, "
CUT_OFF = "cut off"
ENDED = "http2_connection_errors_total"
# How a body may end: the client resets the stream, its connection ends, or it waits.
RESET, LEAVE, WAIT = "reset", "leave", "wait"

# A good request to the fixture, and a good call to gRPC's test service.
HEADS = {
    "rest": {":method": "GET", ":scheme": "http", ":path": "/path", ":authority": "a"},
    "grpc": {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/testing.Calls/Upload",
        ":authority": "a",
        "content-type": "application/grpc",
        "te": "trailers",
    },
}
POST = {":method": "POST", ":path": "/echo"}

# The errors: the port, what differs from a good head, the body, and what the client gets. A head of
# bytes is one of HTTP/1.1.
ERRORS = [
    ("rest", {":path": "/bare/400"}, b"", "400"),
    ("rest", {":path": "/none"}, b"", "404"),
    ("rest", {":method": "POST"}, b"", "405"),
    ("rest", {**POST, "content-length": "70000"}, WAIT, "413"),
    ("rest", {"x-long": "a" * 20_000}, b"", "431"),
    ("rest", {":path": "/bare/500"}, b"", "500"),
    ("rest", {":path": "/panic"}, b"", "500"),
    ("rest", {":path": "/panic-later"}, b"", CUT_OFF),
    ("rest", {":path": "/bare/503"}, b"", "503"),
    ("rest", {":path": "/late"}, b"", "504"),
    ("rest", {**POST, "content-length": "1"}, b"two", CUT_OFF),
    ("rest", {":path": "/<"}, b"", "502"),
    ("rest", {":path": "/é"}, b"", "404"),
    ("rest", {":path": "/%ff"}, b"", "404"),
    ("rest", b"GET /path HTTP/1.1\r\nHost: [::1\r\n\r\n", b"", "502"),
    ("rest", b"GET /path HTTP/1.1\r\nHost:\r\n\r\n", b"", "502"),
    ("rest", POST, RESET, None),
    ("rest", POST, LEAVE, None),
    ("rest", {":path": "/hang"}, RESET, None),
    ("grpc", {":path": "/none"}, b"", "12"),
    ("grpc", {}, b"no message", "3"),
    ("grpc", {}, b"\0\0\0\0\2\xff\xff", "3"),
    ("grpc", {}, b"\0\0\0\0\x09half", "3"),
    ("grpc", {}, b"\1\0\0\0\0", "3"),
    ("grpc", {}, b"\0\xff\xff\xff\xff", "8"),
    ("grpc", {"grpc-timeout": "0n"}, b"", "4"),
    ("grpc", {"grpc-timeout": "50m"}, WAIT, "4"),
    ("grpc", {"grpc-timeout": "soon"}, b"", "0"),
    ("grpc", {"content-type": "text/plain"}, b"", "415"),
    ("grpc", {":method": "PUT"}, b"", "405"),
    ("grpc", {"x-long": "a" * 20_000}, b"", "8"),
    ("grpc", {":path": "/<"}, b"", "14"),
    ("grpc", {}, RESET, None),
    ("grpc", {}, LEAVE, None),
]

# What a proxy must refuse, as h2 or hyper would end the connection: docs/h2-report.md, docs/limits.md.
INVALID_PATHS = [{":path": b"/\xff"}, {":path": b"/?\xff"}]
INVALID_HEADS = [*INVALID_PATHS, {":authority": b"\xff"}, {"x-a": b"\x01"}, {"x-a": b"\x7f"}]
TUNNELS = [
    b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 4\r\n\r\nbody",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
]

# docs/limits.md has the rules with which it does.
ENVOY_RULES = """
              - match:
                  prefix: ""
                  headers: [{name: ":path", string_match: {safe_regex: {regex: "[!-~]*"}}, invert_match: true}]
                direct_response: {status: 400}
"""
HAPROXY_RULES = r"""
  http-request deny deny_status 400 if { url -m reg '[^!-~]' }
  http-request deny deny_status 400 if { req.hdr(host) -m reg '[^!-~]' }
  http-request deny deny_status 400 if { req.hdrs -m reg '[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]' }
  http-request deny deny_status 501 if METH_CONNECT || { req.hdr(upgrade) -m found }
"""

HAPROXY = """
global
  nbthread 1
  # Less than tune.bufsize: what a client does not read must fit into the buffer of its stream.
  tune.h2.initial-window-size 12000
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  http-reuse always
frontend front
  bind 127.0.0.1:{port}
  {rules}
  default_backend service
backend service
  server service {address} proto h2
"""


def http1(port, head):
    """Sends a request over HTTP/1.1. Returns the status."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(head)
        return connection.recv(12)[9:].decode()


def http2(port, head, body):
    """Sends a request over HTTP/2. Returns its code: that of gRPC if there is one, `CUT_OFF` if the
    response has no end, or none if the client does not wait for it."""
    # What is sent is neither checked nor corrected.
    config = h2.config.H2Configuration(
        normalize_outbound_headers=False,
        validate_outbound_headers=False,
        validate_inbound_headers=False,
    )
    client = h2.connection.H2Connection(config)
    client.initiate_connection()
    client.send_headers(1, list(head.items()), end_stream=body == b"")
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        if isinstance(body, bytes) and body:
            client.send_data(1, body, end_stream=True)
        connection.sendall(client.data_to_send())
        if body in (RESET, LEAVE):
            time.sleep(0.05)  # for the request to reach the service
            if body == RESET:
                client.reset_stream(1, h2.errors.ErrorCodes.CANCEL)
                connection.sendall(client.data_to_send())
            return None
        return code_of_response(client, connection)


def code_of_response(client, connection):
    code = None
    while received := connection.recv(65_536):
        for event in client.receive_data(received):
            match event:
                case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                    headers = dict(event.headers)
                    code = headers.get(b"grpc-status", headers.get(b":status", code))
                case h2.events.StreamEnded():
                    return code.decode()
                case h2.events.StreamReset() | h2.events.ConnectionTerminated():
                    return CUT_OFF
    return CUT_OFF


class Upload:
    """A request of another client: a body that is echoed."""

    def __init__(self, port):
        self.connection = socket.create_connection(("127.0.0.1", port), PATIENCE)
        length = len(2 * HALF)
        head = f"POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        self.connection.sendall(head.encode() + HALF)

    def is_whole(self):
        with self.connection, self.connection.makefile("rb") as response:
            try:
                self.connection.sendall(HALF)
                return response.read().endswith(b"\r\n\r\n" + 2 * HALF)
            except ConnectionError:
                return False


class Chat:
    """A call of another client: messages that are echoed."""

    def __init__(self, port):
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])
        self.requests = queue.Queue()
        self.responses = calls_pb2_grpc.CallsStub(self.channel).Chat(iter(self.requests.get, None))
        assert self.is_echoed()

    def is_echoed(self):
        self.requests.put(calls_pb2.Chunk(bytes=HALF))
        return next(self.responses).bytes == HALF

    def is_whole(self):
        with self.channel:
            try:
                return self.is_echoed()
            except grpc.RpcError:
                return False
            finally:
                self.requests.put(None)
                self.responses.cancel()


@contextlib.contextmanager
def through_envoy(address, rules=""):
    # One thread, and so one connection to the service.
    with envoy_front("shared.yaml", 1, upstream=address.split(":")[1], rules=rules) as port:
        yield port


@contextlib.contextmanager
def through_haproxy(address, rules=""):
    with kept_port() as port, tempfile.NamedTemporaryFile("w", suffix=".cfg") as file:
        file.write(HAPROXY.format(port=port, address=address, rules=rules))
        file.flush()
        with proxy(["haproxy", "-db", "-f", file.name], port, stderr=subprocess.DEVNULL):
            yield port


class Shared(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.services = {"rest": Service("fixture"), "grpc": Service("test_service")}

    @classmethod
    def tearDownClass(cls):
        for service in cls.services.values():
            service.stop()

    def metric(self, service, name):
        text = self.services[service].get("/metrics", "admin")
        return int(re.search(rf"^{name} (\d+)$", text, re.MULTILINE)[1])

    def address(self, service):
        return self.services[service].address({"rest": "http"}.get(service, service))

    def try_error(self, service, port, head, body):
        """Makes the error while the others are in flight. Returns its code, and how many are whole."""
        others = [{"rest": Upload, "grpc": Chat}[service](port) for _ in range(OTHERS)]
        end = time.monotonic() + PATIENCE
        while self.metric(service, "requests_in_flight") < OTHERS:
            assert time.monotonic() < end, "they never get to the service"
            time.sleep(0.01)
        if isinstance(head, bytes):
            code = http1(port, head)
        else:
            code = http2(port, {**HEADS[service], **head}, body)
        return code, sum(other.is_whole() for other in others)

    def test_errors(self):
        for service in self.services:
            before = self.metric(service, ENDED)
            with through_envoy(self.address(service)) as port:
                for _, head, body, expected in (error for error in ERRORS if error[0] == service):
                    with self.subTest(service, head=head, body=body):
                        code, whole = self.try_error(service, port, head, body)
                        self.assertEqual((code, whole), (expected, OTHERS))
            self.assertEqual(self.metric(service, ENDED), before)

    def test_errors_through_haproxy(self):
        """HAProxy has responses of its own to some of them."""
        for service in self.services:
            with through_haproxy(self.address(service), HAPROXY_RULES) as port:
                for _, head, body, _ in (error for error in ERRORS if error[0] == service):
                    with self.subTest(service, head=head, body=body):
                        _, whole = self.try_error(service, port, head, body)
                        self.assertEqual(whole, OTHERS)

    def check_rules(self, through, rules, heads):
        """Each request is refused with these rules, and ends the others without them."""
        for service in self.services:
            before = self.metric(service, ENDED)
            for head in heads:
                with self.subTest(service, head=head):
                    with through(self.address(service), rules) as port:
                        code, whole = self.try_error(service, port, head, b"")
                        self.assertIn(code, ("400", "501", "13"))  # the last one is Envoy's, for calls
                        self.assertEqual(whole, OTHERS)
                    with through(self.address(service)) as port:
                        _, whole = self.try_error(service, port, head, b"")
                        self.assertEqual(whole, 0, "docs/limits.md needs no rule for it any more")
            self.assertGreater(self.metric(service, ENDED), before)

    def test_the_rules_of_envoy(self):
        self.check_rules(through_envoy, ENVOY_RULES, INVALID_PATHS)

    def test_the_rules_of_haproxy(self):
        self.check_rules(through_haproxy, HAPROXY_RULES, [*INVALID_HEADS, *TUNNELS])

    def test_many_errors_of_one_client(self):
        with through_envoy(self.address("rest")) as port:
            before = self.metric("rest", "http2_stream_errors_total")
            others = [Upload(port) for _ in range(OTHERS)]
            head = b"GET /path HTTP/1.1\r\nHost: [::1\r\n\r\n"
            self.assertEqual({http1(port, head) for _ in range(1_100)}, {"502"})
            self.assertEqual([other.is_whole() for other in others], [True] * OTHERS)
            self.assertEqual(self.metric("rest", "http2_stream_errors_total"), before + 1_100)


class Stalled(unittest.TestCase):
    """Clients that read nothing of a long response, beside others whose requests share their connection."""

    STALLED = 20
    CALLS = 50  # of each of the others
    ITEMS = 2**31 - 1

    @classmethod
    def setUpClass(cls):
        cls.service1 = Service("service1", RUST_LOG="warn")
        cls.addClassCleanup(cls.service1.kill)
        channel = cls.service1.address("grpc")
        cls.service2 = Service("service2", RUST_LOG="warn", SERVICE1_CHANNEL=channel)
        cls.addClassCleanup(cls.service2.kill)
        cls.service2.wait_until_ready()

    def check(self, address, stall, call):
        for through in [through_envoy, through_haproxy]:
            with self.subTest(through.__name__), through(address) as port, contextlib.ExitStack() as stalled:
                for _ in range(self.STALLED):
                    stalled.enter_context(stall(port))
                time.sleep(1)  # for them to fill all that is between
                with futures.ThreadPoolExecutor(OTHERS) as others:
                    responses = list(others.map(call, [port] * OTHERS * self.CALLS))
                self.assertEqual(set(responses), {"TEST"})

    def test_over_rest(self):
        def stall(port):
            connection = socket.create_connection(("127.0.0.1", port), PATIENCE)
            path = f"/api/v1/items/stream?length={self.ITEMS}"
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            return connection

        def call(port):
            url = f"http://127.0.0.1:{port}/api/v1/say-hello?name=test"
            with urllib.request.urlopen(url, timeout=PATIENCE) as response:
                return json.load(response).removeprefix("Hello, ").removesuffix("!")

        self.check(self.service2.address("http"), stall, call)

    def test_over_grpc(self):
        def channel(port):
            return grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])

        @contextlib.contextmanager
        def stall(port):
            with channel(port) as own:
                items = ApiStub(own).getStream(ApiRequest(length=self.ITEMS))
                next(items)
                yield

        def call(port):
            with channel(port) as own:
                return Service1Stub(own).ProcessName(ProcessNameRequest(name="test"), timeout=PATIENCE).name

        self.check(self.service1.address("grpc"), stall, call)
