"""A steady load on one page: load.py URL SECONDS THREADS [keep|fresh [STOP]].

Each thread keeps a connection (or makes a fresh one each time) and asks again as soon as it is
answered, at most 200 times a second, until the time is over or the file STOP exists. For the URL's
scheme "grpc" a thread makes unary calls of grpc_peer.py, for "grpc-stream" it sends messages on one
call back and forth, and makes another call only if that one fails. Says "flowing"
when the first answers have come; at its end how many requests were answered, how many failed and
why, which answers came, and for how long none did.
"""

import collections
import http.client
import json
import os
import queue
import sys
import threading
import time
import urllib.parse

url = urllib.parse.urlsplit(sys.argv[1])
end = time.monotonic() + float(sys.argv[2])
fresh = len(sys.argv) > 4 and sys.argv[4] == "fresh"
stop = sys.argv[5] if len(sys.argv) > 5 else None
answers, failures = collections.Counter(), collections.Counter()
last, silence = time.monotonic(), 0.0


def answered():
    global last, silence
    now = time.monotonic()
    silence, last = max(silence, now - last), now
    if answers.total() == 20:
        print("flowing", flush=True)


def ask():
    connection = None
    while time.monotonic() < end and not (stop and os.path.exists(stop)):
        began = time.monotonic()
        try:
            if connection is None:
                connection = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=10)
            connection.request("GET", url.path)
            response = connection.getresponse()
            body = response.read().decode().strip()
            if response.status == 200:
                answers[body] += 1
                answered()
            else:
                failures[f"{response.status} {response.getheader('l5d-proxy-error')}"] += 1
            if response.will_close or fresh:
                connection.close()
                connection = None
        except Exception as error:  # every failure counts, whatever it is
            failures[repr(error)] += 1
            if connection is not None:
                connection.close()
            connection = None
        time.sleep(max(0.0, began + 0.005 - time.monotonic()))


def is_over():
    return time.monotonic() >= end or (stop and os.path.exists(stop))


def call():
    import grpc

    plain = {"request_serializer": bytes, "response_deserializer": bytes}
    channel = None
    while not is_over():
        began = time.monotonic()
        try:
            channel = channel or grpc.insecure_channel(url.netloc)
            unary = channel.unary_unary("/interop.Echo/Unary", **plain)
            answers[unary(b"hi", timeout=10).decode()] += 1
            answered()
        except grpc.RpcError as error:
            failures[f"{error.code().name} {error.details()}"] += 1
        if fresh:
            channel.close()
            channel = None
        time.sleep(max(0.0, began + 0.005 - time.monotonic()))


def stream():
    import grpc

    plain = {"request_serializer": bytes, "response_deserializer": bytes}
    while not is_over():
        messages = queue.SimpleQueue()
        with grpc.insecure_channel(url.netloc) as channel:
            both = channel.stream_stream("/interop.Echo/Both", **plain)
            try:
                backs = both(iter(messages.get, None))
                while not is_over():
                    messages.put(b"ping")
                    answers[next(backs).decode()] += 1
                    answered()
                    time.sleep(0.005)
                messages.put(None)
                # The call ends as it should: nothing more, and a good status.
                for back in backs:
                    failures[f"unexpected {back}"] += 1
            except (grpc.RpcError, StopIteration) as error:
                failures[repr(error)] += 1
                messages.put(None)


ask = {"http": ask, "grpc": call, "grpc-stream": stream}[url.scheme]
threads = [threading.Thread(target=ask) for _ in range(int(sys.argv[3]))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("answers", dict(answers))
print("failures", dict(failures))
print("failed", sum(failures.values()))
report = {"answers": answers, "failures": failures, "silence": max(silence, time.monotonic() - last)}
print("report", json.dumps(report))
print("done")
