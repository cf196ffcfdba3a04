"""Replicas of service1 over python-h2, which can break a response in the middle of it.

A response is a function of the HTTP/2 connection and the number of the stream. Its docstring says what
the replica does."""

import asyncio

import h2.config
import h2.connection
import h2.errors
import h2.events
from service1_pb2 import ProcessNameResponse

NAME = "A"
HEAD = [(":status", "200"), ("content-type", "application/grpc")]
INTERNAL, UNAVAILABLE = 13, 14


def framed(message):
    """A message as gRPC sends it: not compressed, and after its length."""
    return b"\0" + len(message).to_bytes(4, "big") + message


MESSAGE = framed(ProcessNameResponse(name=NAME).SerializeToString())
SERVING = framed(b"\x08\x01")


def reply(connection, stream, message=MESSAGE):
    connection.send_headers(stream, HEAD)
    connection.send_data(stream, message)
    connection.send_headers(stream, [("grpc-status", "0")], end_stream=True)


def refuse(connection, stream, code):
    connection.send_headers(stream, [*HEAD, ("grpc-status", str(code))], end_stream=True)


def send_page(connection, stream, status, content_type):
    connection.send_headers(stream, [(":status", status), ("content-type", content_type)])
    connection.send_data(stream, b"no replica here", end_stream=True)


def nothing(connection, stream):
    """does its work, too"""
    reply(connection, stream)


def internal(connection, stream):
    """returns `INTERNAL`"""
    refuse(connection, stream, INTERNAL)


def unavailable(connection, stream):
    """returns `UNAVAILABLE`"""
    refuse(connection, stream, UNAVAILABLE)


def http_503(connection, stream):
    """returns HTTP 503, not gRPC"""
    send_page(connection, stream, "503", "text/plain")


def html(connection, stream):
    """returns HTTP 200 with `text/html`, not gRPC"""
    send_page(connection, stream, "200", "text/html")


def half_message(connection, stream):
    """ends the response in the middle of the message"""
    connection.send_headers(stream, HEAD)
    connection.send_data(stream, MESSAGE[:-1], end_stream=True)


def no_trailers(connection, stream):
    """sends the whole message and no trailers"""
    connection.send_headers(stream, HEAD)
    connection.send_data(stream, MESSAGE, end_stream=True)


def undecodable(connection, stream):
    """sends a message that can't be decoded, and OK"""
    reply(connection, stream, framed(b"\xff" * 11))


def reset(connection, stream):
    """resets the stream in the middle of the message"""
    connection.send_headers(stream, HEAD)
    connection.send_data(stream, MESSAGE[:-1])
    connection.reset_stream(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)


def hangs(connection, stream):
    """never responds, and the deadline is 2 s"""


BREAKS = [
    nothing,
    internal,
    unavailable,
    http_503,
    html,
    half_message,
    no_trailers,
    undecodable,
    reset,
    hangs,
]


class Replica:
    """Responds to each call after `latency` seconds. It says that it is healthy all the while: what is
    broken is not what a health check sees."""

    def __init__(self, respond, latency=0):
        self.respond, self.latency = respond, latency
        self.calls = 0
        self.transports = set()

    async def __aenter__(self):
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(lambda: Connection(self), "127.0.0.1", 0)
        host, port = self.server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(self, *error):
        self.server.close()
        for transport in self.transports:
            transport.abort()


class Connection(asyncio.Protocol):
    def __init__(self, replica):
        self.replica = replica
        self.http2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.paths = {}  # of the streams that wait for a response

    def connection_made(self, transport):
        self.transport = transport
        self.replica.transports.add(transport)
        self.http2.initiate_connection()
        self.flush()

    def connection_lost(self, error):
        self.replica.transports.discard(self.transport)
        self.paths.clear()

    def data_received(self, data):
        for event in self.http2.receive_data(data):
            match event:
                case h2.events.RequestReceived():
                    self.paths[event.stream_id] = dict(event.headers)[b":path"]
                case h2.events.DataReceived():
                    self.http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case h2.events.StreamReset():
                    self.paths.pop(event.stream_id, None)
                case h2.events.StreamEnded():
                    self.take(event.stream_id)
        self.flush()

    def take(self, stream):
        if self.paths[stream].startswith(b"/grpc.health.v1."):
            self.finish(stream, lambda *to: reply(*to, SERVING))
            return
        self.replica.calls += 1
        loop = asyncio.get_running_loop()
        loop.call_later(self.replica.latency, self.finish, stream, self.replica.respond)

    def finish(self, stream, respond):
        if self.paths.pop(stream, None):
            respond(self.http2, stream)
            self.flush()

    def flush(self):
        self.transport.write(self.http2.data_to_send())
