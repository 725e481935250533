"""A proxyless gRPC client. For each line N of its standard input: N calls to the target, and a line that says how often who
answered: `{"127.0.0.11:4711": 80, "error: UNAVAILABLE ...": 3}`. GRPC_XDS_BOOTSTRAP names its bootstrap."""

import collections
import json
import sys

import grpc

channel = grpc.insecure_channel(sys.argv[1])
call = channel.unary_unary("/test.Who/Who")
for line in sys.stdin:
    seen = collections.Counter()
    for _ in range(int(line)):
        try:
            seen[call(b"", timeout=10, wait_for_ready=True).decode()] += 1
        except grpc.RpcError as error:
            seen[f"error: {error.code().name} {error.details()}"] += 1
    print(json.dumps(seen), flush=True)
