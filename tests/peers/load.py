"""A steady load on one page: load.py URL SECONDS THREADS [keep|fresh [STOP]].

Each thread keeps a connection (or makes a fresh one each time) and asks again as soon as it is
answered, at most 200 times a second, until the time is over or the file STOP exists. Says "flowing"
when the first answers have come; at its end how many requests were answered, how many failed and
why, which answers came, and for how long none did.
"""

import collections
import http.client
import json
import os
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
