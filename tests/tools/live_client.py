"""Plays the scene of live_client.js with the package `websockets`: live_client.py BASE TOKEN"""

import asyncio
import json
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed


def tell(**told):
    print(json.dumps(told), flush=True)


class Client:
    def __init__(self, name, socket):
        self.name = name
        self.socket = socket

    @classmethod
    async def open(cls, name, address, **options):
        return cls(name, await connect(address, **options))

    async def next(self, kind):
        """The next frame of a type, those of other types passed over."""
        while True:
            frame = json.loads(await self.socket.recv())
            tell(client=self.name, frame=frame)
            if frame["type"] == kind:
                return frame

    async def send(self, **frame):
        await self.socket.send(json.dumps(frame))

    async def close(self):
        await self.socket.close()
        tell(client=self.name, closed=self.socket.close_code)


async def main():
    base, token = sys.argv[1:3]
    address = f"{base}/ws/notifications/"
    # As the clients of the system that was replaced do it.
    legacy = await Client.open("legacy", f"{address}?token={token}")
    first = await Client.open("first", f"{address}?token={token}&v=1")
    await first.next("hello")
    tell(step="connected")
    one = await first.next("notification")
    await first.close()
    tell(step="away")
    for _ in range(3):
        await legacy.next("notification")
    again = await Client.open("again", f"{address}?token={token}&since={one['seq']}&epoch={one['epoch']}")
    await again.next("recovered")
    await again.send(type="subscribe", topic="city.dar")
    await again.next("subscribed")
    tell(step="back")
    for _ in range(3):
        await again.next("notification")
    bearer = {"Authorization": f"Bearer {token}"}
    other = await Client.open("other", address, subprotocols=["tarishi.v1"], additional_headers=bearer)
    await other.next("hello")
    await again.send(type="read", id=one["id"])
    for client in (again, other):
        await client.next("changed")
        await client.next("unread")
    # Whatever was on its way to them is here when the answer is.
    for client in (legacy, again, other):
        await client.send(type="ping")
        await client.next("pong")
        await client.close()
    stranger = await Client.open("stranger", address, subprotocols=["tarishi.v1"])
    try:
        await stranger.socket.recv()
    except ConnectionClosed:
        tell(client="stranger", closed=stranger.socket.close_code)
    tell(step="done")


asyncio.run(main())
