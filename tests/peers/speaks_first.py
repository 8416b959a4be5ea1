"""A server that greets before the client says a word, as MySQL and SMTP do, and its client.

    speaks_first.py server PORT
    speaks_first.py client HOST PORT

The client waits for the greeting before it sends anything, then expects its line back. It prints
the greeting, the echo and how long the greeting took in milliseconds.
"""

import socket
import socketserver
import sys
import time


class Greeter(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"220 speak, friend\r\n")
        for line in self.rfile:
            self.wfile.write(b"250 " + line)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def server(port):
    with Server(("0.0.0.0", int(port)), Greeter) as running:
        running.serve_forever()


def client(host, port):
    begin = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        reader = connection.makefile("rb")
        greeting = reader.readline()
        waited = time.monotonic() - begin
        connection.sendall(b"hello\r\n")
        echo = reader.readline()
        connection.shutdown(socket.SHUT_WR)
        rest = reader.read()
    print(greeting.decode().strip(), "|", echo.decode().strip(), "|", len(rest), "|", int(waited * 1000))


if __name__ == "__main__":
    {"server": server, "client": client}[sys.argv[1]](*sys.argv[2:])
