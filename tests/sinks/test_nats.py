"""A stream has what was sent and who sent it, and what is wrong with it is said in a line."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import nkeys
import pytest

import mpsr
import mpsr.sinks
from mpsr.errors import ConfigurationError
from mpsr.sinks.nats.layout import unpack
from mpsr.sinks.nats.subjects import matches, pattern_of, token
from tests.cli.conftest import Cli
from tests.ports import free_port, free_ports
from tests.sinks.conftest import Funnel, OwnFunnel
from tests.sinks.natsservers import PATIENCE, NatsServer

Funnels = Callable[..., Funnel]
OwnFunnels = Callable[..., OwnFunnel]


HOSTILE = (
    {"Mpsr-Time": "9" * 19},
    {"Mpsr-Time": "9" * 5000, "Mpsr-Seq": str(2**63), "Mpsr-Lost": "9" * 5000},
    {"Mpsr-Time": "\u00e9", "Mpsr-Label": "\u00e9", "Mpsr-Host": "\u00e9", "Mpsr-Seq": "\u00b2"},
    {"Mpsr-Seq": str(2**63 - 1), "Mpsr-Pid": "-1", "Mpsr-Uid": "1e3", "Mpsr-Gid": "9" * 30},
    {"Mpsr-Producer": "zz", "Mpsr-Label": "%1b[2J%ff"},
    {"Mpsr-Producer": "00" * 16, "Mpsr-Label": "%1b[2J%ff" * 100},
    {"Mpsr-Packed": "1", "Mpsr-Seq": "1"},
    {"Mpsr-Origin": '{"a":' + "[" * 1500 + "]" * 1500 + "}"},
    {"Mpsr-Origin": '{"a":"\\ud800"}'},
    {"Mpsr-Origin": "NaN"},
    {"Mpsr-Empty": "1", "Mpsr-Lost": str(2**63 - 1)},
)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., NatsServer]]:
    made: list[NatsServer] = []

    def make(more: str = "") -> NatsServer:
        server = NatsServer(tmp_path / f"nats{len(made)}", free_port(), more=more)
        made.append(server)
        return server.start()

    yield make
    for each in made:
        each.kill()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Give a server for all tests of this module."""
    server = NatsServer(tmp_path_factory.mktemp("nats"), free_port()).start()
    yield server
    server.kill()


@pytest.fixture
def server(running: NatsServer) -> Iterator[NatsServer]:
    """Give a server without streams."""
    yield running
    running.delete_streams()


def log(*arguments: str) -> str:
    _, out, err = Cli(Path.cwd()).call("log", *arguments)
    return out.decode() + err


def test_message_says_who_sent_it(own_funnels: OwnFunnels, server: NatsServer) -> None:
    funnel = own_funnels(f"{server.url}/S/events.{{label}}?create=1").start()
    with mpsr.Producer(funnel.address, label="a b.\r\nX: y") as producer:
        producer.send(b"hello")
        producer.flush(30)
    server.await_count("S", 1)
    ((subject, headers, data),) = server.messages("S")
    assert subject == "events.a_b___X__y"
    stored = unpack(headers, data)
    assert stored.bodies == [b"hello"]
    assert stored.producer == mpsr.ProducerIdentity(producer.id, "a b.\r\nX: y")
    assert stored.peer.pid is not None
    assert "X" not in headers
    funnel.await_word("has one replica")
    funnel.end()


@pytest.mark.parametrize("options", ["", "&pack=100"], ids=["single", "packed"])
def test_log_prints_a_stream(own_funnels: OwnFunnels, server: NatsServer, options: str) -> None:
    funnel = own_funnels(f"{server.url}/S/events?create=1{options}").start()
    sent = [b"%d" % number for number in range(350)]
    funnel.send(*sent)
    funnel.end()
    assert log(f"{server.url}/S", "-o", "text").encode().split() == sent
    assert log(f"{server.url}/S/events", "-n", "120", "-o", "text").encode().split() == sent[-120:]
    line = json.loads(log(f"{server.url}/S/*", "-n", "1", "-o", "json"))
    assert (line["body"], line["seq"], line["subject"]) == ("349", 349, "events")
    assert log(f"{server.url}/S/other") == ""
    assert "has no stream T" in log(f"{server.url}/T")


def test_large_message_stops_the_sink_if_it_is_to_and_the_next_start_sends_it(
    funnels: Funnels, serve: Callable[..., NatsServer], tmp_path: Path
) -> None:
    server = serve("max_payload: 4096")
    funnel = funnels(f"{server.url}/S/events?create=1&on_reject=stop").start()
    funnel.send(b"before", b"x" * 5000, b"after")
    assert funnel.process.wait(30) == 65
    assert "it has 5000 bytes, and the server takes " in funnel.told
    assert server.count("S") == 1
    server.kill()
    larger = NatsServer(server.directory, server.port, more="max_payload: 65536").start()
    try:
        funnel.start()
        larger.await_count("S", 3)
        assert [data for *_, data in larger.messages("S")] == [b"before", b"x" * 5000, b"after"]
        assert funnel.end() == 0
    finally:
        larger.kill()


def test_message_larger_than_the_stream_takes_is_rejected(
    own_funnels: OwnFunnels, server: NatsServer, tmp_path: Path
) -> None:
    """The stream's own limit is below the server's."""
    server.create("S", "events", max_msg_size=4096)
    funnel = own_funnels(f"{server.url}/S/events?rejected=r").start()
    funnel.send(b"before", b"x" * 5000, b"after")
    server.await_count("S", 2)
    funnel.end()
    assert [data for *_, data in server.messages("S")] == [b"before", b"after"]
    assert (tmp_path / "r").read_bytes().count(b"\n") == 1


def test_what_is_wrong_with_a_stream_is_said_in_a_line(
    funnels: Funnels, server: NatsServer
) -> None:
    """Each waits until somebody has changed it."""
    server.create("PLAIN", "plain", allow_atomic=False)
    server.create("FULL", "full", max_msgs=1, discard="new")
    server.create("OTHER", "other.>")
    cases = {
        "NONE/none": "there is no stream NONE: create it, or let create=1 do so",
        "PLAIN/plain": "does not allow atomic batches: set allow_atomic",
        "FULL/full": "the stream is full, and refuses new messages",
        "OTHER/mine": "stream OTHER has other.>, and so not mine",
    }
    funnel = funnels(*(f"{server.url}/{each}" for each in cases)).start()
    funnel.send(b"one", b"two")
    for each in cases.values():
        funnel.await_word(each)
    server.create("NONE", "none")
    server.await_count("NONE", 2)
    assert "Traceback" not in funnel.told


def test_server_that_hangs_holds_up_no_end(
    funnels: Funnels, serve: Callable[..., NatsServer]
) -> None:
    server = serve()
    server.create("S", "events")
    funnel = funnels(f"{server.url}/S/events")
    funnel.limits["SINK_STOP_TIMEOUT"] = 0.5
    funnel.start()
    funnel.send(b"one")
    server.await_count("S", 1)
    server.pause()
    funnel.send(b"two")
    assert funnel.end() == 74
    server.kill()
    server.start()
    funnel.start()
    server.await_count("S", 2)
    assert [data for *_, data in server.messages("S")] == [b"one", b"two"]


def test_first_server_that_answers_is_used(own_funnels: OwnFunnels, server: NatsServer) -> None:
    dead = free_ports(3)
    servers = ",".join(f"127.0.0.1:{port}" for port in [*dead, server.port])
    funnel = own_funnels(f"nats://{servers}/S/events?create=1").start()
    funnel.send(b"one")
    server.await_count("S", 1)
    funnel.end()
    nowhere = own_funnels(f"nats://127.0.0.1:{dead[0]}/S/events", name="nowhere").start()
    nowhere.await_word(f"127.0.0.1:{dead[0]}: Connect")
    nowhere.abandon()


def test_new_journal_goes_on_behind_an_old_one(own_funnels: OwnFunnels, server: NatsServer) -> None:
    for name in ("a", "b"):
        funnel = own_funnels(f"{server.url}/S/events?create=1", name=name).start()
        funnel.send(name.encode())
        funnel.end()
        assert ("was not published from this journal" in funnel.told) == (name == "b")
    assert [data for *_, data in server.messages("S")] == [b"a", b"b"]


def test_journal_from_before_its_messages_were_published_doubles_none(
    own_funnels: OwnFunnels, server: NatsServer, tmp_path: Path
) -> None:
    """The sink finds them in the stream, before the messages of another journal."""
    target = f"{server.url}/S/events?create=1"
    funnel = own_funnels(target)
    with mpsr.Receiver(funnel.address, journal=funnel.journal):
        funnel.send(b"one", b"two")
    shutil.copytree(funnel.journal, tmp_path / "before")
    funnel.start().await_commit()
    funnel.end()
    other = own_funnels(target, name="other").start()
    other.deliver(b"of another")
    other.end()
    shutil.rmtree(funnel.journal)
    (tmp_path / "before").rename(funnel.journal)
    funnel.start().deliver(b"three")
    funnel.end()
    found = [data for *_, data in server.messages("S")]
    assert found == [b"one", b"two", b"of another", b"three"]


def test_two_journals_that_share_a_subject_double_nothing(
    funnels: Funnels, own_funnels: OwnFunnels, server: NatsServer
) -> None:
    """They block each other, and each finds its messages before the other's, even if killed."""
    target = f"{server.url}/S/events?create=1"
    killed, other = funnels(target, name="a").start(), own_funnels(target, name="b").start()
    for number in range(8):
        for each in (killed, other):
            each.send(b"%s %d" % (each.address.stem.encode(), number))
        if number == 4:
            killed.kill()
            killed.start()
    server.await_count("S", 16)
    found = [data for *_, data in server.messages("S")]
    for name in (b"a", b"b"):
        wanted = [b"%s %d" % (name, number) for number in range(8)]
        assert [data for data in found if data.startswith(name)] == wanted
    assert len(found) == 16


@pytest.mark.parametrize("output", ["short", "json", "text", "hex", "raw"])
def test_log_prints_whatever_others_have_published(server: NatsServer, output: str) -> None:
    """A header that no sink writes counts as missing; the messages after it are printed."""
    server.create("S", "events")
    for headers in HOSTILE:
        server.publish("events", b"x" * 40, headers)
    server.publish("events", b"honest", {"Mpsr-Time": "1"})
    out = log(f"{server.url}/S", "-o", output)
    assert ("honest" if output != "hex" else b"honest".hex()) in out.splitlines()[-1]
    if output == "json":
        shown = [msgspec.json.decode(line) for line in out.splitlines()]
        assert len(shown) == len(HOSTILE) + 1
        assert all(0 <= each["seq"] < 2**63 and "origin" not in each for each in shown)
    elif output == "short":
        assert all(line.isprintable() for line in out.splitlines())


def test_headers_of_others_stop_no_sink(own_funnels: OwnFunnels, server: NatsServer) -> None:
    """A number that no journal has, next to the journal's own name, counts as missing."""
    funnel = own_funnels(f"{server.url}/S/events?create=1").start()
    funnel.send(b"one")
    funnel.end()
    (journal,) = {headers["Mpsr-Journal"] for _, headers, _ in server.messages("S")}
    for number in ("-1", "x", "9" * 5000):
        forged = {"Mpsr-Journal": journal, "Mpsr-Position": number, "Mpsr-Previous": number}
        server.publish("events", b"forged", forged)
        funnel.start().send(number[:5].encode())
        funnel.end()
    found = [data for *_, data in server.messages("S") if data != b"forged"]
    assert found == [b"one", b"-1", b"x", b"99999"]


# -- who we are -----------------------------------------------------------------------------------


def test_password_is_used_and_never_shown(
    funnels: Funnels, own_funnels: OwnFunnels, serve: Callable[..., NatsServer]
) -> None:
    server = serve('authorization { user: "me", password: "se/cr@t" }')
    where = f"127.0.0.1:{server.port}/S/events?create=1"
    funnel = own_funnels(f"nats://me:se%2Fcr%40t@{where}").start()
    funnel.send(b"one")
    funnel.end()
    wrong = funnels(f"nats://me:wrong@{where}", name="wrong").start()
    wrong.send(b"one")
    wrong.await_word("it refuses who we are")
    assert wrong.end() == 74
    for told in (funnel.told, wrong.told):
        assert not {"se/cr@t", "se%2F", "wrong@"} & set(told.split())
        assert "%2F" not in told
        assert ":wrong" not in told


def test_nkey_is_used(
    own_funnels: OwnFunnels, serve: Callable[..., NatsServer], tmp_path: Path
) -> None:
    seed = nkeys.encode_seed(b"0" * 32, nkeys.PREFIX_BYTE_USER)
    public = nkeys.from_seed(bytearray(seed)).public_key.decode()
    (tmp_path / "user.nk").write_bytes(seed)
    server = serve(f"authorization {{ users: [ {{ nkey: {public} }} ] }}")
    target = f"{server.url}/S/events?create=1"
    funnel = own_funnels(f"{target}&nkey={tmp_path / 'user.nk'}").start()
    funnel.send(b"one")
    funnel.end()
    assert log(f"{server.url}/S?nkey={tmp_path / 'user.nk'}", "-o", "text") == "one\n"
    missing = own_funnels(f"{target}&nkey=missing.nk", name="missing").start()
    missing.await_word("missing.nk cannot be read: it is to hold credentials")
    missing.abandon()


def test_missing_permission_is_named(
    own_funnels: OwnFunnels, serve: Callable[..., NatsServer]
) -> None:
    server = serve(
        "authorization { users: [ { user: all, password: x }, { user: me, password: x, "
        'permissions: { publish: ["$JS.API.>"], subscribe: ["_INBOX.>"] } } ] }'
    )
    funnel = own_funnels(f"nats://me:x@127.0.0.1:{server.port}/S/events?create=1").start()
    funnel.send(b"one")
    funnel.await_word('permissions violation for publish to "events"')
    funnel.abandon()


def test_tls_is_checked(
    own_funnels: OwnFunnels,
    serve: Callable[..., NatsServer],
    running: NatsServer,
    tmp_path: Path,
) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=here",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    server = serve(f'tls {{ cert_file: "{cert}", key_file: "{key}" }}')
    target = f"{server.url}/S/events?create=1"
    funnel = own_funnels(f"{target}&tls-ca={cert}").start()
    funnel.send(b"one")
    funnel.end()
    for options, why in {
        "": "its certificate is not trusted",
        "&tls-ca=missing.pem": "missing.pem cannot be read",
    }.items():
        refused = own_funnels(target + options, name=f"refused{len(options)}").start()
        refused.await_word(why)
        refused.abandon()
    refused = own_funnels(f"{running.url}/S/events?tls=1", name="plain").start()
    refused.await_word("it has no TLS, which was asked for")
    refused.abandon()


def test_no_password_is_sent_to_a_server_without_the_tls_that_was_requested(
    funnels: Funnels,
) -> None:
    """A server without TLS, such as an impostor, learns nothing; stderr has a line per sink."""
    cert = ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"
    heard: list[bytes] = []
    info = b'INFO {"server_id":"x","version":"2.12.0","auth_required":true,"max_payload":1000}\r\n'

    def serve(listening: socket.socket) -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            with client:
                client.sendall(info)
                client.settimeout(PATIENCE)
                while data := client.recv(4096):
                    heard.append(data)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        url = f"nats://me:S3cret@127.0.0.1:{listening.getsockname()[1]}/S/events"
        funnel = funnels(f"{url}?tls=1&name=any", f"{url}?tls-ca={cert}&name=own").start()
        for name in ("any", "own"):
            funnel.await_word(f"{name}: ")
        funnel.kill()
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)
    assert heard == []
    assert funnel.told.count("it has no TLS, which was asked for") == 2
    assert funnel.told.count("\n") == 3


# -- texts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nats://h/S", "it names no stream and subject"),
        ("nats:h/S/x", "it names no server"),
        ("nats://h:99999/S/x", "is no server"),
        ("nats://h/S/x.*", "is no subject"),
        ("nats://h/S/x.{hots}", "{hots} is no field"),
        ("nats://h/S/x?replicas=3", "replicas= has no use without create=1"),
        ("nats://h/S/x?packs=3", "did you mean pack=?"),
        ("nats://h/S/x?pack=0", "pack=0"),
        ("nats://me@h/S/x?creds=f", "exclude each other"),
        ("nats://bob:S3c?ret@h/S/x", "it is ambiguous"),
        ("nats://bob:S3c/ret@h/S/x", "it is ambiguous"),
        ("nats://bob:S3c#ret@h/S/x", "it is ambiguous"),
        ("nats://bob:S3c@ret@h/S/x", "it is ambiguous"),
        ("nats://bob:S3c?a=ret@h/S/x", "it is ambiguous"),
    ],
)
def test_text_that_makes_no_sense_is_refused(text: str, why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        mpsr.sinks.sink(text).make()
    assert why in str(caught.value)
    assert "S3c" not in str(caught.value)


def test_password_is_in_no_name() -> None:
    """Neither as written nor percent-encoded, in a URL or in a command."""
    for secret in ("S3cret", "S3%3Fret", "S3%2Fc%40ret"):
        name = mpsr.sinks.sink(f"nats://bob:{secret}@h:1/S/x?create=1").name
        assert name == "nats://h:1/S/x"
    assert "S3c" not in mpsr.sinks.sink("exec:curl -T - http://bob:S3c?ret@h/").name


def test_subjects_of_templates_match_their_pattern() -> None:
    assert pattern_of("events.{host}.{uid}-{label}.x") == "events.*.*.x"
    assert token("web1.example.com") == "web1_example_com"
    assert token("é> *\n") == "_____"
    assert token("") == token(None) == "_"
    assert matches("events.a.b", "events.>")
    assert matches("events.a.b", "*.*.b")
    assert not matches("events", "events.>")
    assert not matches("events.*", "events.a")
    assert matches("events.*", "events.*")
