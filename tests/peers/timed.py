"""Answers that take as long as they are told, and how long they took: timed.py server PORT, or
timed.py client URL COUNTxMILLISECONDS....

The server answers GET /N after N milliseconds. The client asks for each number so many times, over
eight connections that it keeps, in an order that mixes them, and prints how long each answer took,
in milliseconds, from the smallest to the largest, as JSON. It fails if an answer is not 200.
"""

import http.client
import json
import queue
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONNECTIONS = 8


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body leave together: no waiting for the peer's acknowledgement in between.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self):
        time.sleep(int(self.path[1:]) / 1000)
        body = b"done\n"
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_):
        pass


def client(url, loads):
    url = urllib.parse.urlsplit(url)
    waits = []
    for load in loads:
        count, milliseconds = load.split("x")
        waits += [int(milliseconds)] * int(count)
    # Every seventh first: neighbours differ, and each run is the same.
    waiting = queue.SimpleQueue()
    for first in range(7):
        for wait in waits[first::7]:
            waiting.put(wait)
    took, failures = [], []

    def ask():
        connection = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=20)
        while not waiting.empty():
            try:
                wait = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                began = time.monotonic()
                connection.request("GET", f"/{wait}")
                response = connection.getresponse()
                response.read()
                took.append((time.monotonic() - began) * 1000)
                if response.status != 200:
                    failures.append(f"/{wait}: {response.status}")
            except Exception as error:  # every failure counts, whatever it is
                failures.append(f"/{wait}: {error!r}")
                return

    threads = [threading.Thread(target=ask) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures or len(took) != len(waits):
        sys.exit(f"{len(took)} of {len(waits)} were answered: {failures}")
    print(json.dumps(sorted(took)))


if sys.argv[1] == "server":
    server = ThreadingHTTPServer(("0.0.0.0", int(sys.argv[2])), Handler)
    server.daemon_threads = True
    server.serve_forever()
else:
    client(sys.argv[2], sys.argv[3:])
