"""A service of the pair as a real process, whose log is read as it is written."""

import collections
import json
import os
import subprocess
import threading
import time
import urllib.request
from concurrent import futures

PATIENCE = 20  # seconds; far more than anything needs

# The addresses are read off this module's lines, so they are always logged.
LISTENING = "common::server::process=info"


# An optimised build: the programs of images, or else of `cargo build --release`.
DIRECTORIES = {"debug": "target/debug", "release": os.environ.get("SERVICES", "target/release")}


class Service:
    """A service on free ports."""

    def __init__(self, program, build="debug", **variables):
        environment = {"HOST": "127.0.0.1", "PORT": "0", "GRPC_PORT": "0", "ADMIN_PORT": "0", "WORKERS": "2", **variables}
        if "RUST_LOG" in variables:
            environment["RUST_LOG"] += f",{LISTENING}"
        self.process = subprocess.Popen(
            [f"{DIRECTORIES[build]}/{program}"], env=environment, stdout=subprocess.PIPE, text=True
        )
        self.lines = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def line(self, **fields):
        """Waits for the first line with these fields."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for line in list(self.lines):
                if fields.items() <= line.items():
                    return line
            time.sleep(0.01)
        raise AssertionError(f"no line with {fields} in {self.lines}")

    def address(self, protocol):
        return self.line(action="listen", protocol=protocol)["address"]

    def get(self, path, port="http", headers={}):
        request = urllib.request.Request(f"http://{self.address(port)}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return response.read().decode()

    def status(self, path, port="http"):
        try:
            self.get(path, port)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        return 200

    def wait_until(self, status, path):
        end = time.monotonic() + PATIENCE
        while self.status(path) != status:
            assert time.monotonic() < end, f"{path} never says {status}"
            time.sleep(0.01)

    def wait_until_ready(self):
        self.wait_until(200, "/readyz")

    def lost_replicas(self):
        return [line for line in self.lines if line.get("action") == "replica" and line["status"] == "down"]

    def say_hello(self, name, request_id, timeout=PATIENCE, **headers):
        request = urllib.request.Request(
            f"http://{self.address('http')}/api/v1/say-hello?name={name}",
            headers={"X-Request-ID": request_id, **headers},
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return response.status, json.load(response), response.headers["x-request-id"]
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)["detail"], error.headers["x-request-id"]

    def failures(self, rate, seconds):
        """Sends that many say-hello requests a second, at most 20 at a time. Counts the failures by
        status and detail."""
        begin = time.monotonic()
        requests = []
        with futures.ThreadPoolExecutor(20) as clients:
            for number in range(rate * seconds):
                time.sleep(max(0, begin + number / rate - time.monotonic()))
                requests.append(clients.submit(self.say_hello, "test", f"load-{number}"))
        responses = [request.result() for request in requests]
        return collections.Counter((status, detail) for status, detail, _ in responses if status != 200)

    def stop(self):
        self.process.terminate()
        self.wait_until_ended()

    def kill(self):
        """Ends it whether it runs or not."""
        self.process.kill()
        self.process.wait(PATIENCE)
        self.reader.join(PATIENCE)
        self.process.stdout.close()

    def wait_until_ended(self):
        assert self.process.wait(PATIENCE) == 0
        self.reader.join(PATIENCE)
        self.process.stdout.close()
