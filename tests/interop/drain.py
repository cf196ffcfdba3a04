"""Rolling updates behind a balancer of connections (layer 4), with latency: `tests/wire/run` runs this.

A replica gets SIGTERM while clients keep connections to it. Half of its drain delay later, the balancer
sends new connections to another replica, as kube-proxy does: by a rule of netfilter, and what is open
stays where it is."""

import asyncio
import collections
import itertools
import json
import os
import random
import select
import shutil
import socket
import subprocess
import threading
import time
import unittest
from pathlib import Path

import aiohttp
import grpc
import requests
from service import PATIENCE, Service
from service1_pb2 import ProcessNameRequest
from service1_pb2_grpc import Service1Stub

LATENCY = float(os.environ["WIRE"]) / 1000  # seconds for a round trip
DRAINS = int(os.environ.get("DRAINS", 10))
DELAY = 3  # seconds
LONGEST_PAUSE = 0.9 * DELAY
CLIENTS = {"requests": 60, "aiohttp": 150, "grpcio": 60, "node": 60, "idle": 60}
HTTP, GRPC = 80, 81  # where the balancer listens
NEAR = 0.1  # seconds: so close to the end of the delay do idle clients send
SLACK = 1  # seconds: a busy machine may close a connection so much later


def pause():
    """Mostly short, so that there are many requests."""
    return random.uniform(0, random.choice([LONGEST_PAUSE / 9, LONGEST_PAUSE]))


class Balancer:
    """Sends new connections to a replica."""

    # Each has an address of its own: the kernel still knows the connections of the last one.
    hosts = (f"127.0.1.{number}" for number in itertools.count(1))

    def __init__(self, service):
        self.host = next(self.hosts)
        self._rules("--append OUTPUT", service)

    def switch_to(self, service):
        self._rules("--replace OUTPUT {}", service)

    def _rules(self, what, service):
        for number, (port, protocol) in enumerate([(HTTP, "http"), (GRPC, "grpc")], 1):
            rule = f"--table nat {what.format(number)} --destination {self.host} --protocol tcp --dport {port}"
            target = f"--jump DNAT --to-destination {service.address(protocol)}"
            subprocess.run(["iptables", *rule.split(), *target.split()], check=True)

    def close(self):
        subprocess.run("iptables --table nat --flush OUTPUT".split(), check=True)


class Tally:
    """What clients of one kind have sent and lost."""

    def __init__(self):
        self.sent = 0
        self.lost = collections.Counter()

    def count(self, error=None):
        self.sent += 1
        if error:
            self.lost[error] += 1


class Clients:
    """Clients that keep their connections and send a request after each pause, until they stop."""

    def __init__(self, host):
        self.host = host
        self.url = f"http://{host}:{HTTP}/echo"
        self.stopping = threading.Event()
        self.tallies = collections.defaultdict(Tally)
        self.channels = []
        self.threads = [threading.Thread(target=self._requests) for _ in range(CLIENTS["requests"])]
        self.threads += [threading.Thread(target=self._grpcio) for _ in range(CLIENTS["grpcio"])]
        self.threads.append(threading.Thread(target=asyncio.run, args=[self._aiohttp()]))
        if shutil.which("node"):
            self.threads.append(threading.Thread(target=self._node))
        for thread in self.threads:
            thread.start()

    def _requests(self):
        with requests.Session() as session:
            while not self.stopping.wait(pause()):
                try:
                    session.post(self.url, data=b"hello", timeout=PATIENCE).raise_for_status()
                    self.tallies["requests"].count()
                except requests.RequestException as error:
                    self.tallies["requests"].count(str(error))

    def _grpcio(self):
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"{self.host}:{GRPC}", options) as channel:
            stub = Service1Stub(channel)
            while not self.stopping.wait(pause()):
                try:
                    stub.ProcessName(ProcessNameRequest(name="test"), timeout=PATIENCE)
                    self.tallies["grpcio"].count()
                except grpc.RpcError as error:
                    self.tallies["grpcio"].count(str(error))

    async def _aiohttp(self):
        async def client():
            async with aiohttp.ClientSession() as session:
                while not self.stopping.is_set():
                    await asyncio.sleep(pause())
                    try:
                        async with session.post(self.url, data=b"hello") as response:
                            await response.read()
                            self.tallies["aiohttp"].count(response.status != 200 and str(response.status))
                    except aiohttp.ClientError as error:
                        self.tallies["aiohttp"].count(repr(error))

        await asyncio.gather(*[client() for _ in range(CLIENTS["aiohttp"])])

    def _node(self):
        program = Path(__file__).with_name("agents.js")
        command = ["node", program, self.url, str(CLIENTS["node"]), str(LONGEST_PAUSE)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as node:
            self.stopping.wait()
            out, _ = node.communicate(timeout=PATIENCE)
        node = json.loads(out)
        self.tallies["node"].sent += node["sent"]
        self.tallies["node"].lost.update(node["lost"])

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(PATIENCE)
        return self.tallies


class Idle:
    """A client whose connection is idle until about the end of the delay."""

    HEAD = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"

    def __init__(self, address):
        self.connection = socket.create_connection(address, PATIENCE)
        assert self._ask()
        self.is_lost = False
        self.before_end = 0  # seconds from the request to the end of the connection

    def _ask(self):
        self.connection.sendall(self.HEAD + b"hello")
        return b"200 OK" in self.connection.recv(4096)

    def ask_at(self, at):
        time.sleep(max(0, at - time.monotonic()))
        if not select.select([self.connection], [], [], 0)[0]:  # it has not ended
            sent = time.monotonic()
            try:
                self.is_lost = not self._ask()
            except ConnectionResetError:
                self.is_lost = True
            self.before_end = time.monotonic() - sent
        self.connection.close()


class RollingUpdate(unittest.TestCase):
    def drain(self):
        old, new = [Service("fixture", DRAIN_DELAY=f"{DELAY}s", RUST_LOG="warn") for _ in range(2)]
        self.addCleanup(old.kill)
        self.addCleanup(new.kill)
        balancer = Balancer(old)
        try:
            clients = Clients(balancer.host)
            idle = [Idle((balancer.host, HTTP)) for _ in range(CLIENTS["idle"])]
            time.sleep(1)
            old.process.terminate()
            end = time.monotonic() + DELAY
            late = [
                threading.Thread(target=one.ask_at, args=[end + random.uniform(-1, 1) * (LATENCY + NEAR)])
                for one in idle
            ]
            for thread in late:
                thread.start()
            time.sleep(DELAY / 2)
            balancer.switch_to(new)
            old.wait_until_ended()
            for thread in late:
                thread.join(PATIENCE)
            time.sleep(1)
            tallies = clients.stop()
        finally:
            balancer.close()
        new.stop()
        return tallies, idle

    def test_clients_that_pause_shorter_than_the_delay_lose_nothing(self):
        sent, lost, late, late_lost = collections.Counter(), collections.Counter(), 0, 0
        for _ in range(DRAINS):
            tallies, idle = self.drain()
            for kind, tally in tallies.items():
                sent[kind] += tally.sent
                lost.update({f"{kind}: {error}": count for error, count in tally.lost.items()})
            late += sum(one.before_end > 0 for one in idle)
            for one in idle:
                if one.is_lost:
                    late_lost += 1
                    self.assertLess(one.before_end, LATENCY + SLACK)
        shown = f"{LATENCY * 1000:g} ms, {DRAINS} drains: {sum(lost.values())} of {sent.total()} lost {dict(sent)}"
        print(f"{shown}; after idling through the delay, {late_lost} of {late} within a round trip of the end")
        self.assertFalse(lost)
        self.assertGreater(sent.total(), 1000 * DRAINS)
