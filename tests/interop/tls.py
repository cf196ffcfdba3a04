"""The pair over TLS against peers not written here: grpcio (over BoringSSL) as a client of service1
and as the server behind service2; curl, OpenSSL and testssl.sh as clients of the edge."""

import json
import pathlib
import subprocess
import tempfile
import unittest
from concurrent import futures

import grpc
from service import Service
from service1_pb2 import ProcessNameRequest, ProcessNameResponse

METHOD = "/app.grpc.Service1/ProcessName"
SERVICE2 = "spiffe://mesh.local/service2"

# What testssl.sh calls worse than LOW, and what is not the server's to decide: the certificates are
# those of a test. There is no service that could revoke them, and the authority is not public.
OF_THE_CERTIFICATE = {"cert_chain_of_trust", "cert_revocation", "cert_ocspURL", "cert_crlDistributionPoints"}


def run(*command, stdin=""):
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


class Tls(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.directory = pathlib.Path(cls.temporary.name)
        services = ["--service", "service1", "--service", "service2"]
        arguments = ["--dir", str(cls.directory), "--ttl", "90days", *services]
        code, said = run("target/debug/certs", *arguments)
        assert code == 0, said
        cls.ca = str(cls.directory / "ca.crt")
        cls.service1 = Service("service1", RUST_LOG="debug", MESH_TLS_DIR=str(cls.directory / "service1"))
        cls.edge = Service("service2", EDGE_TLS_DIR=str(cls.directory / "service2"))
        cls.https = "localhost:" + cls.edge.address("http").rpartition(":")[2]
        cls.mesh = "localhost:" + cls.service1.address("grpc").rpartition(":")[2]

    @classmethod
    def tearDownClass(cls):
        cls.edge.stop()
        cls.service1.stop()
        cls.temporary.cleanup()

    def read(self, service, *names):
        return [(self.directory / service / name).read_bytes() for name in names]

    def test_grpcio_as_client(self):
        ca, key, certificate = self.read("service2", "ca.crt", "tls.key", "tls.crt")

        def call(credentials):
            with grpc.secure_channel(self.mesh, credentials) as channel:
                process_name = channel.unary_unary(
                    METHOD,
                    request_serializer=ProcessNameRequest.SerializeToString,
                    response_deserializer=ProcessNameResponse.FromString,
                )
                metadata = [("request_id", "over-tls")]
                return process_name(ProcessNameRequest(name="test"), timeout=5, metadata=metadata).name

        self.assertEqual(call(grpc.ssl_channel_credentials(ca, key, certificate)), "TEST")
        self.service1.line(request_id="over-tls", peer=SERVICE2)
        with self.assertRaises(grpc.RpcError) as refused:
            call(grpc.ssl_channel_credentials(ca))
        self.assertEqual(refused.exception.code(), grpc.StatusCode.UNAVAILABLE)

    def test_grpcio_as_server(self):
        ca, key, certificate = self.read("service1", "ca.crt", "tls.key", "tls.crt")
        peers = []

        def process_name(request, context):
            peers.append(context.peer_identities())
            return ProcessNameResponse(name=request.name.upper())

        handler = grpc.unary_unary_rpc_method_handler(
            process_name,
            request_deserializer=ProcessNameRequest.FromString,
            response_serializer=ProcessNameResponse.SerializeToString,
        )
        server = grpc.server(futures.ThreadPoolExecutor(4))
        handlers = {"ProcessName": handler}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("app.grpc.Service1", handlers)])
        credentials = grpc.ssl_server_credentials([(key, certificate)], ca, require_client_auth=True)
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        service2 = Service(
            "service2", SERVICE1_CHANNEL=f"localhost:{port}", MESH_TLS_DIR=str(self.directory / "service2")
        )
        try:
            service2.wait_until_ready()
            self.assertEqual(service2.say_hello("test", "over-tls"), (200, "Hello, TEST!", "over-tls"))
            self.assertIn(SERVICE2.encode(), set(peers[0]))
        finally:
            service2.stop()
            server.stop(None)

    def test_curl(self):
        url = f"https://{self.https}/healthz"
        for option, version in [("--http2", "HTTP/2 200"), ("--http1.1", "HTTP/1.1 200")]:
            code, said = run("curl", "--silent", "--show-error", "--include", "--cacert", self.ca, option, url)
            self.assertEqual(code, 0, said)
            self.assertIn(version, said)
        code, said = run("curl", "--silent", "--show-error", url)
        self.assertNotEqual(code, 0, "the authority is not public")

    def test_openssl(self):
        def connect(address, *options):
            return run("openssl", "s_client", "-connect", address, "-CAfile", self.ca, *options)[1]

        for version in ["TLSv1.2", "TLSv1.3"]:
            said = connect(self.https, "-alpn", "h2,http/1.1", "-" + version.lower().replace(".", "_").replace("v", ""))
            for part in [version, "ALPN protocol: h2", "Verify return code: 0 (ok)", "No client certificate CA names"]:
                self.assertIn(part, said)
        said = connect(self.https, "-tls1_1")
        self.assertNotIn("Verify return code: 0 (ok)\n---\nDONE", said)
        self.assertIn("Cipher is (NONE)", said)
        said = connect(self.mesh, "-alpn", "h2")
        for part in ["TLSv1.3", "ALPN protocol: h2", "Acceptable client certificate CA names"]:
            self.assertIn(part, said)
        self.assertIn("Cipher is (NONE)", connect(self.mesh, "-tls1_2"))

    def test_testssl(self):
        report = self.directory / "testssl.json"
        options = ["--quiet", "--color", "0", "--warnings", "off", "--nodns", "min", "--add-ca", self.ca]
        run("testssl", *options, "--jsonfile", str(report), self.https)
        findings = json.loads(report.read_text())
        self.assertGreater(len(findings), 50)
        severe = {"MEDIUM", "HIGH", "CRITICAL", "FATAL"}
        ours = [one for one in findings if one["severity"] in severe and one["id"] not in OF_THE_CERTIFICATE]
        self.assertEqual(ours, [])
