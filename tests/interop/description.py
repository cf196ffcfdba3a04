"""The descriptions of the APIs against schemathesis, which makes requests from them, valid and not, and
holds each response against them."""

import html
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

from service import Service

# The requests that are made from each operation.
EXAMPLES = os.environ.get("EXAMPLES", "100")

SCHEMATHESIS = pathlib.Path(sys.executable).with_name("schemathesis")


class Description(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.service1 = Service("service1", RUST_LOG="error")
        cls.addClassCleanup(cls.service1.kill)
        cls.service2 = Service("service2", RUST_LOG="error", SERVICE1_CHANNEL=cls.service1.address("grpc"))
        cls.addClassCleanup(cls.service2.kill)
        cls.service2.wait_until_ready()

    def test_schemathesis_finds_nothing(self):
        for name, service, operations in [("service1", self.service1, 1), ("service2", self.service2, 3)]:
            with self.subTest(service=name), tempfile.TemporaryDirectory() as directory:
                document = f"http://{service.address('http')}/openapi.json"
                hooks = {"SCHEMATHESIS_HOOKS": "schemathesis_hooks"}
                done = subprocess.run(
                    [SCHEMATHESIS, "run", document, "--checks", "all", "--max-examples", EXAMPLES, "--no-color"],
                    env=os.environ | hooks,
                    cwd=directory,
                    capture_output=True,
                    text=True,
                    timeout=300,
                )
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
                self.assertIn(f"Tested: {operations}", done.stdout)

    def test_the_pages_are_made_of_the_documents(self):
        for service in [self.service1, self.service2]:
            document, page = json.loads(service.get("/openapi.json")), service.get("/docs")
            text = html.unescape(re.sub("<.*?>", "", page))
            self.assertTrue(document["openapi"].startswith("3.1."))
            for path, methods in document["paths"].items():
                self.assertIn(f"GET {path}", page)
                for parameter in methods["get"]["parameters"]:
                    if "name" in parameter:
                        self.assertIn(f'name="{parameter["name"]}"', page)
                for response in methods["get"]["responses"].values():
                    self.assertIn(response["description"].replace("`", ""), text)

    def test_the_commands_of_the_page_work(self):
        with tempfile.TemporaryDirectory() as directory:
            certs = ["target/debug/certs", "--dir", directory, "--service", "service1", "--service", "service2"]
            subprocess.run(certs, check=True, capture_output=True)
            with_tls = Service("service1", RUST_LOG="error", MESH_TLS_DIR=f"{directory}/service1")
            self.addCleanup(with_tls.kill)
            path = f"{SCHEMATHESIS.parent}:{os.environ['PATH']}" # grpcurl is beside it
            environment = os.environ | {"PATH": path, "CERTS": f"{directory}/service2"}
            for service, commands in [(self.service1, 5), (self.service2, 3), (with_tls, 5)]:
                # The certificates have the name, but not the address.
                page = service.get("/docs", headers={"Host": "localhost:" + service.address("http").rpartition(":")[2]})
                found = re.findall("<code>((?:curl|grpcurl) .*?)</code>", page)
                self.assertEqual(len(found), commands)
                for command in map(html.unescape, found):
                    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, timeout=30)
                    self.assertEqual(done.returncode, 0, command + done.stderr)
                    self.assertRegex(done.stdout, "(?i)test|name 2")
