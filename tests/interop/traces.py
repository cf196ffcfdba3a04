"""The pair and a collector not written here: rotel takes the spans over OTLP, and prints them."""

import pathlib
import re
import resource
import signal
import socket
import subprocess
import threading
import time
import unittest
from concurrent import futures

import grpc
import rotel
from service import PATIENCE, Service

AGENT = pathlib.Path(rotel.__file__).parent / "rotel-agent"
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Collector:
    """rotel, on free ports."""

    def __init__(self):
        self.grpc, self.http = free_port(), free_port()
        ports = ["--otlp-grpc-endpoint", f"127.0.0.1:{self.grpc}", "--otlp-http-endpoint", f"127.0.0.1:{self.http}"]
        prints = ["--exporter", "blackhole", "--debug-log", "traces", "--debug-log-verbosity", "detailed"]
        AGENT.chmod(0o755)
        self.process = subprocess.Popen([AGENT, "start", *ports, *prints], stdout=subprocess.PIPE, text=True)
        self.text = ""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        end = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.http)).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < end, "the collector does not start"
                time.sleep(0.01)

    def _read(self):
        for line in self.process.stdout:
            self.text += line

    def spans(self):
        found = []
        for part in self.text.split("ResourceSpans #")[1:]:
            for span in re.split(r"\nSpan #\d+\n", part)[1:]:
                if "Attributes:" not in span:
                    continue  # the rest is yet to come
                field = lambda name: re.search(rf"^ *{name} *: ?(.*)", span, re.MULTILINE).group(1)
                found.append(
                    {
                        "service": re.search(r"-> service.name: Str\((.*)\)", part).group(1),
                        "trace": field("Trace ID"),
                        "parent": field("Parent ID"),
                        "id": field("ID"),
                        "name": field("Name"),
                        "kind": field("Kind").removeprefix("SPAN_KIND_"),
                        "status": field("Status code").removeprefix("STATUS_CODE_"),
                        "attributes": dict(re.findall(r"-> ([\w.]+): \w+\((.*)\)", span)),
                    }
                )
        return found

    def trace(self, trace_id, count):
        """Waits for that many spans of a trace."""
        end = time.monotonic() + PATIENCE
        while True:
            spans = [span for span in self.spans() if span["trace"] == trace_id]
            if len(spans) >= count:
                return spans
            assert time.monotonic() < end, f"{trace_id} has only {spans}"
            time.sleep(0.05)

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.reader.join(PATIENCE)
        self.process.stdout.close()


def trace_of(service, request_id):
    return service.line(request_id=request_id, msg="request")["trace_id"]


class Traces(unittest.TestCase):
    def setUp(self):
        self.collector = Collector()
        self.addCleanup(self.collector.stop)

    def start(self, program, **variables):
        port, protocol = self.collector.http, "http/protobuf"
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        service = Service(program, **endpoint | variables)
        self.addCleanup(service.kill)
        return service

    def pair(self, **variables):
        service1 = self.start("service1", **variables)
        service2 = self.start("service2", SERVICE1_CHANNEL=service1.address("grpc"), **variables)
        service2.wait_until_ready()
        return service1, service2

    def check_three_spans(self, service1, service2, request_id):
        trace = trace_of(service2, request_id)
        spans = {(span["service"], span["kind"]): span for span in self.collector.trace(trace, 3)}
        self.assertEqual(len(spans), 3)
        edge, call, backend = spans["service2", "SERVER"], spans["service2", "CLIENT"], spans["service1", "SERVER"]
        self.assertEqual((call["parent"], backend["parent"]), (edge["id"], call["id"]))
        self.assertEqual(edge["name"], "GET /api/v1/say-hello")
        self.assertEqual((call["name"], backend["name"]), ("app.grpc.Service1/ProcessName",) * 2)
        for span in [edge, backend]:
            self.assertEqual(span["attributes"]["request_id"], request_id)
        line = service1.line(request_id=request_id, action="process_name")
        self.assertEqual((line["trace_id"], line["span_id"], line["trace_flags"]), (trace, backend["id"], "01"))
        line = service2.line(request_id=request_id, action="say_hello")
        self.assertEqual((line["trace_id"], line["span_id"]), (trace, edge["id"]))
        return edge

    def test_a_request_is_three_spans_with_the_ids_of_its_log_lines(self):
        service1, service2 = self.pair()
        self.assertEqual(service2.say_hello("a", "a-request")[0], 200)
        edge = self.check_three_spans(service1, service2, "a-request")
        self.assertEqual(edge["parent"], "")

    def test_over_grpc_and_with_a_caller(self):
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.collector.grpc}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        }
        service1, service2 = self.pair(**settings)
        self.assertEqual(service2.say_hello("a", "called", traceparent=PARENT)[0], 200)
        edge = self.check_three_spans(service1, service2, "called")
        self.assertEqual((edge["trace"], edge["parent"]), (PARENT[3:35], PARENT[36:52]))
        # One that does not record has no spans here, and its trace goes on.
        unsampled = PARENT.replace("4b", "5b")[:-2] + "00"
        self.assertEqual(service2.say_hello("a", "quiet", traceparent=unsampled)[0], 200)
        self.assertEqual(service1.line(request_id="quiet", action="process_name")["trace_id"], unsampled[3:35])
        self.assertEqual(service2.say_hello("a", "later", traceparent=PARENT.replace("4b", "6b"))[0], 200)
        self.collector.trace(PARENT.replace("4b", "6b")[3:35], 3)
        self.assertFalse([span for span in self.collector.spans() if span["trace"] == unsampled[3:35]])

    def test_a_retry_is_a_span_more(self):
        failing = grpc.server(futures.ThreadPoolExecutor(4))

        def fail(_, context):
            context.abort(grpc.StatusCode.UNAVAILABLE, "it fails")

        handler = {"ProcessName": grpc.unary_unary_rpc_method_handler(fail)}
        failing.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("app.grpc.Service1", handler)])
        port = failing.add_insecure_port("127.0.0.1:0")
        failing.start()
        self.addCleanup(lambda: failing.stop(None).wait())
        service1 = self.start("service1")
        channel = f"127.0.0.1:{port},{service1.address('grpc')}"
        service2 = self.start("service2", SERVICE1_CHANNEL=channel, WORKERS="1")
        service2.wait_until_ready()
        for number in range(50):
            self.assertEqual(service2.say_hello("a", f"retried-{number}")[0], 200)
        retried = None
        for number in range(50):
            spans = self.collector.trace(trace_of(service2, f"retried-{number}"), 3)
            if len(spans) == 4:
                retried = spans
        self.assertTrue(retried, "no call went to the failing replica first")
        [edge] = [span for span in retried if span["service"] == "service2" and span["kind"] == "SERVER"]
        calls = [span for span in retried if span["kind"] == "CLIENT"]
        self.assertEqual({span["parent"] for span in calls}, {edge["id"]})
        self.assertEqual({span["status"] for span in calls}, {"UNSET", "ERROR"})
        [failed] = [span for span in calls if span["status"] == "ERROR"]
        self.assertEqual(failed["attributes"]["rpc.grpc.status_code"], "14")
        self.assertEqual(failed["attributes"]["server.port"], str(port))

    def test_a_collector_that_is_frozen_costs_no_request_and_little_memory(self):
        service1, service2 = self.pair()
        self.assertEqual(service2.failures(50, 1), {})
        before = memory(service2)
        self.collector.process.send_signal(signal.SIGSTOP)
        try:
            self.assertEqual(service2.failures(100, 10), {})
            self.assertLess(memory(service2) - before, 64 << 20)
        finally:
            self.collector.process.send_signal(signal.SIGCONT)
        end = time.monotonic() + 2 * PATIENCE
        number = 0
        while True:
            number += 1
            self.assertEqual(service2.say_hello("a", f"again-{number}")[0], 200)
            trace = trace_of(service2, f"again-{number}")
            time.sleep(0.5)
            if any(span["trace"] == trace for span in self.collector.spans()):
                break
            self.assertLess(time.monotonic(), end, "no span arrives again")

    def test_the_drain_exports_the_last_spans_and_no_collector_delays_it_for_long(self):
        service1, service2 = self.pair()
        self.assertEqual(service2.say_hello("a", "last")[0], 200)
        trace = trace_of(service2, "last")
        service2.stop()
        service1.stop()
        self.collector.trace(trace, 3)
        self.collector.stop()
        service1 = self.start("service1")
        service1.wait_until_ready()
        begin = time.monotonic()
        service1.stop()
        self.assertLess(time.monotonic() - begin, 10)


def memory(service):
    """Resident memory, in bytes."""
    pages = pathlib.Path(f"/proc/{service.process.pid}/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()
