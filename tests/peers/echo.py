"""An application that tells what reached it, over HTTP/1.1 and gRPC, and a client that asks it.

    echo.py serve
    echo.py ask QUESTIONS

The server listens on 8080 (HTTP/1.1) and 7070 (gRPC, any method) and answers with JSON: POD_NAME
and POD_NAMESPACE of its environment, and host, path, method, headers and protocol of the request.
It prints "saw ID" for each request with a header x-copy-id.

QUESTIONS is a JSON list of {url, headers, count}; the client asks each `count` times, over one
connection, follows no redirect, and prints a JSON list of lists of {status, headers, echo}. A
header named "host" is sent instead of the one the URL implies. For the URL's scheme "grpc" the
status is the call's code: 0 if it went well.
"""

import json
import os
import socket
import sys
from concurrent import futures
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 10
METHOD = "/conformance.Echo/Echo"


def told(**request):
    pod = {"pod": os.environ["POD_NAME"], "namespace": os.environ["POD_NAMESPACE"]}
    return json.dumps(pod | request).encode()


def note(copy_id):
    if copy_id:
        print("saw", copy_id, flush=True)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body leave together: no waiting for the peer's acknowledgement in between.
    wbufsize = -1
    disable_nagle_algorithm = True

    def answer(self):
        note(self.headers.get("x-copy-id"))
        body = told(
            host=self.headers.get("host"),
            path=self.path,
            method=self.command,
            headers=self.headers.items(),
            protocol=self.request_version,
        )
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    """On IPv4 and IPv6."""

    address_family = socket.AF_INET6
    request_queue_size = 128


def serve():
    import grpc

    class Echo(grpc.GenericRpcHandler):
        def service(self, call):
            def answer(_request, _context):
                headers = [(item.key, item.value) for item in call.invocation_metadata]
                note(dict(headers).get("x-copy-id"))
                return told(path=call.method, headers=headers, protocol="gRPC")

            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    server.add_generic_rpc_handlers((Echo(),))
    server.add_insecure_port("[::]:7070")
    server.start()
    # Linux accepts IPv4 there too unless told otherwise (ipv6(7), bindv6only).
    Server(("::", 8080), Handler).serve_forever()


def ask_http(url, headers, count):
    connection = HTTPConnection(url.hostname, url.port or 80, timeout=TIMEOUT_SECONDS)
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    answers = []
    for _ in range(count):
        connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
        if not any(name.lower() == "host" for name, _ in headers):
            connection.putheader("host", url.netloc)
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        body = response.read()
        is_echo = response.headers.get("content-type") == "application/json"
        echo = json.loads(body) if is_echo else None
        answers.append({"status": response.status, "headers": response.getheaders(), "echo": echo})
    connection.close()
    return answers


def ask_grpc(url, headers, count):
    import grpc

    answers = []
    with grpc.insecure_channel(url.netloc) as channel:
        call = channel.unary_unary(METHOD, request_serializer=bytes, response_deserializer=bytes)
        for _ in range(count):
            try:
                body, done = call.with_call(b"", metadata=headers, timeout=TIMEOUT_SECONDS)
                answer = {"status": 0, "headers": done.initial_metadata(), "echo": json.loads(body)}
            except grpc.RpcError as error:
                answer = {"status": error.code().value[0], "headers": [], "echo": error.details()}
            answers.append(answer)
    return answers


def ask(question):
    url = urlsplit(question["url"])
    headers = [tuple(header) for header in question["headers"]]
    asked = {"http": ask_http, "grpc": ask_grpc}[url.scheme]
    try:
        return asked(url, headers, question["count"])
    except Exception as error:
        return [{"status": None, "headers": [], "echo": repr(error)}]


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        print(json.dumps([ask(question) for question in json.loads(sys.argv[2])]))
