"""Lets each packet of a netfilter queue pass after a delay in milliseconds, as netem does, over the
kernel's own messages (linux/netfilter/nfnetlink_queue.h)."""

import collections
import socket
import struct
import sys
import time

NETFILTER, QUEUE = 12, 3 << 8
PACKET, CONFIG, VERDICT_BATCH = QUEUE, QUEUE | 2, QUEUE | 3
REQUEST = 1
BIND, COPY_NOTHING, WHOLE_SEGMENTS, ACCEPT = 1, 1, 4, 1
MANY = 1 << 20
SO_RCVBUFFORCE = 33
SOL_NETLINK, NO_ENOBUFS = 270, 5

delay = float(sys.argv[1]) / 1000
link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER)
link.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
link.setsockopt(SOL_NETLINK, NO_ENOBUFS, 1)  # what does not fit is lost, as on a wire


def tell(kind, *attributes):
    """Sends a message with these attributes, each a number and its value."""
    body = b""
    for number, value in attributes:
        body += struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)
    link.send(struct.pack("=IHHIIBBH", 20 + len(body), kind, REQUEST, 0, 0, 0, 0, 0) + body)


whole_segments = struct.pack(">I", WHOLE_SEGMENTS)
tell(CONFIG, (1, struct.pack(">BxH", BIND, 0)))
tell(CONFIG, (2, struct.pack(">IB", 0, COPY_NOTHING)), (3, struct.pack(">I", MANY)))
tell(CONFIG, (4, whole_segments), (5, whole_segments))
print("ready", flush=True)

waiting = collections.deque()
while True:
    last = None
    while waiting and waiting[0][0] <= time.monotonic():
        last = waiting.popleft()[1]
    if last is not None:
        tell(VERDICT_BATCH, (2, struct.pack(">II", ACCEPT, last)))  # of all up to this one
    # A time-out of zero would mean "do not wait".
    link.settimeout(max(waiting[0][0] - time.monotonic(), 1e-5) if waiting else None)
    try:
        message = link.recv(4096)
    except TimeoutError:
        continue
    if struct.unpack_from("=H", message, 4)[0] == PACKET:
        # The first attribute is the packet's head, which begins with its number.
        waiting.append((time.monotonic() + delay, struct.unpack_from(">I", message, 24)[0]))
