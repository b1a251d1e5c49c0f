"""`mpsr recv --metrics` is scraped at a port or a Unix socket, whatever its consumer does."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from functools import partial
from http.client import HTTPConnection
from time import monotonic

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

import mpsr
from mpsr.limits import MAX_SCRAPE_REQUEST, MAX_SCRAPES
from tests.cli.conftest import PATIENCE, Cli, Running
from tests.eventually import eventually
from tests.ports import free_port
from tests.users import let_others_in

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
PRODUCERS, EACH = 4, 1_000


class UnixConnection(HTTPConnection):
    """HTTP over a Unix socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.host)


def port_of(running: Running) -> int:
    running.await_word("mpsr: metrics at http://")
    match = re.search(r"metrics at http://\S+:(\d+)/metrics", running.told)
    assert match is not None
    return int(match[1])


def connection_to(cli: Cli, running: Running, where: str) -> HTTPConnection:
    if where.startswith("unix:"):
        running.await_word("mpsr: metrics at unix:")
        return UnixConnection(str(cli.directory / "metrics.sock"), timeout=PATIENCE)
    host = where.rpartition(":")[0].strip("[]")
    return HTTPConnection(host, port_of(running), timeout=PATIENCE)


def scrape(connection: HTTPConnection, accept: str = "text/plain") -> dict[str, float]:
    """Return each number of the page by its name."""
    connection.request("GET", "/metrics", headers={"Accept": accept})
    answer = connection.getresponse()
    page = answer.read().decode()
    connection.close()
    assert answer.status == 200
    assert answer.getheader("Content-Type", "").startswith(accept.partition(";")[0])
    parse = (
        openmetrics.text_string_to_metric_families
        if accept == OPENMETRICS
        else text_string_to_metric_families
    )
    return {each.name: each.value for family in parse(page) for each in family.samples}


IDLE = """
import os, socket, sys
os.setgid(3000)
os.setuid(3000)
held = [socket.socket(socket.AF_UNIX) for _ in range(int(sys.argv[2]))]
for each in held:
    each.connect(sys.argv[1])
print("idle", flush=True)
for each in held:
    each.recv(1)
sys.stdin.read()
"""


@pytest.mark.parametrize("where", ["127.0.0.1:0", "localhost:0", "unix:metrics.sock"])
def test_counters_add_up_with_what_real_producers_sent(cli: Cli, where: str) -> None:
    """In both text formats, as prometheus-client's own parsers read them."""
    receiver = cli.recv("--metrics", where, stdout=subprocess.DEVNULL)
    for _ in range(PRODUCERS):
        with mpsr.Producer(cli.address) as producer:
            producer.send_many([b"0123456789"] * EACH)
    for accept in ("text/plain", OPENMETRICS):
        shown = scrape(connection_to(cli, receiver, where), accept)
        assert shown["mpsr_received_messages_total"] == PRODUCERS * EACH
        assert shown["mpsr_received_bytes_total"] == PRODUCERS * EACH * 10
        assert shown["mpsr_accepted_connections_total"] == PRODUCERS
        assert shown["mpsr_lost_messages_total"] == shown["mpsr_rejected_total"] == 0
        assert shown["process_cpu_seconds_total"] > 0
    assert receiver.finish(signal.SIGTERM)[0] == 0
    assert not (cli.directory / "metrics.sock").exists()


@pytest.mark.parametrize(
    ("where", "options"),
    [("127.0.0.1:0", ()), ("unix:metrics.sock", ("--journal", "events.journal"))],
)
def test_scrapes_are_answered_while_nobody_reads_the_output(
    cli: Cli, where: str, options: tuple[str, ...]
) -> None:
    """A consumer that stands still is shown by how long it has had its batch."""
    receiver = cli.recv("--metrics", where, *options)  # a pipe that nobody reads
    with mpsr.Producer(cli.address, exit_timeout=0) as producer:
        producer.send_many([bytes(10_000)] * 30)

        def stuck() -> dict[str, float]:
            found = scrape(connection_to(cli, receiver, where))
            return found if found["mpsr_consumer_batch_seconds"] > 0.5 else {}

        shown = eventually(stuck, interval=0.05)
        assert 0 < shown["mpsr_received_messages_total"] <= 30
        if options:
            assert shown["mpsr_journal_positions_total"] == 30
            assert shown["mpsr_journal_cursor_lag_messages"] > 0
        receiver.kill(signal.SIGKILL)
        with suppress(mpsr.Undelivered):
            producer.close(0)


def test_idle_and_slow_connections_delay_no_scrape(cli: Cli) -> None:
    """The address with the most connections loses its oldest; the others stay open."""
    receiver = cli.recv("--metrics", "127.0.0.1:0", limits={"SCRAPE_DEADLINE": 2 * PATIENCE})
    port = port_of(receiver)
    with ExitStack() as clients:
        connect = partial(socket.create_connection, ("127.0.0.1", port))
        other = clients.enter_context(connect(source_address=("127.0.0.2", 0)))
        stuck = [clients.enter_context(connect()) for _ in range(MAX_SCRAPES)]
        for each in stuck:
            with suppress(OSError):  # it was evicted
                each.sendall(b"GET /met")
        with mpsr.Producer(cli.address) as producer:
            producer.send(b"one")
            assert receiver.read_line() == b"one\n"
        # It times out long before the deadline would end the connections that are stuck.
        shown = scrape(HTTPConnection("127.0.0.1", port, timeout=PATIENCE))
        assert shown["mpsr_received_messages_total"] == 1
        other.settimeout(PATIENCE)
        other.sendall(b"GET /metrics HTTP/1.0\r\n")
        other.sendall(b"\r\n")
        assert other.recv(12, socket.MSG_WAITALL) == b"HTTP/1.0 200"
        assert ended(stuck[0])
        stuck[-1].setblocking(False)
        with pytest.raises(BlockingIOError):
            stuck[-1].recv(1)
    assert receiver.finish(signal.SIGTERM)[0] == 0


def test_slow_scrape_is_closed_at_its_deadline(cli: Cli) -> None:
    deadline = 0.2
    receiver = cli.recv("--metrics", "127.0.0.1:0", limits={"SCRAPE_DEADLINE": deadline})
    port = port_of(receiver)
    begun = monotonic()
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(b"GET /met")
        assert ended(slow)
    assert monotonic() - begun >= deadline
    assert receiver.finish(signal.SIGTERM)[0] == 0


def ended(client: socket.socket) -> bool:
    """Wait until the other end has closed a connection."""
    client.settimeout(PATIENCE)
    try:
        return client.recv(1) == b""
    except ConnectionResetError:  # it was closed with a request that was not read
        return True


@pytest.mark.skipif(os.geteuid() != 0, reason="takes the right to be another user")
def test_idle_connections_of_one_user_delay_no_other(cli: Cli) -> None:
    """At a Unix socket, connections are counted by user."""
    limits = {"SCRAPE_DEADLINE": 2 * PATIENCE}  # a scrape that had to wait would time out
    receiver = cli.recv("--metrics", "unix:metrics.sock,mode=666", limits=limits)
    path = str(cli.directory / "metrics.sock")
    scrape(connection_to(cli, receiver, "unix:metrics.sock"))
    let_others_in(cli.directory)
    command = [sys.executable, "-c", IDLE, path, str(2 * MAX_SCRAPES)]
    with socket.socket(socket.AF_UNIX) as other:
        other.settimeout(PATIENCE)
        other.connect(path)
        with subprocess.Popen(command, stdout=subprocess.PIPE) as idle:
            assert idle.stdout is not None
            assert idle.stdout.readline() == b"idle\n"
            scrape(connection_to(cli, receiver, "unix:metrics.sock"))
            other.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert other.recv(12, socket.MSG_WAITALL) == b"HTTP/1.0 200"
            idle.kill()
    assert receiver.finish(signal.SIGTERM)[0] == 0


def test_long_request_is_not_kept(cli: Cli) -> None:
    """A request without an end is closed at its limit, long before the deadline."""
    receiver = cli.recv("--metrics", "127.0.0.1:0", limits={"SCRAPE_DEADLINE": 2 * PATIENCE})
    with socket.create_connection(("127.0.0.1", port_of(receiver))) as client:
        with suppress(OSError):
            client.sendall(b"GET /metrics HTTP/1.0\r\n" + b"X: y\r\n" * MAX_SCRAPE_REQUEST)
        assert ended(client)
    assert receiver.finish(signal.SIGTERM)[0] == 0


def test_end_does_not_wait_for_a_stuck_scraper(cli: Cli) -> None:
    receiver = cli.recv("--metrics", "127.0.0.1:0", limits={"SCRAPE_DEADLINE": 2 * PATIENCE})
    with socket.create_connection(("127.0.0.1", port_of(receiver))) as stuck:
        stuck.sendall(b"GET /met")
        assert receiver.finish(signal.SIGTERM)[0] == 0


def test_path_is_for_its_user_and_group_unless_told_otherwise(cli: Cli) -> None:
    for where, mode in (("unix:a.sock", 0o660), ("unix:b.sock,mode=600", 0o600)):
        receiver = cli.recv("--metrics", where)
        path = cli.directory / where[5:11]
        assert path.stat().st_mode & 0o777 == mode
        assert receiver.finish(signal.SIGTERM)[0] == 0
        assert not path.exists()


def test_path_of_somebody_else_is_left_alone(cli: Cli) -> None:
    """A file at the path, or another receiver: one line, and the receiver does not start."""
    (cli.directory / "file").write_text("mine")
    status, _, err = cli.call("recv", "app.sock", "--metrics", "unix:file")
    assert (status, err.count("\n")) == (78, 3)
    assert "is a regular file" in err
    assert (cli.directory / "file").read_text() == "mine"
    cli.recv("--metrics", "unix:metrics.sock")
    status, _, err = cli.call("recv", "other.sock", "--metrics", "unix:metrics.sock")
    assert (status, err.count("\n")) == (75, 3)
    assert not (cli.directory / "other.sock").exists()


def test_port_in_use_is_an_error_and_the_receiver_gives_its_address_up(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        status, _, err = cli.call("recv", "app.sock", "--metrics", f"127.0.0.1:{port}")
    assert status == 75
    assert err == (
        f"mpsr: cannot serve metrics at 127.0.0.1:{port}\n"
        "  why: Address already in use\n"
        "  try: stop what listens there, or choose another\n"
    )
    assert not cli.address.exists()


@pytest.mark.parametrize("where", ["unix:metrics.sock", "127.0.0.1:{port}"])
def test_page_is_handed_over_with_the_receiver(cli: Cli, where: str) -> None:
    """The new one serves it as soon as the one before has ended."""
    where = where.format(port=free_port())
    before = cli.recv("--metrics", where)
    after = cli.start("recv", "app.sock", "--handover", "--metrics", where)
    assert before.finish()[0] == 0
    shown = scrape(connection_to(cli, after, where))
    assert shown["mpsr_received_messages_total"] == 0
    assert after.finish(signal.SIGTERM)[0] == 0


@pytest.mark.parametrize(
    ("where", "hint"),
    [
        (":9464", "write 127.0.0.1:9464, or 0.0.0.0:9464 to be read from other machines"),
        ("9464", "write 127.0.0.1:9464, or 0.0.0.0:9464 to be read from other machines"),
        ("metrics.sock", "write it like 127.0.0.1:9464, [::1]:9464 or unix:"),
        ("::1:9464", "write it like 127.0.0.1:9464, [::1]:9464 or unix:"),
        ("localhost:99999", "choose one of 0 to 65535"),
        ("unix:fd:3", "neither a path nor an abstract name"),
        ("unix:m.sock,type=dgram", "only mode= and group= have a use"),
        ("unix:", "it is empty"),
    ],
)
def test_what_is_no_place_is_refused_with_a_hint(cli: Cli, where: str, hint: str) -> None:
    """A bare port would listen at every address of the machine, which is to be said."""
    status, _, err = cli.call("recv", "app.sock", "--metrics", where)
    assert (status, err.count("\n")) == (2, 3)
    assert hint in err


def test_missing_library_is_an_error_that_says_what_to_install(cli: Cli) -> None:
    hidden = (
        "import sys; sys.modules['prometheus_client'] = None; from mpsr.cli import main; main()"
    )
    command = [sys.executable, "-c", hidden, "recv", "app.sock", "--metrics", "127.0.0.1:0"]
    ended = subprocess.run(command, cwd=cli.directory, capture_output=True, text=True, check=False)
    assert ended.returncode == 78
    assert ended.stderr == (
        "mpsr: --metrics needs prometheus-client\n"
        "  why: it is not installed\n"
        "  try: pip install 'mpsr[metrics]'\n"
    )
    code = hidden.partition(";")[2].partition(";")[0] + "; import mpsr.metrics"
    ended = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}"], capture_output=True, text=True, check=False
    )
    assert "mpsr.metrics needs prometheus-client: pip install 'mpsr[metrics]'" in ended.stderr


def test_library_is_not_loaded_without_the_option() -> None:
    code = "import sys, mpsr.cli.recv; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"prometheus_client", "http.server", "wsgiref.simple_server"} & set(loaded)


def test_ipv6_is_written_in_brackets(cli: Cli) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    receiver = cli.recv("--metrics", "[::1]:0")
    assert "mpsr_connections" in scrape(connection_to(cli, receiver, "[::1]:0"))
