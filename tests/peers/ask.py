"""Asks for pages and tells what came: ask.py QUESTIONS.

QUESTIONS is a JSON list of {url, headers, count}. Each is asked `count` times, one after the other,
over a connection that is kept. Prints a JSON list with a list for each question of {status, body,
error (the header l5d-proxy-error, or what went wrong), seconds}.

In a header's value "%" stands for a number that is different for each request.
"""

import http.client
import itertools
import json
import sys
import time
import urllib.parse

TIMEOUT_SECONDS = 15
numbers = itertools.count(time.time_ns())


def ask(question):
    url = urllib.parse.urlsplit(question["url"])
    connection, answers = None, []
    for _ in range(question["count"]):
        number = str(next(numbers))
        headers = {name: value.replace("%", number) for name, value in question["headers"]}
        began = time.monotonic()
        try:
            if connection is None:
                connection = http.client.HTTPConnection(
                    url.hostname, url.port or 80, timeout=TIMEOUT_SECONDS
                )
            connection.request("GET", url.path or "/", headers=headers)
            response = connection.getresponse()
            body = response.read().decode().strip()
            answer = {
                "status": response.status,
                "body": body,
                "error": response.getheader("l5d-proxy-error"),
            }
            if response.will_close:
                connection.close()
                connection = None
        except Exception as error:
            connection = None
            answer = {"status": 0, "body": "", "error": repr(error)}
        answers.append(answer | {"seconds": time.monotonic() - began})
    return answers


print(json.dumps([ask(question) for question in json.loads(sys.argv[1])]))
