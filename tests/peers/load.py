"""A steady load on one page: load.py URL SECONDS THREADS.

Each thread keeps a connection and asks again as soon as it is answered, at most 200 times a
second. Prints how many requests were answered, how many failed and why, and which answers came.
"""

import collections
import http.client
import sys
import threading
import time
import urllib.parse

url = urllib.parse.urlsplit(sys.argv[1])
end = time.monotonic() + float(sys.argv[2])
answers, failures = collections.Counter(), collections.Counter()


def ask():
    connection = None
    while time.monotonic() < end:
        began = time.monotonic()
        try:
            if connection is None:
                connection = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=10)
            connection.request("GET", url.path)
            response = connection.getresponse()
            body = response.read().decode().strip()
            if response.status == 200:
                answers[body] += 1
            else:
                failures[f"{response.status} {response.getheader('l5d-proxy-error')}"] += 1
            if response.will_close:
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
print("done")
