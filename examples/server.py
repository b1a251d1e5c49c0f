"""A server: claim a path, take every connection, print what each sends.

    python examples/server.py [PATH]

Anything may connect: an mpsr producer, `nc -U PATH`, or a program that writes some text with no
line end at all and hangs up. Ctrl-C ends it in order: what has arrived is printed first.
"""

import signal
import sys

import mpsr


def main(path: str) -> None:
    with mpsr.Receiver(path) as receiver:
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, lambda *_: receiver.stop())
        print(f"Server listening on {path}", flush=True)
        for message in receiver:  # coming back for the next one acknowledges this one
            print(f"[Server] Received: {message.decode(errors='replace')}", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "demo.sock")
    except mpsr.AddressError as error:  # it is in use, for one; the error says by whom
        sys.exit(str(error))
