"""Print units by which systemd starts a receiver: ``mpsr systemd``."""

from __future__ import annotations

import os
import re
import shlex
import sys
from typing import TYPE_CHECKING, Final
from zipfile import is_zipfile

import click

from mpsr.cli import types
from mpsr.cli.status import CommandFailed, Status
from mpsr.cli.stdio import Stdout, say
from mpsr.errors import Explanation
from mpsr.system import outputs
from mpsr.system.address import SOCKET_TYPES, absolute, parse_address
from mpsr.system.path_claim import DEFAULT_MODE

if TYPE_CHECKING:
    from mpsr.system.address import Address, SocketType

_HELP: Final = """\
Print a .socket and a .service unit for a receiver at ADDRESS.

\b
Examples:
  mpsr systemd /run/app/events.sock
  mpsr systemd /run/log.sock --type dgram --mode 666 --directory /etc/systemd/system
  mpsr systemd @app --name app -- /usr/bin/python3 /srv/app.py

systemd listens from the start of the machine, and starts the receiver at the first message. The
COMMAND behind -- is what it starts: it receives at systemd:NAME, and says when it is ready, as
mpsr.systemd does. Without one it is mpsr recv, whose output goes to the journal of systemd.
"""

_UNIT_MODE: Final = 0o644  # as of other units: they hold no secrets
# FileDescriptorName= allows no colon; other characters would have to be escaped.
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,200}")
_GROUP: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,30}\$?")
# ListenStream= has no escapes: a control character would end the line, a backslash at its end would
# join it with the next one, and systemd removes white space around a value.
_UNWRITABLE: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]|\\$|^\s|\s$")
_NOT_TEXT: Final = re.compile(r"[\x00-\x1f\x7f\udc80-\udcff]")  # control characters, other bytes
_LISTEN: Final[dict[SocketType, str]] = {
    "stream": "ListenStream",
    "dgram": "ListenDatagram",
    "seqpacket": "ListenSequentialPacket",
}
_HOMES: Final = ("/home/", "/root/", "/run/user/")  # what ProtectHome= hides

_SOCKET: Final = """\
# {name}.socket
[Unit]
Description=Socket of {name}

[Socket]
{listen}={address}
FileDescriptorName={name}
SocketMode={mode:04o}
{group}Backlog=4096
PassCredentials=yes
RemoveOnStop=yes

[Install]
WantedBy=sockets.target
"""

# The numbers of users must be those of the host, for a receiver to know who sends: so there is no
# PrivateUsers=. Only the sockets that systemd passes are needed: so there is no network.
_SERVICE: Final = """\
# {name}.service
[Unit]
Description=Receiver of {name}
Requires={name}.socket
After={name}.socket

[Service]
Type=notify
ExecStart={command}
Restart=on-failure
WatchdogSec=30
TimeoutStopSec=30
DynamicUser=yes
StateDirectory={name}
WorkingDirectory=%S/{name}
UMask=0077
CapabilityBoundingSet=
IPAddressDeny=any
LockPersonality=yes
MemoryDenyWriteExecute=yes
NoNewPrivileges=yes
PrivateDevices=yes
PrivateNetwork=yes
PrivateTmp=yes
ProcSubset=pid
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome={home}
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
RestrictAddressFamilies=AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
"""


@click.command(
    help=_HELP,
    epilog="Exit statuses: see mpsr --help.",
)
@click.argument("address")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--type",
    "kind",
    type=click.Choice(list(SOCKET_TYPES)),
    default="stream",
    help="The type of socket.  [default: stream]",
)
@click.option(
    "--mode",
    type=types.mode,
    metavar="MODE",
    default=f"{DEFAULT_MODE:o}",
    help="The permissions of a path: 660 lets a group send; with 600, root alone.  [default: 600]",
)
@click.option("--group", metavar="NAME", help="The group, by name or number, of a path.")
@click.option(
    "--name", metavar="NAME", help="The name of the units.  [default: as the address is called]"
)
@click.option(
    "--directory",
    metavar="DIR",
    help="Write the two files there, such as /etc/systemd/system, in place of printing them.",
)
def systemd(
    *,
    address: str,
    command: tuple[str, ...],
    kind: SocketType,
    mode: int,
    group: str | None,
    name: str | None,
    directory: str | None,
) -> Status:
    """Run ``mpsr systemd``."""
    where = absolute(parse_address(address))
    if where.kind not in ("path", "abstract"):
        raise click.UsageError(
            Explanation(
                f"systemd cannot listen at {where}",
                "that is a socket which a process has already",
                "pass a path or @name",
            )
        )
    listening = ("@" if where.kind == "abstract" else "") + where.value
    if _UNWRITABLE.search(listening):
        raise click.UsageError(
            Explanation(
                f"a unit cannot hold the address {listening!r}",
                "the address has a control character, bytes that are not UTF-8, white space at an "
                "end, or a backslash at the end",
                "choose another path",
            )
        )
    if group is not None and _GROUP.fullmatch(group) is None:
        raise click.UsageError(
            Explanation(
                f"{group!r} is not the name or number of a group",
                "systemd accepts letters, digits and any of _.-",
                "pass a group of this machine to --group, as listed by getent group",
            )
        )
    name = _name_of(where) if name is None else name
    if _NAME.fullmatch(name) is None:
        why = "a unit's name consists of letters, digits and any of _.-"
        raise click.UsageError(
            Explanation(f"{name!r} cannot name units", why, "choose another --name")
        )
    argv = command or (*_ourselves(), "recv", f"systemd:{name}")
    socket_unit = _SOCKET.format(
        name=name,
        listen=_LISTEN[kind],
        address=_escaped(listening),
        mode=mode,
        group=f"SocketGroup={group}\n" if group is not None else "",
    )
    service_unit = _SERVICE.format(
        name=name, command=" ".join(map(_quoted, argv)), home=_home(argv)
    )
    units = {f"{name}.socket": socket_unit, f"{name}.service": service_unit}
    if directory is None:
        Stdout().write("\n".join(units.values()).encode())
        return Status.OK
    for file in units:
        if os.path.lexists(path := os.path.join(directory, file)):
            error = Explanation(f"cannot write {path}", "it exists", "remove it, or pass --name")
            raise CommandFailed(Status.CONFIGURATION, error)
    for file, text in units.items():
        try:
            unit = outputs.create(os.path.join(directory, file), _UNIT_MODE)
            with os.fdopen(unit, "w", encoding="utf-8") as opened:
                opened.write(text)
        except OSError as exc:
            why, advice = exc.strerror or str(exc), "choose a directory that can be written"
            error = Explanation(f"cannot write {file} in {directory}", why, advice)
            raise CommandFailed(Status.IO, error) from exc
    say(f"wrote {name}.socket and {name}.service; now: systemctl enable --now {name}.socket")
    return Status.OK


def _name_of(address: Address) -> str:
    return os.path.basename(address.value).removesuffix(".sock").removesuffix(".socket")


def _ourselves() -> tuple[str, ...]:
    """Return how this very program is started."""
    if getattr(sys, "frozen", False):  # as by PyInstaller: it is no Python
        return (sys.executable,)
    if is_zipfile(sys.argv[0]):  # a zipapp, of which shiv and pex make one, too
        return (sys.executable, os.path.abspath(sys.argv[0]))
    program = os.path.join(os.path.dirname(sys.executable), "mpsr")
    return (program,) if os.access(program, os.X_OK) else (sys.executable, "-m", "mpsr")


def _home(argv: tuple[str, ...]) -> str:
    """Return how far homes are to be hidden: not where the program is in one of them."""
    used = (*argv, sys.base_prefix, os.path.realpath(sys.executable))
    return "read-only" if any(path.startswith(_HOMES) for path in used) else "yes"


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(word: str) -> str:
    """Quote a word as systemd.service(5) has it."""
    word = _escaped(word).replace("$", "$$")
    if shlex.quote(word) == word:
        return word
    word = word.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + _NOT_TEXT.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", word) + '"'
