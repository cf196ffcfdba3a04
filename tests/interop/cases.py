"""gRPC's interoperability cases between `common` and grpcio (the C core), in both directions.

A handler of grpcio can't see whether a request was compressed, so only `make test` runs the case
`compression_probe`."""

import collections
import json
import subprocess
import threading
import time
import unittest
from concurrent import futures

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from service import PATIENCE, Service
from testing import calls_pb2, calls_pb2_grpc, empty_pb2, messages_pb2, test_pb2_grpc

DEADLINE = 10  # seconds
MANY = 1000
LARGE_REQUEST, LARGE_RESPONSE = 271_828, 314_159
REQUESTS = [27_182, 8, 1_828, 45_904]
RESPONSES = [31_415, 9, 2_653, 58_979]
INITIAL = ("x-grpc-test-echo-initial", "test_initial_metadata_value")
TRAILING = ("x-grpc-test-echo-trailing-bin", b"\xab\xab\xab")
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
GZIP = grpc.Compression.Gzip


def payload(size):
    return messages_pb2.Payload(body=bytes(size))


def large(**fields):
    return messages_pb2.SimpleRequest(
        response_size=LARGE_RESPONSE, payload=payload(LARGE_REQUEST), **fields
    )


def output(request, *responses, **parameters):
    return messages_pb2.StreamingOutputCallRequest(
        payload=payload(request),
        response_parameters=[messages_pb2.ResponseParameters(size=size, **parameters) for size in responses],
    )


def silence(*requests):
    """These requests, and then nothing until the test is over."""
    yield from requests
    threading.Event().wait(PATIENCE)


class AsClient(unittest.TestCase):
    """grpcio is the client. Each test is a request of its own, with the name of the test as its id."""

    calls = collections.Counter()

    @classmethod
    def setUpClass(cls):
        cls.service = Service("test_service", RUST_LOG="info,common=debug")
        cls.channel = grpc.insecure_channel(cls.service.address("grpc"))
        cls.stub = test_pb2_grpc.TestServiceStub(cls.channel)

    @classmethod
    def tearDownClass(cls):
        cls.channel.close()
        cls.service.stop()
        for name, calls in cls.calls.items():
            lines = [line for line in cls.service.lines if line.get("request_id") == name]
            access = [line for line in lines if line["msg"] == "request"]
            assert len(access) == calls, f"{name}: {calls} calls, {access}"
            for line in lines:
                assert 0 < line.get("remaining", DEADLINE) <= DEADLINE, line

    def options(self, *metadata, calls=1, timeout=DEADLINE):
        """The id and the deadline of a call, which counts as that many calls."""
        self.calls[self._testMethodName] += calls
        return {"metadata": [("request_id", self._testMethodName), *metadata], "timeout": timeout}

    def check_id(self, metadata):
        self.assertEqual(dict(metadata)["request_id"], self._testMethodName)

    def check_failure(self, call, code, message=None):
        with self.assertRaises(grpc.RpcError) as failure:
            call()
        self.assertEqual(failure.exception.code(), code, failure.exception)
        if message is not None:
            self.assertEqual(failure.exception.details(), message)
        return failure.exception

    def test_empty_unary(self):
        response, call = self.stub.EmptyCall.with_call(empty_pb2.Empty(), **self.options())
        self.assertEqual(response, empty_pb2.Empty())
        self.check_id(call.initial_metadata())

    def test_large_unary(self):
        response = self.stub.UnaryCall(large(), **self.options())
        self.assertEqual(len(response.payload.body), LARGE_RESPONSE)

    def test_client_streaming(self):
        requests = [messages_pb2.StreamingInputCallRequest(payload=payload(size)) for size in REQUESTS]
        response = self.stub.StreamingInputCall(iter(requests), **self.options())
        self.assertEqual(response.aggregated_payload_size, sum(REQUESTS))

    def test_server_streaming(self):
        responses = self.stub.StreamingOutputCall(output(0, *RESPONSES), **self.options())
        self.assertEqual([len(response.payload.body) for response in responses], RESPONSES)

    def test_ping_pong(self):
        turn = threading.Semaphore(0)

        def requests():
            for request, response in zip(REQUESTS, RESPONSES):
                turn.acquire(timeout=PATIENCE)
                yield output(request, response)

        responses = self.stub.FullDuplexCall(requests(), **self.options())
        self.check_id(responses.initial_metadata())  # before the first message
        for size in RESPONSES:
            turn.release()
            self.assertEqual(len(next(responses).payload.body), size)
        self.assertEqual(list(responses), [])

    def test_empty_stream(self):
        self.assertEqual(list(self.stub.FullDuplexCall(iter([]), **self.options())), [])

    def test_timeout_on_sleeping_server(self):
        request = output(27_182, 31_415, interval_us=60_000_000)
        responses = self.stub.FullDuplexCall(silence(request), **self.options(timeout=0.1))
        self.check_failure(lambda: next(responses), grpc.StatusCode.DEADLINE_EXCEEDED)

    def test_cancel_after_begin(self):
        call = self.stub.StreamingInputCall.future(silence(), **self.options())
        self.service.line(action="call", request_id=self._testMethodName)
        call.cancel()
        self.assertEqual(call.code(), grpc.StatusCode.CANCELLED)

    def test_cancel_after_first_response(self):
        responses = self.stub.FullDuplexCall(silence(output(27_182, 31_415)), **self.options())
        self.assertEqual(len(next(responses).payload.body), 31_415)
        responses.cancel()
        self.check_failure(lambda: next(responses), grpc.StatusCode.CANCELLED)

    def check_echo(self, call):
        self.assertIn(INITIAL, call.initial_metadata())
        self.assertIn(TRAILING, call.trailing_metadata())

    def test_custom_metadata(self):
        response, call = self.stub.UnaryCall.with_call(large(), **self.options(INITIAL, TRAILING))
        self.assertEqual(len(response.payload.body), LARGE_RESPONSE)
        self.check_echo(call)
        requests = iter([output(27_182, 31_415)])
        responses = self.stub.FullDuplexCall(requests, **self.options(INITIAL, TRAILING))
        self.assertEqual(len(list(responses)), 1)
        self.check_echo(responses)

    def check_status(self, message):
        status = messages_pb2.EchoStatus(code=2, message=message)
        request = messages_pb2.SimpleRequest(response_status=status)
        failure = self.check_failure(
            lambda: self.stub.UnaryCall(request, **self.options()), grpc.StatusCode.UNKNOWN, message
        )
        self.check_id(failure.trailing_metadata())
        return status

    def test_status_code_and_message(self):
        message = "test status message"
        status = self.check_status(message)
        requests = iter([messages_pb2.StreamingOutputCallRequest(response_status=status)])
        responses = self.stub.FullDuplexCall(requests, **self.options())
        self.check_failure(lambda: next(responses), grpc.StatusCode.UNKNOWN, message)

    def test_special_status_message(self):
        self.check_status(SPECIAL)

    def test_unimplemented_method(self):
        call = self.stub.UnimplementedCall
        self.check_failure(
            lambda: call(empty_pb2.Empty(), **self.options()), grpc.StatusCode.UNIMPLEMENTED
        )

    def test_unimplemented_service(self):
        call = test_pb2_grpc.UnimplementedServiceStub(self.channel).UnimplementedCall
        failure = self.check_failure(
            lambda: call(empty_pb2.Empty(), **self.options()), grpc.StatusCode.UNIMPLEMENTED
        )
        self.check_id(failure.trailing_metadata())

    def test_client_compressed_unary(self):
        expecting = large(expect_compressed=messages_pb2.BoolValue(value=True))
        call = self.stub.UnaryCall
        self.check_failure(lambda: call(expecting, **self.options()), grpc.StatusCode.INVALID_ARGUMENT)
        for request, compression in [(expecting, GZIP), (large(), None)]:
            response = call(request, compression=compression, **self.options())
            self.assertEqual(len(response.payload.body), LARGE_RESPONSE)

    def test_server_compressed_unary(self):
        for compressed in [True, False]:
            request = large(response_compressed=messages_pb2.BoolValue(value=compressed))
            response = self.stub.UnaryCall(request, **self.options())
            self.assertEqual(len(response.payload.body), LARGE_RESPONSE)

    def test_client_compressed_streaming(self):
        compressed = messages_pb2.BoolValue(value=True)
        requests = [
            messages_pb2.StreamingInputCallRequest(payload=payload(27_182), expect_compressed=compressed),
            messages_pb2.StreamingInputCallRequest(payload=payload(45_904)),
        ]
        call = self.stub.StreamingInputCall
        self.check_failure(
            lambda: call(iter(requests), **self.options()), grpc.StatusCode.INVALID_ARGUMENT
        )
        response = call(iter(requests), compression=GZIP, **self.options())
        self.assertEqual(response.aggregated_payload_size, 73_086)

    def test_server_compressed_streaming(self):
        request = output(0, 31_415, 92_653, compressed=messages_pb2.BoolValue(value=True))
        responses = self.stub.StreamingOutputCall(request, **self.options())
        self.assertEqual([len(response.payload.body) for response in responses], [31_415, 92_653])

    def test_many_calls_on_one_channel(self):
        calls = [self.stub.EmptyCall.future(empty_pb2.Empty(), **self.options()) for _ in range(MANY)]
        for call in calls:
            self.assertEqual(call.result(), empty_pb2.Empty())

    def test_many_channels(self):
        options = [("grpc.use_local_subchannel_pool", 1)]  # or they share a connection

        def call(number):
            with grpc.insecure_channel(self.service.address("grpc"), options) as channel:
                stub = test_pb2_grpc.TestServiceStub(channel)
                return stub.EmptyCall(empty_pb2.Empty(), **self.options(calls=0))

        with futures.ThreadPoolExecutor(20) as callers:
            for response in callers.map(call, range(MANY)):
                self.assertEqual(response, empty_pb2.Empty())
        self.calls[self._testMethodName] = MANY

    def test_messages_up_to_their_limit_pass(self):
        chunk = calls_pb2.Chunk(bytes=bytes(4 * 1024 * 1024 - 9))
        self.assertEqual(chunk.ByteSize(), 4 * 1024 * 1024 - 4)
        upload = calls_pb2_grpc.CallsStub(self.channel).Upload
        total = upload(iter([chunk, chunk]), **self.options())
        self.assertEqual(total.bytes, 2 * len(chunk.bytes))
        over = calls_pb2.Chunk(bytes=bytes(4 * 1024 * 1024))
        self.check_failure(
            lambda: upload(iter([over]), **self.options()), grpc.StatusCode.RESOURCE_EXHAUSTED
        )

    def test_metadata_over_the_limit_is_exhausted(self):
        large = ("x-large", "a" * 17_000)
        call = self.stub.EmptyCall
        failure = self.check_failure(
            lambda: call(empty_pb2.Empty(), **self.options(large)), grpc.StatusCode.RESOURCE_EXHAUSTED
        )
        self.assertIn("16384", failure.details())


class Retrying(unittest.TestCase):
    """grpcio retries by its own policy (gRFC A6), and only where the response has no head."""

    POLICY = {
        "name": [{"service": "testing.Calls", "method": "Fail"}],
        "retryPolicy": {
            "maxAttempts": 4,
            "initialBackoff": "0.01s",
            "maxBackoff": "0.05s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        },
    }

    @classmethod
    def setUpClass(cls):
        cls.service = Service("test_service", RUST_LOG="info,common=debug")
        options = [("grpc.service_config", json.dumps({"methodConfig": [cls.POLICY]}))]
        cls.channel = grpc.insecure_channel(cls.service.address("grpc"), options)
        cls.stub = calls_pb2_grpc.CallsStub(cls.channel)

    @classmethod
    def tearDownClass(cls):
        cls.channel.close()
        cls.service.stop()

    def fail(self, key, **request):
        request = calls_pb2.FailRequest(key=key, **request)
        return self.stub.Fail(request, metadata=[("request_id", key)], timeout=DEADLINE).attempts

    def test_a_call_that_fails_is_retried(self):
        self.assertEqual(self.fail("twice", times=2), 3)
        with self.assertRaises(grpc.RpcError) as failure:
            self.fail("always", times=100)
        self.assertEqual(failure.exception.details(), "this was attempt 4")

    def test_a_retry_waits_as_long_as_the_server_says(self):
        begin = time.monotonic()
        self.assertEqual(self.fail("later", times=1, pushback="500"), 2)
        self.assertGreaterEqual(time.monotonic() - begin, 0.5)

    def test_a_call_is_not_retried_where_the_server_says_so(self):
        with self.assertRaises(grpc.RpcError) as failure:
            self.fail("never", times=1, pushback="-1")
        self.assertEqual(failure.exception.code(), grpc.StatusCode.UNAVAILABLE)
        self.assertEqual(failure.exception.details(), "this was attempt 1")


class LongLived(unittest.TestCase):
    """Streams that outlive the deadline of all other calls."""

    def test_a_watch_and_reflection_go_on_until_the_service_stops(self):
        service = Service("test_service", DEADLINE="300ms")
        ask = threading.Semaphore(0)

        def questions():
            while ask.acquire(timeout=PATIENCE):
                yield reflection_pb2.ServerReflectionRequest(list_services="")

        with grpc.insecure_channel(service.address("grpc")) as channel:
            health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            self.assertEqual(next(health).status, health_pb2.HealthCheckResponse.SERVING)
            reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
            responses = reflection.ServerReflectionInfo(questions())
            for _ in range(2):
                ask.release()
                services = next(responses).list_services_response.service
                self.assertIn("testing.Calls", [service.name for service in services])
                time.sleep(0.5)
            service.process.terminate()
            self.assertEqual(next(health).status, health_pb2.HealthCheckResponse.NOT_SERVING)
            for stream in [health, responses]:
                with self.assertRaises(grpc.RpcError) as end:
                    next(stream)
                self.assertEqual(end.exception.code(), grpc.StatusCode.UNAVAILABLE)
        service.wait_until_ended()


class TestService(test_pb2_grpc.TestServiceServicer):
    """grpcio is the server. `seen` has the metadata of each call by its id, and the time it was given."""

    def __init__(self):
        self.seen = collections.defaultdict(list)
        self.stopping = threading.Event()

    def begin(self, context):
        metadata = dict(context.invocation_metadata())
        self.seen[metadata["request_id"]].append((metadata, context.time_remaining()))
        # Even without anything to echo: a client may wait for the head before its first message.
        context.send_initial_metadata([(key, value) for key, value in metadata.items() if key == INITIAL[0]])
        if TRAILING[0] in metadata:
            context.set_trailing_metadata([(TRAILING[0], metadata[TRAILING[0]])])

    def check_status(self, request, context):
        if request.response_status.code:
            codes = {code.value[0]: code for code in grpc.StatusCode}
            context.abort(codes[request.response_status.code], request.response_status.message)

    def outputs(self, request):
        for parameters in request.response_parameters:
            self.stopping.wait(parameters.interval_us / 1e6)
            yield messages_pb2.StreamingOutputCallResponse(payload=payload(parameters.size))

    def EmptyCall(self, request, context):
        self.begin(context)
        return empty_pb2.Empty()

    def UnaryCall(self, request, context):
        if request.response_compressed.value:
            context.set_compression(GZIP)
        self.begin(context)
        self.check_status(request, context)
        return messages_pb2.SimpleResponse(payload=payload(request.response_size))

    def StreamingOutputCall(self, request, context):
        if any(parameters.compressed.value for parameters in request.response_parameters):
            context.set_compression(GZIP)
        self.begin(context)
        yield from self.outputs(request)

    def StreamingInputCall(self, requests, context):
        self.begin(context)
        size = sum(len(request.payload.body) for request in requests)
        return messages_pb2.StreamingInputCallResponse(aggregated_payload_size=size)

    def FullDuplexCall(self, requests, context):
        self.begin(context)
        for request in requests:
            self.check_status(request, context)
            yield from self.outputs(request)


class AsServer(unittest.TestCase):
    def test_all_cases(self):
        service = TestService()
        server = grpc.server(futures.ThreadPoolExecutor(16))
        test_pb2_grpc.add_TestServiceServicer_to_server(service, server)
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            arguments = ["target/debug/test_client", address, "--without", "compression_probe"]
            client = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
        finally:
            service.stopping.set()
            server.stop(None).wait()
        self.assertEqual(client.returncode, 0, client.stdout + client.stderr)
        cases = dict(line.split() for line in client.stdout.splitlines())
        self.assertEqual(len(cases), 20)
        for name, calls in cases.items():
            if name.startswith("unimplemented"):
                continue
            seen = service.seen[name]
            self.assertEqual(len(seen), int(calls), name)
            for metadata, left in seen:
                self.assertEqual(metadata["x-request-id"], name)
                self.assertTrue(metadata["user-agent"].startswith("mesh/"), metadata)
                self.assertTrue(0 < left <= DEADLINE, left)
