"""Asks the address given for the status of clients (CSDS). Each line of input is an encoded ClientStatusRequest in hexadecimal digits,
each of output the encoded ClientStatusResponse, once from the unary method and once from the stream."""

import sys

import grpc

PATIENCE = 20
SERVICE = "/envoy.service.status.v3.ClientStatusDiscoveryService/"

channel = grpc.insecure_channel(sys.argv[1], options=[("grpc.max_receive_message_length", 16 << 20)])
fetch = channel.unary_unary(SERVICE + "FetchClientStatus")
stream = channel.stream_stream(SERVICE + "StreamClientStatus")

for line in sys.stdin:
    request = bytes.fromhex(line)
    print(fetch(request, timeout=PATIENCE).hex(), flush=True)
    print(next(stream(iter([request]), timeout=PATIENCE)).hex(), flush=True)
