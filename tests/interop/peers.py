"""The pair against other gRPC implementations, as clients of service1 and as the server behind
service2: grpcio (the C core) and grpclib (pure Python, over the HTTP/2 of `h2`). `buf curl` is one
more client of service1."""

import asyncio
import contextlib
import json
import pathlib
import re
import subprocess
import sys
import threading
import time
import unittest
from concurrent import futures

import api_pb2_grpc
import grpc
import grpclib
import grpclib.client
import grpclib.const
import grpclib.server
from api_pb2 import ApiRequest, Hello, HelloRequest, Item, Items
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from service import PATIENCE, Service
from service1_pb2 import ProcessNameRequest, ProcessNameResponse

METHOD = "/app.grpc.Service1/ProcessName"
STREAM = "/api.Api/getStream"

BUF = pathlib.Path(sys.executable).with_name("buf")

# Seconds. The C core ends the connection of a client that pings more often than gRFC A8 allows:
# with a ping every 10 s, an idle one after 40 s, and one with a call on it after 50 s.
IDLE = 120
QUIET = 100


@contextlib.contextmanager
def service2_before(*backends, **variables):
    """service2, ready, with these servers as its replicas; it stops before they do."""
    service2 = Service("service2", SERVICE1_CHANNEL=",".join(b.address for b in backends), **variables)
    try:
        service2.wait_until_ready()
        yield service2
    finally:
        try:
            service2.stop()
        finally:
            for backend in backends:
                backend.stop()


def items(length):
    return [Item(id=number, name=f"name {number}") for number in range(1, length + 1)]


class AsClient(unittest.TestCase):
    """Clients of service1."""

    @classmethod
    def setUpClass(cls):
        cls.service1 = Service("service1")
        cls.service1.wait_until_ready()

    @classmethod
    def tearDownClass(cls):
        cls.service1.stop()

    def test_grpcio(self):
        with grpc.insecure_channel(self.service1.address("grpc")) as channel:
            process_name = channel.unary_unary(
                METHOD,
                request_serializer=ProcessNameRequest.SerializeToString,
                response_deserializer=ProcessNameResponse.FromString,
            )
            response, call = process_name.with_call(
                ProcessNameRequest(name="straße"), timeout=5, metadata=[("request_id", "from-grpcio")]
            )
            self.assertEqual(response.name, "STRASSE")
            self.assertEqual(dict(call.initial_metadata())["request_id"], "from-grpcio")
            self.service1.line(action="process_name", request_id="from-grpcio")

            with self.assertRaises(grpc.RpcError) as refusal:
                process_name(ProcessNameRequest(name="x" * 1025), metadata=[("request_id", "refused")])
            self.assertEqual(refusal.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
            self.assertIn("is 1024", refusal.exception.details())
            self.assertEqual(dict(refusal.exception.trailing_metadata())["request_id"], "refused")

            with self.assertRaises(grpc.RpcError) as unknown:
                channel.unary_unary("/app.grpc.Service1/Nope")(b"")
            self.assertEqual(unknown.exception.code(), grpc.StatusCode.UNIMPLEMENTED)

            health = health_pb2_grpc.HealthStub(channel)
            services = ProtoReflectionDescriptorDatabase(channel).get_services()
            for service in ["app.grpc.Service1", "api.Api"]:
                status = health.Check(health_pb2.HealthCheckRequest(service=service)).status
                self.assertEqual(status, health_pb2.HealthCheckResponse.SERVING)
                self.assertIn(service, services)

    def test_grpcio_items(self):
        with grpc.insecure_channel(self.service1.address("grpc")) as channel:
            api = api_pb2_grpc.ApiStub(channel)
            self.assertEqual(api.sayHello(HelloRequest(name="Gonzalo")).message, "Hello Gonzalo!")
            self.assertEqual(api.getAll(ApiRequest(length=3)), Items(items=items(3)))
            with self.assertRaises(grpc.RpcError) as refusal:
                api.getAll(ApiRequest(length=10_001))
            self.assertEqual(refusal.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)

            stream = api.getStream(ApiRequest(length=1000), metadata=[("request_id", "streamed")])
            self.assertEqual(dict(stream.initial_metadata())["request_id"], "streamed")
            self.assertEqual(list(stream), items(1000))
            with self.assertRaises(grpc.RpcError) as refusal:
                next(api.getStream(ApiRequest(length=-1)))
            self.assertEqual(refusal.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)

            cancelled = api.getStream(ApiRequest(length=2**31 - 1), metadata=[("request_id", "cancelled")])
            next(cancelled)
            cancelled.cancel()
            self.service1.line(action="get_stream", status="failure", request_id="cancelled")
            late = api.getStream(ApiRequest(length=2**31 - 1), timeout=0.3)
            with self.assertRaises(grpc.RpcError) as end:
                for _ in late:
                    pass
            self.assertEqual(end.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)

    def test_grpclib(self):
        host, port = self.service1.address("grpc").split(":")

        async def call():
            async with grpclib.client.Channel(host, int(port)) as channel:
                method = grpclib.client.UnaryUnaryMethod(channel, METHOD, ProcessNameRequest, ProcessNameResponse)
                metadata = {"request_id": "from-grpclib"}
                async with method.open(timeout=5, metadata=metadata) as stream:
                    await stream.send_message(ProcessNameRequest(name="test"), end=True)
                    response = await stream.recv_message()
                    await stream.recv_trailing_metadata()
                    self.assertEqual(response.name, "TEST")
                    self.assertEqual(stream.initial_metadata["request_id"], "from-grpclib")
                with self.assertRaises(grpclib.GRPCError) as refusal:
                    await method(ProcessNameRequest(name="x" * 1025), timeout=5)
                self.assertEqual(refusal.exception.status, grpclib.const.Status.INVALID_ARGUMENT)
                streamed = grpclib.client.UnaryStreamMethod(channel, STREAM, ApiRequest, Item)
                self.assertEqual(await streamed(ApiRequest(length=1000), timeout=5), items(1000))

        asyncio.run(call())
        self.service1.line(action="process_name", request_id="from-grpclib")

    def test_buf_curl(self):
        """It reads the descriptions by reflection, or from files if that is off."""
        silent = Service("service1", REFLECTION="off")
        self.addCleanup(silent.kill)

        def buf(service, *arguments, path=""):
            command = [BUF, "curl", "--http2-prior-knowledge", "--protocol", "grpc", *arguments]
            command.append(f"http://{service.address('grpc')}{path}")
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
            return done.stdout.split() if done.returncode == 0 else done.stderr

        def name(service, *schema):
            return buf(service, *schema, "--data", '{"name": "straße"}', path=METHOD)

        files = ("--schema", "protos")
        for service, schema in [(self.service1, ()), (self.service1, files), (silent, files)]:
            with self.subTest(schema=schema):
                self.assertEqual(name(service, *schema), ["{", '"name":', '"STRASSE"', "}"])
                streamed = " ".join(buf(service, *schema, "--data", '{"length": 3}', path=STREAM))
                self.assertEqual(re.findall('"name": "(.*?)"', streamed), [item.name for item in items(3)])
        listed = ["api.Api", "app.grpc.Service1", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"]
        self.assertEqual(buf(self.service1, "--list-services"), listed)
        self.assertIn("failed to find service", name(silent))


class GrpcioServer(api_pb2_grpc.ApiServicer):
    """Returns `{name} {request id}` after `latency` seconds, or after three for the name `sleep-3`. With
    a `refusal`, a status code, it returns that at once. `timeouts` has the seconds that each call was
    given. The items are those of service1; a stream pauses for `pace` seconds before each item, and
    once more before the last. `options` are those of grpcio."""

    def __init__(self, options=(), latency=0, refusal=None, pace=0):
        self.latency, self.refusal, self.pace = latency, refusal, pace
        self.stopping = threading.Event()
        self.server = grpc.server(futures.ThreadPoolExecutor(4), options=options)
        handler = grpc.unary_unary_rpc_method_handler(
            self.process_name,
            request_deserializer=ProcessNameRequest.FromString,
            response_serializer=ProcessNameResponse.SerializeToString,
        )
        service = grpc.method_handlers_generic_handler("app.grpc.Service1", {"ProcessName": handler})
        self.server.add_generic_rpc_handlers([service])
        api_pb2_grpc.add_ApiServicer_to_server(self, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.timeouts = []
        self.server.start()

    def process_name(self, request, context):
        self.timeouts.append(context.time_remaining())
        if self.refusal:
            context.abort(self.refusal, "refused")
        if request.name == "fail":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such name")
        command, _, seconds = request.name.partition("-")
        self.stopping.wait(float(seconds) if command == "sleep" else self.latency)
        seen = dict(context.invocation_metadata())["request_id"]
        return ProcessNameResponse(name=f"{request.name} {seen}")

    def sayHello(self, request, context):
        return Hello(message=f"Hello {request.name}!")

    def getAll(self, request, context):
        return Items(items=items(request.length))

    def getStream(self, request, context):
        for item in items(request.length):
            self.stopping.wait(self.pace)
            if item.id == request.length:
                time.sleep(0.1)
            yield item

    def stop(self):
        self.stopping.set()
        self.server.stop(None).wait()


class GrpclibServer:
    """The same over grpclib, on a loop and a thread of its own."""

    def __init__(self):
        self.timeouts = []
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.server = asyncio.run_coroutine_threadsafe(self._start(), self.loop).result(PATIENCE)

    async def _start(self):
        server = grpclib.server.Server([self])
        await server.start("127.0.0.1", 0)
        host, port = server._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        return server

    def __mapping__(self):
        handler = grpclib.const.Handler(
            self.process_name, grpclib.const.Cardinality.UNARY_UNARY, ProcessNameRequest, ProcessNameResponse
        )
        stream = grpclib.const.Handler(
            self.get_stream, grpclib.const.Cardinality.UNARY_STREAM, ApiRequest, Item
        )
        return {METHOD: handler, STREAM: stream}

    async def process_name(self, stream):
        request = await stream.recv_message()
        self.timeouts.append(stream.deadline.time_remaining())
        if request.name == "fail":
            raise grpclib.GRPCError(grpclib.const.Status.NOT_FOUND, "no such name")
        await stream.send_message(ProcessNameResponse(name=f"{request.name} {stream.metadata['request_id']}"))

    async def get_stream(self, stream):
        request = await stream.recv_message()
        for item in items(request.length):
            await stream.send_message(item)

    def stop(self):
        async def close():
            self.server.close()
            await self.server.wait_closed()

        asyncio.run_coroutine_threadsafe(close(), self.loop).result(PATIENCE)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE)


class AsServer(unittest.TestCase):
    """Replicas of service2. Neither implements grpc.health.v1, so service2 must become ready on
    `UNIMPLEMENTED`."""

    def check(self, backend):
        with service2_before(backend) as service2:
            for number in range(20):
                request_id = f"id-{number}"
                response = service2.say_hello("test", request_id)
                self.assertEqual(response, (200, f"Hello, test {request_id}!", request_id))
            self.assertEqual(service2.say_hello("fail", "failed"), (404, "no such name", "failed"))
            for left in backend.timeouts:
                self.assertTrue(0 < left <= 10, left)
            service2.line(action="say_hello", status="failure", request_id="failed")
            self.check_stream(service2, 300)
            if isinstance(backend, GrpcioServer):
                self.assertIn("Hello Ada!</bdi>", service2.get("/?name=Ada"))

    def check_stream(self, service2, length):
        lines = service2.get(f"/api/v1/items/stream?length={length}").splitlines()
        expected = [{"id": item.id, "name": item.name} for item in items(length)]
        self.assertEqual([json.loads(line) for line in lines], expected)

    def test_grpcio(self):
        self.check(GrpcioServer())

    def test_grpclib(self):
        self.check(GrpclibServer())

    def test_a_connection_of_a_limited_age_is_replaced_while_its_stream_goes_on(self):
        """The server asks with a GOAWAY after 4 s; the stream takes 14 s, with calls beside it."""
        backend = GrpcioServer(
            options=[("grpc.max_connection_age_ms", 4_000), ("grpc.max_connection_age_grace_ms", 60_000)],
            pace=0.5,
        )
        # With one worker, all calls share the connection of the stream.
        with service2_before(backend, DEADLINE="30s", WORKERS="1") as service2:
            with futures.ThreadPoolExecutor(1) as beside:
                stream = beside.submit(self.check_stream, service2, 28)
                failed = service2.failures(rate=25, seconds=14)
                stream.result()
            self.assertEqual(failed.total(), 0, failed)

    def test_a_slow_response_of_the_only_replica_is_waited_for(self):
        """No other replica could be called, and a slow one is not lost."""
        backend = GrpcioServer()
        with service2_before(backend) as service2:
            for asked, name in enumerate(["sleep-3", "sleep-9"], start=1):
                self.assertEqual(service2.say_hello(name, name), (200, f"Hello, {name} {name}!", name))
                self.assertEqual(len(backend.timeouts), asked)
            self.assertEqual(service2.lost_replicas(), [])

    def check_refusals(self, code, failed_at_most, asked_at_most):
        """A replica that responds within 20 ms beside one that refuses at once. After a second to
        learn that, bounds the shares of the requests that fail and of those that reach the latter."""
        bad = GrpcioServer(refusal=code)
        with service2_before(GrpcioServer(latency=0.02), bad) as service2:
            at_first = service2.failures(rate=100, seconds=1)
            asked_at_first = len(bad.timeouts)
            failed = service2.failures(rate=100, seconds=4)
            if failed_at_most == 0:
                self.assertEqual(at_first.total(), 0, at_first)
            self.assertLessEqual(failed.total(), failed_at_most * 400, failed)
            # Not 0: it was among the replicas.
            self.assertGreater(len(bad.timeouts), 0)
            self.assertLessEqual(len(bad.timeouts) - asked_at_first, asked_at_most * 400)

    def test_a_replica_that_is_unavailable_at_once_is_hardly_called(self):
        self.check_refusals(grpc.StatusCode.UNAVAILABLE, failed_at_most=0, asked_at_most=0.05)

    def test_a_replica_that_is_exhausted_at_once_is_hardly_called(self):
        self.check_refusals(grpc.StatusCode.RESOURCE_EXHAUSTED, failed_at_most=0.05, asked_at_most=0.08)

    def test_a_replica_that_is_broken_at_once_is_hardly_called(self):
        self.check_refusals(grpc.StatusCode.INTERNAL, failed_at_most=0.05, asked_at_most=0.08)


class OfFewWords(unittest.TestCase):
    """A grpcio server that sends nothing for minutes (gRFC A8). The minutes begin with the first test of
    the module. These tests are the last, and wait for the rest."""

    @classmethod
    def begin(cls):
        caller = unittest.enterModuleContext(futures.ThreadPoolExecutor(1))
        cls.idle = unittest.enterModuleContext(service2_before(GrpcioServer()))
        cls.idle_until = time.monotonic() + IDLE
        backend = GrpcioServer()
        cls.waiting = unittest.enterModuleContext(service2_before(backend, DEADLINE="150s"))
        cls.call = caller.submit(cls.waiting.say_hello, f"sleep-{QUIET}", "quiet", timeout=150)
        # Nobody waits for the call when these tests are not selected.
        unittest.addModuleCleanup(backend.stopping.set)

    def test_a_quiet_call_gets_its_response(self):
        response = self.call.result()
        self.assertEqual(response, (200, f"Hello, sleep-{QUIET} quiet!", "quiet"))
        self.assertEqual(self.waiting.lost_replicas(), [])

    def test_an_idle_connection_is_kept(self):
        time.sleep(max(0, self.idle_until - time.monotonic()))
        self.assertEqual(self.idle.say_hello("test", "idle"), (200, "Hello, test idle!", "idle"))
        self.assertEqual(self.idle.lost_replicas(), [])


setUpModule = OfFewWords.begin
