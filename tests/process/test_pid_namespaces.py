"""Messages name processes in other pid namespaces truthfully."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

import mpsr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

OUTSIDE = "a process in another pid namespace, such as a container"
UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc"]


def _is_permitted() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not _is_permitted(), reason="requires unshare --pid")


@contextmanager
def elsewhere(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program as process 1 of a pid namespace of its own, until the block ends."""
    with subprocess.Popen(
        [*UNSHARE, sys.executable, "-c", f"import sys, mpsr\n{program}", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.communicate(timeout=10)


HOLDS = """
with {made}:
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("made", "here"),
    [
        pytest.param("mpsr.Receiver(sys.argv[1])", mpsr.Receiver, id="address"),
        pytest.param(
            "mpsr.Receiver('@' + sys.argv[1])", lambda path: mpsr.Receiver(f"@{path}"), id="name"
        ),
        pytest.param(
            "mpsr.Receiver(sys.argv[1], journal=sys.argv[1] + '.journal')",
            lambda path: mpsr.Receiver(f"{path}.other", journal=f"{path}.journal"),
            id="journal",
        ),
        pytest.param(
            "mpsr.Producer(sys.argv[1], spool=sys.argv[1] + '.spool')",
            lambda path: mpsr.Producer(path, spool=f"{path}.spool"),
            id="spool",
        ),
    ],
)
def test_owner_in_another_namespace_is_not_named_by_a_number_of_it(
    made: str, here: Callable[[Path], object], tmp_path: Path
) -> None:
    """Its process id, which is 1 there, is another process here."""
    path = tmp_path / "test.sock"
    with elsewhere(HOLDS.format(made=made), str(path)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with pytest.raises((mpsr.AddressInUse, mpsr.JournalInUse)) as caught:
            here(path)
    error = caught.value
    assert isinstance(error, mpsr.AddressInUse | mpsr.JournalInUse)
    assert "process 1 " not in str(error)
    if not made.startswith("mpsr.Receiver('@'"):  # there the kernel translates the id
        assert OUTSIDE in str(error)
        assert error.pid is None


TRIES = """
try:
    mpsr.Receiver(sys.argv[1])
except mpsr.AddressInUse as error:
    print(error.pid, error)
"""


@pytest.mark.parametrize("prefix", ["", "@"])
def test_owner_outside_the_namespace_has_no_number_in_it(tmp_path: Path, prefix: str) -> None:
    """The kernel reports process 0, which is no process."""
    address = f"{prefix}{tmp_path / 'test.sock'}"
    with mpsr.Receiver(address), elsewhere(TRIES, address) as process:
        assert process.stdout is not None
        told = process.stdout.readline()
    assert told.startswith("None ")
    assert OUTSIDE in told


SENDS = """
with mpsr.Producer(sys.argv[1]) as producer:
    producer.send(b"message")
"""


def test_refused_peer_in_another_namespace_is_named_by_the_id_that_the_kernel_translates(
    tmp_path: Path,
) -> None:
    """From outside, each process of the namespace has a process id, which is not 1."""
    path = tmp_path / "test.sock"
    with mpsr.Receiver(path) as receiver, elsewhere(SENDS, str(path)):
        batch = receiver.receive_batch(10)
        assert batch.peer.pid not in (None, 0, 1)
        receiver.acknowledge()
