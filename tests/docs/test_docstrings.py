"""Every public name, argument and attribute is described, to ``help()`` and the reference."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from typing import TYPE_CHECKING, Any, Final, is_typeddict

import pytest

import mpsr
import mpsr.observe
from tests.docs.pages import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

API: Final = ROOT / "docs" / "reference" / "api"
REFERENCE: Final = "\n".join(page.read_text() for page in sorted(API.glob("*.md")))
# Users get them ready-made: their constructors are not public, and the reference shows none.
MADE_FOR_YOU: Final = (mpsr.Batch, mpsr.MpsrError, mpsr.observe.Tap)
INTERNAL: Final = {"aio", "cli", "engine", "front", "store", "sync", "system", "wire"}  # packages
ITS_NAMES: Final = {
    "amounts",
    "arguments",
    "batch",
    "errors",
    "forwarding",
    "json_format",
    "names",
    "json_reader",
    "limits",
    "queues",
    "stats",
    "syslog_format",
}  # in mpsr


def public_modules() -> Iterator[str]:
    """Name the modules that users import by themselves, such as ``mpsr.systemd``."""
    for found in pkgutil.iter_modules(mpsr.__path__):
        if not found.name.startswith("_") and found.name not in INTERNAL | ITS_NAMES:
            yield found.name


def public_of(module: Any) -> Iterator[tuple[str, Any]]:
    """Return the names that a module defines for its users."""
    for name in getattr(module, "__all__", vars(module)):
        value = getattr(module, name)
        own = getattr(value, "__module__", None) == module.__name__
        if not name.startswith("_") and callable(value) and own:
            yield f"{module.__name__}.{name}", value


def everything_public() -> list[tuple[str, Any]]:
    """Return each public name, and what it stands for."""
    found = [(f"mpsr.{name}", getattr(mpsr, name)) for name in mpsr.__all__]
    for name in public_modules():
        found += public_of(importlib.import_module(f"mpsr.{name}"))
    return [(name, value) for name, value in found if callable(value)]


def callables() -> Iterator[tuple[str, Any, list[str]]]:
    """Return each public callable, and the docstrings that may describe its arguments."""
    for name, value in everything_public():
        if not inspect.isclass(value):
            yield name, value, [inspect.getdoc(value) or ""]
            continue
        docs = [base.__doc__ or "" for base in value.__mro__ if _is_ours(base)]
        if is_typeddict(value):
            continue
        if not issubclass(value, MADE_FOR_YOU):
            yield name, value, [*docs, value.__init__.__doc__ or ""]
        for attribute, _ in inspect.getmembers(value):
            home = _home(value, attribute)
            if attribute.startswith("_") or not inspect.isroutine(vars(home).get(attribute)):
                continue
            if _is_ours(home):
                method = getattr(value, attribute)
                yield f"{name}.{attribute}", method, [inspect.getdoc(method) or ""]


def _is_ours(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "mpsr"


def _home(kind: type, attribute: str) -> type:
    return next((base for base in kind.__mro__ if attribute in vars(base)), kind)


def described(argument: str, docs: list[str]) -> bool:
    """Tell whether a docstring has a paragraph of this argument, or, of an attribute, its name."""
    return any(re.search(rf"^\s*{re.escape(argument)}: \S", doc, re.MULTILINE) for doc in docs)


@pytest.mark.parametrize(
    ("function", "docs"), [pytest.param(*rest, id=name) for name, *rest in callables()]
)
def test_every_argument_is_described(function: Any, docs: list[str]) -> None:
    """A docstring that ``help()`` shows has a line ``argument: what it is``."""
    assert any(docs), "no docstring"
    if is_typeddict(function):  # its keys are its arguments
        assert [key for key in function.__annotations__ if not described(key, docs)] == []
        return
    parameters = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "self" and not parameter.name.startswith("_")
    ]
    assert [name for name in parameters if not described(name, docs)] == []


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(value, id=name)
        for name, value in everything_public()
        if hasattr(value, "_fields")
    ],
)
def test_every_field_is_described(kind: Any) -> None:
    """In the docstring of the class, as text behind a field is nowhere at run time."""
    assert [field for field in kind._fields if not described(field, [kind.__doc__])] == []


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(value, id=name)
        for name, value in everything_public()
        if inspect.isclass(value) and issubclass(value, MADE_FOR_YOU)
    ],
)
def test_every_attribute_of_what_users_get_is_described(kind: type) -> None:
    """What its constructor sets stands under Attributes, there or in the class it comes from."""
    ours = [base for base in kind.__mro__ if _is_ours(base)]
    sources = [
        inspect.getsource(vars(base)["__init__"]) for base in ours if "__init__" in vars(base)
    ]
    attributes = {name for each in sources for name in re.findall(r"self\.([a-z]\w*)\b.* = ", each)}
    docs = [base.__doc__ or "" for base in ours]
    assert [name for name in sorted(attributes) if not described(name, docs)] == []


@pytest.mark.parametrize(
    "kind", [pytest.param(value, id=name) for name, value in everything_public()]
)
def test_every_property_and_method_has_a_docstring(kind: Any) -> None:
    for name, member in inspect.getmembers(kind):
        if not name.startswith("_") and inspect.isclass(kind) and _is_ours(_home(kind, name)):
            raw = vars(_home(kind, name)).get(name)
            if inspect.isroutine(raw) or isinstance(raw, property):
                assert inspect.getdoc(raw), f"{name}: {member}"


@pytest.mark.parametrize("name", [name for name, _ in everything_public()])
def test_reference_has_every_public_name(name: str) -> None:
    module = name.rpartition(".")[0]
    whole_module = rf"automodule:: {module}$" if module != "mpsr" else r"\Z\A"
    directive = rf"auto(class|exception|function):: {re.escape(name)}\b|{whole_module}"
    assert re.search(directive, REFERENCE, re.MULTILINE)
