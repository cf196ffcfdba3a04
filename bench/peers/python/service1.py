"""The backend, as in the original: a grpc.aio server whose interceptor keeps the request id.

Needs GRPC_PORT, and the modules from grpc_tools.protoc in PYTHONPATH."""

import asyncio
import logging
import os

import grpc
import json_log
from app.grpc import service1_pb2_grpc
from app.grpc.service1_pb2 import ProcessNameResponse

logger = logging.getLogger("service1")


class RequestIdInterceptor(grpc.aio.ServerInterceptor):
    """Each call is a task of its own, so only its handler sees the id that is set here."""

    async def intercept_service(self, continuation, handler_call_details):
        metadata = dict(handler_call_details.invocation_metadata)
        json_log.request_id.set(metadata.get("request_id", ""))
        return await continuation(handler_call_details)


class Service1(service1_pb2_grpc.Service1Servicer):
    async def ProcessName(self, request, context):
        name = request.name.upper()
        logger.info("action=process_name, status=success, name=%s", name)
        return ProcessNameResponse(name=name)


async def main():
    address = f"127.0.0.1:{os.environ['GRPC_PORT']}"
    server = grpc.aio.server(interceptors=[RequestIdInterceptor()])
    service1_pb2_grpc.add_Service1Servicer_to_server(Service1(), server)
    server.add_insecure_port(address)
    await server.start()
    logger.info("action=listen, status=success, address=%s", address)
    await server.wait_for_termination()


if __name__ == "__main__":
    json_log.init()
    asyncio.run(main())
