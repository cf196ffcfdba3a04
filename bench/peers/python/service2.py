"""The edge, as in the original: an aiohttp application with a single grpc.aio channel, which passes
the request id on with each call.

Needs PORT and SERVICE1_CHANNEL, and the modules from grpc_tools.protoc in PYTHONPATH."""

import logging
import os
import uuid

import grpc
import json_log
from aiohttp import web
from app.grpc.service1_pb2 import ProcessNameRequest
from app.grpc.service1_pb2_grpc import Service1Stub

TIMEOUT_SECONDS = 10
ACCESS_LOG_FORMAT = "request: %a %r %s %b %Tf"
SERVICE1 = web.AppKey("service1", Service1Stub)

logger = logging.getLogger("service2")


class RequestIdInterceptor(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation, client_call_details, request):
        metadata = client_call_details.metadata or grpc.aio.Metadata()
        metadata.add("request_id", json_log.request_id.get())
        return await continuation(client_call_details._replace(metadata=metadata), request)


async def channel_context(app):
    channel = grpc.aio.insecure_channel(
        os.environ["SERVICE1_CHANNEL"], interceptors=[RequestIdInterceptor()]
    )
    app[SERVICE1] = Service1Stub(channel)
    yield
    await channel.close()


@web.middleware
async def request_id_middleware(request, handler):
    request_id = request.headers.get("X-Request-ID") or str(uuid.uuid4())
    json_log.request_id.set(request_id)
    response = await handler(request)
    response.headers["X-Request-ID"] = request_id
    return response


async def say_hello(request):
    name = request.query.get("name", "")
    answer = await request.app[SERVICE1].ProcessName(
        ProcessNameRequest(name=name), timeout=TIMEOUT_SECONDS
    )
    hello = f"Hello, {answer.name}!"
    logger.info("action=say_hello, status=success, hello=%s", hello)
    return web.json_response(hello)


def main():
    app = web.Application(middlewares=[request_id_middleware])
    app.cleanup_ctx.append(channel_context)
    app.router.add_get("/api/v1/say-hello", say_hello)
    web.run_app(
        app,
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        access_log_format=ACCESS_LOG_FORMAT,
        print=None,
    )


if __name__ == "__main__":
    json_log.init()
    main()
