"""A gRPC server of bytes: no schema, so that no code has to be generated. Prints its port, serves until its standard input ends."""

import sys
import threading
import time
from concurrent import futures

import grpc

SIZE = [("grpc.max_receive_message_length", 16 << 20), ("grpc.max_send_message_length", 16 << 20)]
cancelled = threading.Semaphore(0)


def unary(request, context):
    metadata = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-initial", metadata.get("x-sent", "none")),))
    context.set_trailing_metadata((("x-trailing", "last"), ("x-trailing-bin", metadata.get("x-sent-bin", b""))))
    return request[::-1]


def client_stream(requests, context):
    return b",".join(requests)


def server_stream(request, context):
    for i in range(int(request)):
        yield str(i).encode()


def bidi(requests, context):
    for request in requests:
        yield b"re:" + request


def refuse(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "nicht möglich: 100% \n no")


def fail_late(request, context):
    yield b"one"
    context.abort(grpc.StatusCode.DATA_LOSS, "after a message")


def slow(request, context):
    # Ends when its client gives up; the bound is for a proxy that does not pass that on.
    context.add_callback(cancelled.release)
    for _ in range(600):
        if not context.is_active():
            return b""
        time.sleep(0.05)
    return b"too late"


def slow_stream(request, context):
    context.add_callback(cancelled.release)
    yield b"first"
    for _ in range(600):
        if not context.is_active():
            return
        time.sleep(0.05)


def was_cancelled(request, context):
    return b"yes" if cancelled.acquire(timeout=10) else b"no"


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=64), options=SIZE, compression=grpc.Compression.Gzip)
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
        "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
        "FailLate": grpc.unary_stream_rpc_method_handler(fail_late),
        "Slow": grpc.unary_unary_rpc_method_handler(slow),
        "SlowStream": grpc.unary_stream_rpc_method_handler(slow_stream),
        "WasCancelled": grpc.unary_unary_rpc_method_handler(was_cancelled),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("weft.Test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(0).wait()


main()
