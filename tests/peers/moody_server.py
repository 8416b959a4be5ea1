"""An HTTP/1.1 server that says its name and behaves as it is told: moody_server.py MOODS PORT....

The file MOODS/<host name> holds the mood of all requests that follow: `well` (or no file), `error`
(answers 500), `reset` (ends the connection abruptly, without an answer), `tardy` and `slow` (answers
after a tenth of a second, or after a whole one) or `once` (answers 500 to the first request with some
`x-request`, whoever got it, and well to the next). A path behind it says which requests it is for;
MOODS/all is for those without a mood of their own. At SIGTERM it says with
its last answers that their connections end, then stops accepting, and lets requests that are under
way finish.
"""

import os
import pathlib
import signal
import socket
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAREWELL_SECONDS = 0.2
NAME = socket.gethostname()
MOOD = pathlib.Path(sys.argv[1]) / NAME


ending = threading.Event()
busy = set()


def mood(path):
    own = MOOD if MOOD.exists() else MOOD.with_name("all")
    try:
        words = own.read_text().split() or ["well"]
    except OSError:
        words = ["well"]
    return words[0] if path.startswith("".join(words[1:])) else "well"


def is_first(request):
    """Whether nobody has had this request before."""
    try:
        (MOOD.parent / f"seen-{request}").touch(exist_ok=False)
        return True
    except FileExistsError:
        return False


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body leave together: no waiting for the peer's acknowledgement in between.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self):
        busy.add(self)
        try:
            self.answer()
        finally:
            busy.discard(self)

    def answer(self):
        now = mood(self.path) if self.path != "/ready" else "well"
        time.sleep({"tardy": 0.1, "slow": 1}.get(now, 0))
        if now == "once":
            now = "error" if is_first(self.headers["x-request"]) else "well"
        if now == "reset":
            # Closing with a linger time of zero sends RST (socket(7)).
            self.connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            self.connection.close()
            self.close_connection = True
            return
        body = f"{NAME}\n".encode()
        self.send_response(500 if now == "error" else 200)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(body)))
        if ending.is_set():
            self.send_header("connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128


servers = [Server(("0.0.0.0", int(port)), Handler) for port in sys.argv[2:]]
threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in servers]
for thread in threads:
    thread.start()


signal.signal(signal.SIGTERM, lambda *_: ending.set())
while not ending.wait(0.1):
    pass
time.sleep(FAREWELL_SECONDS)
for server in servers:
    threading.Thread(target=server.shutdown).start()
for thread in threads:
    thread.join()
end = time.monotonic() + 1
while busy and time.monotonic() < end:
    time.sleep(0.01)
# At once: what connects from now on can only be refused.
os._exit(0)
