"""A client of a proxy's tap port on grpcio, without generated code: tap_peer.py HOST:PORT PATH.

Asks for everything (ObserveRequest with limit 100) and ends when an event names PATH, which it
prints; after 20 seconds it fails, and so it does when the proxy refuses, whose status it prints.
"""

import sys

import grpc

# linkerd2-proxy-api, tap.proto: field 1 is the limit, 100; field 2 the match, all of none, without
# which linkerd2-proxy refuses.
EVERYTHING = b"\x08\x64\x12\x02\x0a\x00"
PLAIN = {"request_serializer": bytes, "response_deserializer": bytes}

with grpc.insecure_channel(sys.argv[1]) as channel:
    observe = channel.unary_stream("/io.linkerd.proxy.tap.Tap/Observe", **PLAIN)
    try:
        for event in observe(EVERYTHING, timeout=20):
            if sys.argv[2].encode() in event:
                print("seen", sys.argv[2])
                break
        else:
            sys.exit("the tap ended")
    except grpc.RpcError as error:
        sys.exit(f"{error.code()}: {error.details()}")
