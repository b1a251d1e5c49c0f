"""A client: five producers connect at once, and each says hello.

    python examples/client.py [PATH [plain]]

Start `examples/server.py` first. `plain` sends nothing but the text, a connection a message, for
a server that knows nothing of mpsr; then nobody acknowledges it.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import mpsr


def produce(path: str, i: int, *, plain: bool) -> bool:
    text = f"Hello from producer {i}"
    producer = mpsr.Producer(path, framing="eof" if plain else "native")  # never waits
    producer.send(text.encode())
    try:
        producer.close(timeout=2)  # returns once the receiver has accepted everything
    except mpsr.Undelivered as error:
        sys.stdout.write(f"[Producer {i}] Failed: {error}\n")
        return False
    sys.stdout.write(f"[Producer {i}] Sent: {text}\n")
    return True


def main(path: str = "demo.sock", style: str = "") -> None:
    with ThreadPoolExecutor(5) as threads:
        done = [threads.submit(produce, path, i, plain=style == "plain") for i in range(5)]
    sys.exit(not all(each.result() for each in done))


if __name__ == "__main__":
    main(*sys.argv[1:])
