"""The README's examples, run as they stand."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Self

import anyio

import mpsr

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
PATH = "/run/app/events.sock"


def test_the_sync_example_delivers(address: str) -> None:
    """The first two blocks, receiver and producer, work together."""
    receiving, producing = (block.replace(PATH, address) for block in BLOCKS[:2])
    got: list[bytes] = []
    listening = threading.Event()

    class Receiver(mpsr.Receiver):
        def __enter__(self) -> Self:
            listening.set()
            return self

    def handle(message: bytes) -> None:
        got.append(message)
        if len(got) == 3:
            receivers[0].stop()

    receivers: list[mpsr.Receiver] = []

    def make(*args: object, **options: object) -> mpsr.Receiver:
        receivers.append(Receiver(*args, **options))  # type: ignore[arg-type]
        return receivers[0]

    module = type("module", (), {"Receiver": staticmethod(make)})
    receiving = receiving.replace("import mpsr\n", "")
    thread = threading.Thread(target=exec, args=(receiving, {"mpsr": module, "handle": handle}))
    thread.start()
    assert listening.wait(5)
    exec(producing, {"mpsr": mpsr})
    thread.join(5)
    assert got == [b"hello", b"a", b"b"]


def test_the_async_example_prints_who_sent(address: str) -> None:
    """The third block runs inside any event loop and knows each batch's sender."""
    body = "".join(f"    {line}\n" for line in BLOCKS[2].replace(PATH, address).splitlines())
    printed: list[tuple[object, ...]] = []
    names: dict[str, object] = {"mpsr": mpsr, "print": lambda *items: printed.append(items)}
    exec(f"async def example():\n{body}", names)
    example = names["example"]

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(example)  # type: ignore[arg-type]
            async with mpsr.AsyncProducer(address) as producer:
                await producer.send_many([b"a", b"bc"])
                await producer.flush(5)
            tasks.cancel_scope.cancel()

    anyio.run(main)
    assert [items[2:] for items in printed] == [(2, 3)]
