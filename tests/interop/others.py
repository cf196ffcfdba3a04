"""Compares how three clients cope with a good replica beside a broken one: service2, Envoy, and the
channel of grpcio. Prints a table of Markdown. Arguments are the breaks to show, by default all."""

import argparse
import asyncio
import contextlib
import json

import grpc
from broken import BREAKS, NAME, Replica, reply
from fronts import envoy_front
from google.protobuf.message import DecodeError
from service import PATIENCE, Service
from service1_pb2 import ProcessNameRequest, ProcessNameResponse

METHOD = "/app.grpc.Service1/ProcessName"
RATE, SECONDS = 100, 8  # calls a second, and for how long
LATENCY = 0.02  # seconds that the good replica takes
DEADLINE = 2  # seconds, of each call

# As many attempts as the others make, after each code that a broken replica may lead to. Without
# `retryThrottling` there is no budget: each call has all of its attempts.
GRPCIO = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": "app.grpc.Service1"}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "INTERNAL", "UNKNOWN"],
            },
        }
    ],
}


@contextlib.asynccontextmanager
async def ours(addresses):
    """An HTTP client of service2, whose settings are the defaults but for the deadline."""
    service2 = Service("service2", "release", SERVICE1_CHANNEL=",".join(addresses), DEADLINE=f"{DEADLINE}s")

    async def call():
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET /api/v1/say-hello?name=a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        response = await reader.read()
        writer.close()
        return response.startswith(b"HTTP/1.1 200 ") and f"Hello, {NAME}!".encode() in response

    try:
        await asyncio.to_thread(service2.wait_until_ready)
        host, port = service2.address("http").split(":")
        yield call
    finally:
        try:
            await asyncio.to_thread(service2.stop)
        finally:
            service2.kill()


@contextlib.asynccontextmanager
async def through_envoy(addresses):
    """A client of Envoy that leaves all to Envoy, which has envoy.yaml."""
    first, second = (address.split(":")[1] for address in addresses)
    with envoy_front("envoy.yaml", 2, first=first, second=second, deadline=DEADLINE) as port:
        async with channel(f"ipv4:127.0.0.1:{port}", {}) as call:
            yield call


@contextlib.asynccontextmanager
async def grpcio(addresses):
    async with channel(f"ipv4:{','.join(addresses)}", GRPCIO) as call:
        yield call


@contextlib.asynccontextmanager
async def channel(target, config):
    options = [("grpc.service_config", json.dumps(config)), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        # With a `response_deserializer`, grpcio would return None for what that can't decode.
        process_name = channel.unary_unary(METHOD, ProcessNameRequest.SerializeToString)

        async def call():
            try:
                response = await process_name(ProcessNameRequest(name="a"), timeout=DEADLINE)
                return ProcessNameResponse.FromString(response).name == NAME
            except (grpc.aio.AioRpcError, DecodeError):
                return False

        async with asyncio.timeout(PATIENCE):
            await channel.channel_ready()
        yield call


CLIENTS = {"ours": ours, "Envoy": through_envoy, "grpcio": grpcio}


async def load(call):
    """Makes each call at its time, whatever became of the ones before. Returns which were successful."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    calls = []
    for number in range(RATE * SECONDS):
        await asyncio.sleep(begin + number / RATE - loop.time())
        calls.append(asyncio.create_task(call()))
    return await asyncio.gather(*calls)


async def measure(client, respond):
    """The shares of failed calls, in all and in the second half."""
    async with Replica(reply, LATENCY) as good, Replica(respond) as broken:
        async with client([good.address, broken.address]) as call, asyncio.timeout(SECONDS + PATIENCE):
            successful = await load(call)
        assert broken.calls > 0, "the broken replica was never called"
    return share_of_failed(successful), share_of_failed(successful[len(successful) // 2 :])


def share_of_failed(successful):
    return f"{100 * successful.count(False) / len(successful):.1f} %"


async def compare(breaks):
    print_row("the other replica", *CLIENTS)
    print_row(*["---"] * (1 + len(CLIENTS)))
    for respond in breaks:
        cells = [await measure(client, respond) for client in CLIENTS.values()]
        print_row(respond.__doc__, *(f"{whole}, {later}" for whole, later in cells))


def print_row(*cells):
    print("|", " | ".join(cells), "|", flush=True)


def main():
    breaks = {respond.__name__: respond for respond in BREAKS}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(breaks))
    names = parser.parse_args().names or breaks
    if unknown := set(names) - set(breaks):
        parser.error(f"no such break: {', '.join(unknown)}; there are {', '.join(breaks)}")
    asyncio.run(compare([breaks[name] for name in names]))


if __name__ == "__main__":
    main()
