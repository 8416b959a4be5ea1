"""A gRPC server and client on grpcio, with generic handlers: no generated code.

    grpc_peer.py server PORT
    grpc_peer.py client HOST:PORT

The client makes a unary call, a server-streaming, a client-streaming and a bidirectional call, a
call that fails with a status and a message, and reads trailers; it prints one line for each.
"""

import sys
from concurrent import futures

import grpc

SERVICE = "interop.Echo"
PLAIN = {"request_serializer": bytes, "response_deserializer": bytes}


def unary(request, context):
    context.set_trailing_metadata((("x-trailer", "seen"),))
    return b"unary:" + request


def serve_stream(request, context):
    for number in range(int(request)):
        yield b"item:%d" % number


def take_stream(requests, context):
    return b"took:%d" % sum(len(request) for request in requests)


def both(requests, context):
    for request in requests:
        yield b"back:" + request


def fail(request, context):
    context.set_trailing_metadata((("x-trailer", "with-error"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not like this: 100 % ünlikely")


def server(port):
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ServeStream": grpc.unary_stream_rpc_method_handler(serve_stream),
        "TakeStream": grpc.stream_unary_rpc_method_handler(take_stream),
        "Both": grpc.stream_stream_rpc_method_handler(both),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
    }
    running = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
    running.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    running.add_insecure_port(f"0.0.0.0:{port}")
    running.start()
    running.wait_for_termination()


def client(target):
    timeout = 20
    with grpc.insecure_channel(target) as channel:
        path = f"/{SERVICE}/"
        answer, call = channel.unary_unary(path + "Unary", **PLAIN).with_call(b"hi", timeout=timeout)
        print("unary", answer.decode(), dict(call.trailing_metadata())["x-trailer"])
        items = list(channel.unary_stream(path + "ServeStream", **PLAIN)(b"1000", timeout=timeout))
        print("serve-stream", len(items), items[-1].decode())
        chunks = (b"x" * 10_000 for _ in range(100))
        taken = channel.stream_unary(path + "TakeStream", **PLAIN)(chunks, timeout=timeout)
        print("take-stream", taken.decode())
        pings = (b"%d" % number for number in range(50))
        backs = list(channel.stream_stream(path + "Both", **PLAIN)(pings, timeout=timeout))
        print("both", len(backs), backs[-1].decode())
        try:
            channel.unary_unary(path + "Fail", **PLAIN)(b"", timeout=timeout)
        except grpc.RpcError as error:
            trailer = dict(error.trailing_metadata())["x-trailer"]
            print("fail", error.code().name, error.details(), trailer)


if __name__ == "__main__":
    {"server": server, "client": client}[sys.argv[1]](sys.argv[2])
