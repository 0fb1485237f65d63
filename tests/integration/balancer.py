"""A balancer as small as can be: connections to one port go to the next backend that answers.

`balancer.py PORT BACKEND_PORT...`, all on 127.0.0.1; says "ready" once, and runs until it is ended.
It knows nothing of HTTP: a connection stays with its backend, and ends with it.
"""

from __future__ import annotations

import asyncio
import itertools
import sys


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def main(port: int, backends: list[int]) -> None:
    turns = itertools.count()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = next(turns)
        for number in range(len(backends)):
            backend = backends[(first + number) % len(backends)]
            try:
                there, back = await asyncio.open_connection("127.0.0.1", backend)
            except OSError:
                continue
            await asyncio.gather(pump(reader, back), pump(there, writer))
            return
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    print("ready", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), [int(word) for word in sys.argv[2:]]))
