"""Connect to a NATS server, and say in words what it refuses."""

from __future__ import annotations

import asyncio
import json
import os
import random
import ssl
from typing import TYPE_CHECKING, Any, Final, NotRequired, TypedDict, TypeVar

import nats.errors
from nats.aio.client import Client

from mpsr.errors import SinkError
from mpsr.json_reader import from_json
from mpsr.limits import MIB

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nats.aio.msg import Msg

    from mpsr.sinks.nats.address import Target

_CONNECT_TIMEOUT: Final = 3  # seconds for one server; several are tried
_ANSWER_TIMEOUT: Final = 10.0  # seconds: a cluster elects a leader in less
_CLOSE_TIMEOUT: Final = 1.0  # seconds that a server that hangs may hold up an end
_PING_INTERVAL: Final = 20  # seconds: a peer that is gone without a word is found in three
_PENDING: Final = 8 * 1024 * 1024  # bytes that wait to be written: two batches
_LARGEST_ANSWER: Final = 128 * MIB  # bytes: a message of 64 MiB, the most that a server takes
_NO_RESPONDERS: Final = "503"

# https://github.com/nats-io/nats-server/blob/main/server/errors.json
WRONG_LAST_SEQUENCE: Final = frozenset({10071, 10164})
_NO_MESSAGE: Final = 10037
NO_STREAM: Final = 10059
_WORDS: Final = {
    10039: "JetStream is not enabled for this account",
    10076: "JetStream is not enabled on this server",
    10047: "the servers have not the room that it needs",
    10023: "the servers have not the room that it needs",
    10028: "the server's storage is used up",
    10002: "the account's storage is used up",
    10122: "the stream has its greatest size, and refuses new messages (discard: new)",
    10077: "the stream is full, and refuses new messages (discard: new)",
    10054: "a message is larger than the stream's max_msg_size",
    10060: "the subject belongs to another stream",
    10174: "it does not allow atomic batches: set allow_atomic in its configuration",
    10008: "the cluster has no leader now",
    10009: "the cluster has no quorum now",
    10074: "there are not so many servers: choose fewer replicas",
}


T = TypeVar("T")


class _Error(TypedDict):
    err_code: NotRequired[int]
    description: NotRequired[str]


class _Failed(TypedDict):
    """An answer of JetStream, as far as it may be an error."""

    error: NotRequired[_Error]


class Config(TypedDict):
    """A stream's configuration."""

    subjects: NotRequired[list[str] | None]
    allow_atomic: NotRequired[bool]
    num_replicas: NotRequired[int]


class _State(TypedDict):
    first_seq: int


class StreamInfo(TypedDict):
    """Answer to STREAM.INFO and STREAM.CREATE."""

    config: Config
    state: _State


class Found(TypedDict):
    """A message of a stream."""

    seq: int
    hdrs: NotRequired[str]


class _Message(TypedDict):
    message: Found


class Published(TypedDict):
    """Acknowledgement of a message."""

    seq: int


class Refused(SinkError):
    """A server has refused a request; ``code`` is JetStream's number for the reason."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class Connection:
    """One connection to one of the servers; it is never made again by itself.

    So what was sent through it is void once it is lost, and nobody has to find out what of that
    was sent again.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        domain = target.options.get("domain")
        self._api = f"$JS.{domain}.API" if domain else "$JS.API"
        self.client: Client = Client()
        self._lost: asyncio.Future[str] | None = None
        self._connecting = False
        self._tried = False

    async def open(self) -> None:
        """Connect to any of the servers."""
        self._lost = asyncio.get_running_loop().create_future()
        failures: list[str] = []
        self._connecting = True
        for server in random.sample(self._target.servers, len(self._target.servers)):
            try:
                await self._connect(server)
            except (TimeoutError, OSError, nats.errors.Error) as exc:
                why = self._in_words(exc)
                if why not in failures:
                    failures.append(f"{server}: {why}")
            else:
                self._connecting = False
                return
        raise SinkError("; ".join(failures))

    async def _connect(self, server: str) -> None:
        given, target = self._target.options, self._target
        context = _tls(given) if self._wants_tls else None
        more: dict[str, Any] = {} if context is None else {"tls": context}
        if "inbox" in given:
            more["inbox_prefix"] = given["inbox"]
        for name, argument in (("creds", "user_credentials"), ("nkey", "nkeys_seed")):
            if name in given:
                _check_readable(given[name])
                more[argument] = given[name]
        self.client = Client()
        self._tried = True
        await asyncio.wait_for(
            self.client.connect(
                f"{'tls' if self._wants_tls else 'nats'}://{server}",
                name="mpsr",
                allow_reconnect=False,
                connect_timeout=_CONNECT_TIMEOUT,
                ping_interval=_PING_INTERVAL,
                pending_size=_PENDING,
                error_cb=self._on_error,
                closed_cb=self._on_closed,
                user=target.user,
                password=self._password if target.password is not None else None,
                **more,
            ),
            2 * _CONNECT_TIMEOUT,
        )
        # The client goes on without TLS where the server does not ask for it.
        if self._wants_tls and not self.client._server_info.get("tls_required"):  # noqa: SLF001 - it has no other word
            await self.client.close()
            raise nats.errors.SecureConnWantedError

    def _password(self) -> str:
        """Return the password, which the client asks for when it writes CONNECT.

        By then, it has TLS if the server requires it. Otherwise the client would send the password
        as plain text. With ``creds=`` and ``nkey=``, it sends a signature and no secret.
        """
        if self._wants_tls and not self.client._server_info.get("tls_required"):  # noqa: SLF001 - it has no other word
            raise nats.errors.SecureConnWantedError
        return self._target.password or ""

    @property
    def _wants_tls(self) -> bool:
        given = self._target.options
        return bool(given.get("tls") or "tls-ca" in given or "tls-cert" in given)

    async def close(self) -> None:
        """Close the connection; what is under way is void."""
        if not self._tried:
            return  # the client cannot be closed before
        try:
            await asyncio.wait_for(self.client.close(), _CLOSE_TIMEOUT)
        except (TimeoutError, OSError, nats.errors.Error):
            pass  # the end of the loop ends it

    # -- asking ---------------------------------------------------------------------------------

    async def request(
        self, subject: str, data: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Msg:
        """Return the answer of a server; raise SinkError if none comes."""
        if self._lost is None or self._lost.done():
            raise SinkError(self._gone)
        asking = asyncio.ensure_future(
            self.client.request(
                subject, data, _ANSWER_TIMEOUT, headers=dict(headers) if headers else None
            )
        )
        waiting: set[asyncio.Future[Any]] = {asking, self._lost}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not asking.done():
            asking.cancel()
            raise SinkError(self._gone)
        try:
            return asking.result()
        except nats.errors.NoRespondersError:
            raise
        except (OSError, nats.errors.Error) as exc:
            raise SinkError(f"{self._where}: {self._in_words(exc)}") from exc

    async def stream_info(self, call: str, content: object = None) -> StreamInfo:
        """Return what JetStream answers to a call about a stream."""
        return await self._call(call, content, StreamInfo)

    async def _call(self, call: str, content: object, shape: type[T]) -> T:
        data = b"" if content is None else json.dumps(content).encode()
        try:
            answer = await self.request(f"{self._api}.{call}", data)
        except nats.errors.NoRespondersError:
            error = f"{self._where}: JetStream is not enabled, or has no leader now"
            raise SinkError(error) from None
        return self.checked(answer.data, shape)

    async def last_message(self, subject: str) -> Found | None:
        """Return the last message of a subject, as its stream's leader has it; None without one."""
        return await self._message({"last_by_subj": subject})

    async def message(self, seq: int) -> Found | None:
        """Return the message of a number; None where it is gone."""
        return await self._message({"seq": seq})

    async def _message(self, which: dict[str, Any]) -> Found | None:
        try:
            answer = await self._call(f"STREAM.MSG.GET.{self._target.stream}", which, _Message)
        except Refused as exc:
            if exc.code == _NO_MESSAGE:
                return None
            raise
        return answer["message"]

    def checked(self, data: bytes, shape: type[T]) -> T:
        """Return the object that an answer is; raise Refused if it is an error."""
        try:
            failed = from_json(data, _Failed, most=_LARGEST_ANSWER).get("error")
            if failed:
                code = failed.get("err_code", 0)
                why = _WORDS.get(code) or failed.get("description") or f"error {code}"
                raise Refused(f"stream {self._target.stream}: {why}", code)
            return from_json(data, shape, most=_LARGEST_ANSWER)
        except ValueError as exc:
            raise SinkError(f"{self._where}: an answer is not as expected: {exc}") from exc

    # -- telling --------------------------------------------------------------------------------

    @property
    def _where(self) -> str:
        url = self.client.connected_url
        return str(self._target) if url is None else f"nats://{url.hostname}:{url.port}"

    @property
    def _gone(self) -> str:
        why = self._lost.result() if self._lost is not None and self._lost.done() else ""
        return f"{self._target}: {why or 'it is not connected'}"

    async def _on_error(self, exc: Exception) -> None:
        if self._connecting:
            raise exc  # or the client would try for minutes
        if "permissions violation" in str(exc).lower():
            self._lose(self._in_words(exc))

    async def _on_closed(self) -> None:
        if self._connecting:
            return
        why = self.client.last_error
        self._lose("the connection was lost" if why is None else self._in_words(why))

    def _lose(self, why: str) -> None:
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(why)

    def _in_words(self, exc: BaseException) -> str:  # noqa: PLR0911 - a table
        match exc:
            case ssl.SSLCertVerificationError():
                return f"its certificate is not trusted: {exc.verify_message}; see tls-ca="
            case ssl.SSLError():
                return f"TLS fails: {exc.reason or exc}"
            case nats.errors.SecureConnWantedError():
                return "it has no TLS, which was asked for"
            case nats.errors.ConnectionClosedError() | nats.errors.UnexpectedEOF():
                return "the connection was lost"
            case asyncio.TimeoutError():
                return "no answer in time"
            case OSError() if exc.strerror:
                return exc.strerror
        text = str(exc).removeprefix("nats: ").strip("'")
        if isinstance(exc, nats.errors.AuthorizationError) or "authorization" in text.lower():
            return "it refuses who we are: see the user in the URL, creds= and nkey="
        if "certificate required" in text.lower():
            return "it wants a certificate: see tls-cert="
        return text or type(exc).__name__


def _check_readable(path: str) -> None:
    if not os.access(path, os.R_OK):
        raise SinkError(f"{path} cannot be read: it is to hold credentials")


def _tls(given: Mapping[str, Any]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=given.get("tls-ca"))
        if "tls-cert" in given:
            context.load_cert_chain(given["tls-cert"], given.get("tls-key"))
    except ssl.SSLError as exc:
        raise SinkError(f"the certificates of tls-ca=, tls-cert= make no sense: {exc}") from exc
    except OSError as exc:
        paths = [given[name] for name in ("tls-ca", "tls-cert", "tls-key") if name in given]
        raise SinkError(f"{' or '.join(paths)} cannot be read: {exc.strerror}") from exc
    return context
