"""Streams items from a grpcio server to a grpcio client, each in its own process as in the
original, and prints the items/s that the client received: stream.py ITEMS"""

import multiprocessing
import sys
import time
from concurrent import futures

import api_pb2_grpc
import grpc
from api_pb2 import ApiRequest, Item


class Api(api_pb2_grpc.ApiServicer):
    def getStream(self, request, context):
        for i in range(1, request.length + 1):
            yield Item(id=i, name=f"name {i}")


def serve(port):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=10))
    api_pb2_grpc.add_ApiServicer_to_server(Api(), server)
    port.send(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    server.wait_for_termination()


def main():
    length = int(sys.argv[1])
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{ours.recv()}") as channel:
        stream = api_pb2_grpc.ApiStub(channel).getStream
        assert sum(1 for _ in stream(ApiRequest(length=1000))) == 1000  # warm-up
        begin = time.monotonic()
        assert sum(1 for _ in stream(ApiRequest(length=length))) == length
        print(f"{length / (time.monotonic() - begin):.0f}")
    server.terminate()


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main()
