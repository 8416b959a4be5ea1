"""A WebSocket echo server and client on the websockets package.

    websocket_peer.py server PORT
    websocket_peer.py client HOST PORT
"""

import asyncio
import sys

import websockets


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def server(port):
    async with websockets.serve(echo, "0.0.0.0", int(port), max_size=None):
        await asyncio.get_running_loop().create_future()


async def client(host, port):
    url = f"ws://{host}:{port}/socket"
    async with websockets.connect(url, max_size=None, open_timeout=20) as connection:
        await connection.send("text ✓")
        text = await connection.recv()
        blob = bytes(range(256)) * 4096
        await connection.send(blob)
        same = await connection.recv() == blob
        waiter = await connection.ping()
        await asyncio.wait_for(waiter, 10)
    print("websocket", text, "blob", same, "close", connection.close_code)


if __name__ == "__main__":
    role = {"server": server, "client": client}[sys.argv[1]]
    asyncio.run(role(*sys.argv[2:]))
