"""service2 under the four modes of slowhttptest. Needs the Debian package slowhttptest."""

import resource
import statistics
import subprocess
import sys
import time
import unittest
import urllib.request

from service import PATIENCE, Service

PATH = "/api/v1/say-hello?name=test"
SLOW_CLIENTS = 4000
PROBES_PER_SECOND = 20


class SlowClients(unittest.TestCase):
    """4,000 slow clients, and 20 new connections a second beside them."""

    @classmethod
    def setUpClass(cls):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        build = "release"  # a debug build is too slow for 4,000 lists in a few seconds
        cls.service1 = Service("service1", build)
        channel = cls.service1.address("grpc")
        cls.service2 = Service("service2", build, SERVICE1_CHANNEL=channel, RUST_LOG="error")
        cls.service2.wait_until_ready()

    @classmethod
    def tearDownClass(cls):
        cls.service2.stop()
        cls.service1.stop()

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
