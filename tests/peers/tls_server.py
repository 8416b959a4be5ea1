"""An HTTPS server that says by which name it was asked for: tls_server.py PORT CERTIFICATE KEY."""

import socketserver
import ssl
import sys
from http.server import BaseHTTPRequestHandler


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{self.connection.asked_for}\n".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def get_request(self):
        socket, address = super().get_request()
        # The handshake is the handler's, so that a client that never makes one holds nobody up.
        return context.wrap_socket(socket, server_side=True, do_handshake_on_connect=False), address


def note(connection, name, _):
    connection.asked_for = name


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[3])
context.sni_callback = note
Server(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
