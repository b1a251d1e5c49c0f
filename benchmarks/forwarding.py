"""Measure what reaches a stream of NATS: ``python -m benchmarks.forwarding``.

An atomic-batch publisher alone, then ``mpsr recv --to nats://…``, single and packed, with 100 bytes
a message, one server and one replica; and how fast the receiver accepts with the sink and without.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mpsr
from tests.ports import free_ports
from tests.sinks.natsservers import NatsServer, connected

COUNT = 300_000  # messages
BATCH = 1000
BODY = b"x" * 100
IDLE = """
import signal, mpsr
with mpsr.Receiver("app.sock", journal="app.journal") as receiver:
    signal.sigwait([signal.SIGTERM])
"""


async def publish_alone(port: int) -> None:
    client = await connected(port)
    for number in range(COUNT // BATCH):
        head = {"Nats-Batch-Id": f"b{number}"}
        for seq in range(1, BATCH):
            await client.publish("alone", BODY, headers={**head, "Nats-Batch-Sequence": str(seq)})
        last = {**head, "Nats-Batch-Sequence": str(BATCH), "Nats-Batch-Commit": "1"}
        answer = await client.request("alone", BODY, 10, headers=last)
        assert b"error" not in answer.data
    await client.close()


def alone(server: NatsServer) -> float:
    server.create("ALONE", "alone")
    begun = time.monotonic()
    asyncio.run(publish_alone(server.port))
    return COUNT / (time.monotonic() - begun)


def through(server: NatsServer, options: str | None) -> tuple[float, float]:
    """Return messages a second that were accepted, and that were in the stream."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-c", IDLE]
        if options is not None:
            server.create("SINK", "sink")
            command = [sys.executable, "-m", "mpsr", "recv", "app.sock", "--journal=app.journal"]
            command += ["-q", f"--to={server.url}/SINK/sink{options}"]
        receiver = subprocess.Popen(command, cwd=directory, stderr=subprocess.DEVNULL)
        address = Path(directory, "app.sock")
        while not address.exists():
            time.sleep(0.01)
        begun = time.monotonic()
        with mpsr.Producer(address) as producer:
            for _ in range(COUNT // 100):
                producer.send_many([BODY] * 100)
            producer.flush()
        accepted = time.monotonic() - begun
        wanted = COUNT
        if options and "pack" in options:  # how many there will be is not known
            before = -1
            while (now := server.count("SINK")) != before or now <= 0:
                before = now
                time.sleep(0.05)
        elif options is not None:
            while server.count("SINK") < wanted:
                time.sleep(0.01)
        arrived = time.monotonic() - begun
        receiver.kill()
        receiver.wait()
        if options is not None:
            server.call("STREAM.DELETE.SINK")
        return COUNT / accepted, COUNT / arrived


def main() -> None:
    for sync in ("", "always"):
        with tempfile.TemporaryDirectory() as directory:
            server = NatsServer(Path(directory), *free_ports(1), sync=sync).start()
            try:
                rate = alone(server)
                print(f"sync {sync or 'default'}: alone {rate:,.0f}/s", flush=True)
                for options in (None, "", "?origin=none", "?pack=1000"):
                    accepted, arrived = through(server, options)
                    name = "no sink" if options is None else f"sink{options}"
                    text = f"  {name}: accepted {accepted:,.0f}/s"
                    if options is not None:
                        text += f", in the stream {arrived:,.0f}/s ({arrived / rate:.0%})"
                    print(text, flush=True)
            finally:
                server.kill()


if __name__ == "__main__":
    main()
