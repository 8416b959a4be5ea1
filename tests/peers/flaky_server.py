"""An HTTP/1.1 server whose answers depend on the path: flaky_server.py PORT.

    /flaky/ID   503 to the first request for that ID, 200 to those that follow
    /slow       200 after two seconds
    others      200

The body tells how many requests this path has had, the request's HTTP version and who the proxy
says the client is: "2 HTTP/1.1 [web.shop.serviceaccount…]".
"""

import collections
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SLOW_SECONDS = 2
seen = collections.Counter()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def answer(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        seen[self.path] += 1
        fails = self.path.startswith("/flaky/") and seen[self.path] == 1
        if self.path == "/slow":
            time.sleep(SLOW_SECONDS)
        client = self.headers.get("l5d-client-id", "")
        body = f"{seen[self.path]} {self.request_version} [{client}]\n".encode()
        self.send_response(503 if fails else 200)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128


Server(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
