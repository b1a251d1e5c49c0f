"""Both in one program: five concurrent producers and the receiver they share.

    python examples/combined.py

Each waits in a thread of its own: a thread that waited for a receiver which it is to serve
itself would wait for ever.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import mpsr


def produce(path: Path, i: int) -> None:
    with mpsr.Producer(path) as producer:
        producer.send(f"Message from producer {i}".encode())
    # The end of the block has waited until the receiver accepted it.
    sys.stdout.write(f"[Producer {i}] Sent.\n")


def main(producers: int = 5) -> None:
    with TemporaryDirectory() as directory, ThreadPoolExecutor(producers) as threads:
        path = Path(directory, "demo.sock")
        with mpsr.Receiver(path) as receiver:
            sys.stdout.write("[Server] Listening...\n")
            done = [threads.submit(produce, path, i) for i in range(producers)]
            for message in islice(receiver, producers):
                sys.stdout.write(f"[Server] Got: {message.decode()}\n")
        for each in done:  # closing the receiver has acknowledged the last message
            each.result()


if __name__ == "__main__":
    main()
