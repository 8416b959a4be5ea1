"""Fetches a page with Python's own client: get.py URL."""

import sys
import urllib.request

with urllib.request.urlopen(sys.argv[1], timeout=20) as response:
    print("python", response.status, response.read().decode().strip())
