"""Calls what grpc_server.py serves, at the address given. Prints `ok NAME` for each check; ends with 1 if one failed."""

import queue
import sys
import traceback

import grpc

SIZE = [("grpc.max_receive_message_length", 16 << 20), ("grpc.max_send_message_length", 16 << 20)]
PATIENCE = 20

channel = grpc.insecure_channel(sys.argv[1], options=SIZE)
path = "/weft.Test/".__add__
unary = channel.unary_unary(path("Unary"))


def check_unary():
    assert unary(b"abc", timeout=PATIENCE) == b"cba"
    assert unary(b"", timeout=PATIENCE) == b""


def check_metadata():
    sent = (("x-sent", "hello"), ("x-sent-bin", bytes(range(256))))
    reply, call = unary.with_call(b"x", timeout=PATIENCE, metadata=sent)
    assert dict(call.initial_metadata())["x-initial"] == "hello"
    trailing = dict(call.trailing_metadata())
    assert trailing["x-trailing"] == "last" and trailing["x-trailing-bin"] == bytes(range(256)), trailing


def check_client_stream():
    messages = [str(i).encode() for i in range(500)]
    assert channel.stream_unary(path("ClientStream"))(iter(messages), timeout=PATIENCE) == b",".join(messages)


def check_server_stream():
    got = list(channel.unary_stream(path("ServerStream"))(b"500", timeout=PATIENCE))
    assert got == [str(i).encode() for i in range(500)]


def check_bidi():
    # Each message goes out after the answer to the one before: nothing may be held back.
    pending = queue.Queue()
    replies = channel.stream_stream(path("Bidi"))(iter(pending.get, None), timeout=PATIENCE)
    for i in range(50):
        pending.put(str(i).encode())
        assert next(replies) == b"re:" + str(i).encode()
    pending.put(None)
    assert list(replies) == []


def failure(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("it did not fail")


def check_trailers_only():
    error = failure(lambda: channel.unary_unary(path("Refuse"))(b"", timeout=PATIENCE))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
    assert error.details() == "nicht möglich: 100% \n no", error.details()


def check_error_after_message():
    replies = channel.unary_stream(path("FailLate"))(b"", timeout=PATIENCE)
    assert next(replies) == b"one"
    error = failure(lambda: next(replies))
    assert error.code() == grpc.StatusCode.DATA_LOSS, error


def check_unimplemented():
    error = failure(lambda: channel.unary_unary(path("Nothing"))(b"", timeout=PATIENCE))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error


def server_saw_the_end():
    assert channel.unary_unary(path("WasCancelled"))(b"", timeout=PATIENCE) == b"yes"


def check_deadline():
    error = failure(lambda: channel.unary_unary(path("Slow"))(b"", timeout=0.3))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
    server_saw_the_end()


def check_cancel():
    replies = channel.unary_stream(path("SlowStream"))(b"", timeout=PATIENCE)
    assert next(replies) == b"first"
    replies.cancel()
    server_saw_the_end()


def check_large_messages():
    message = bytes(range(256)) * (4 << 12)
    assert len(message) == 4 << 20
    assert unary(message, timeout=PATIENCE) == message[::-1]


def check_compression():
    message = b"weft " * 100_000
    assert unary(message, timeout=PATIENCE, compression=grpc.Compression.Gzip) == message[::-1]


def check_many_at_once():
    calls = [unary.future(str(i).encode(), timeout=PATIENCE) for i in range(300)]
    for i, call in enumerate(calls):
        assert call.result() == str(i).encode()[::-1]


def main():
    bad = 0
    for name, check in list(globals().items()):
        if not name.startswith("check_"):
            continue
        try:
            check()
            print("ok", name[6:], flush=True)
        except Exception:
            bad += 1
            print("FAILED", name[6:], traceback.format_exc(), flush=True)
    channel.close()
    sys.exit(1 if bad else 0)


main()
