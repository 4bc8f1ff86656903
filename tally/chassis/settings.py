"""Configuration: it enters once, from `TALLY_…` variables, as a frozen struct that is valid or isn't there.

A service declares its settings as a subclass of `ServiceSettings`; the field `request_deadline_s` is read
from `TALLY_REQUEST_DEADLINE_S`. `load` either returns the struct or raises one `SettingsError` that lists
everything that is wrong, each by the variable's full name, so that an operator corrects it all in one go.

Bounds and the describing sentence stand in the field's `msgspec.Meta`, so the check and the documentation
cannot disagree. An empty variable counts as not set (that is how Compose and Helm spell "nothing").
A secret (`SECRET`) is never in a repr, a log line or an error message.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

PREFIX: Final = "TALLY_"
_PORT_MAX: Final = 65535
ADMIN_OFFSET: Final = 1000

# What `Meta(extra=…)` may say of a setting: show its value nowhere; it names a file that must be readable; and by
# "check" a function that raises ValueError, half a sentence, for a value that makes no sense.
SECRET: Final[dict[str, Any]] = {"secret": True}
READABLE_FILE: Final[dict[str, Any]] = {"readable_file": True}

# Compared without the prefix; high enough that AUTHOR_URL is not taken for another service's DATABASE_URL.
_MISSPELLING_CUTOFF: Final = 0.85


class SettingsError(Exception):
    """Every bad, missing or misspelt variable: a sentence each in `sentences`, a line each in `str()`."""

    def __init__(self, sentences: Iterable[str]) -> None:
        self.sentences = tuple(sentences)
        super().__init__("\n".join(self.sentences))


class SettingDoc(Struct, frozen=True):
    """One row of the settings' documentation; `default` is None where the variable must be set."""

    variable: str
    type: str
    default: str | None
    description: str


class ServiceSettings(Struct, frozen=True, kw_only=True):
    """What every service is configured by; a service adds its own fields and gives `port` its default."""

    host: Annotated[str, Meta(min_length=1, description="The address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=_PORT_MAX, description="The public port; 0 takes any free one.")]
    admin_port: Annotated[
        int,
        Meta(
            ge=0,
            le=_PORT_MAX,
            description="The port of metrics and health checks; 0 means the public port + 1000.",
        ),
    ] = 0
    log_format: Annotated[
        Literal["auto", "json", "pretty"],
        Meta(description="JSON lines, or coloured text; auto is pretty on a terminal and JSON elsewhere."),
    ] = "auto"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="The least severe level that is logged."),
    ] = "info"
    access_log: Annotated[
        Literal["errors", "all"], Meta(description="Log a line for requests that fail, or for all of them.")
    ] = "errors"
    tls_cert_file: Annotated[
        str | None,
        Meta(description="The certificate chain (PEM) to serve TLS with; needs the key.", extra=READABLE_FILE),
    ] = None
    tls_key_file: Annotated[
        str | None, Meta(description="The private key (PEM) of the certificate.", extra=READABLE_FILE)
    ] = None
    tls_ca_file: Annotated[
        str | None,
        Meta(
            description="The authorities (PEM) that other services' certificates are checked by.",
            extra=READABLE_FILE,
        ),
    ] = None
    request_deadline_s: Annotated[
        float,
        Meta(gt=0, le=60, description="Seconds until a request is answered, if its caller gave no deadline."),
    ] = 2.0
    shutdown_grace_s: Annotated[
        float,
        Meta(ge=0, le=600, description="Seconds that requests in flight are given to finish at a stop."),
    ] = 10.0
    body_max_bytes: Annotated[
        int, Meta(ge=1024, le=67_108_864, description="The largest request body that is read, in bytes.")
    ] = 1_048_576

    def __post_init__(self) -> None:
        if self.admin_port == 0 and self.port != 0:
            msgspec.structs.force_setattr(self, "admin_port", self.port + ADMIN_OFFSET)

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> Iterator[str]:
        """Sentences on fields that are valid alone but not together. `values` lacks the fields that are bad.

        A subclass with more to say yields from `super().conflicts(values)` first.
        """
        if bool(values.get("tls_cert_file")) != bool(values.get("tls_key_file")):
            yield f"{PREFIX}TLS_CERT_FILE and {PREFIX}TLS_KEY_FILE go together: set both, or neither."
        port, admin_port = values.get("port", 0), values.get("admin_port", 0)
        if port > _PORT_MAX - ADMIN_OFFSET and admin_port == 0:
            yield f"{PREFIX}ADMIN_PORT must be set: {PREFIX}PORT + {ADMIN_OFFSET} is above {_PORT_MAX}."
        if port == admin_port != 0:
            yield f"{PREFIX}ADMIN_PORT must differ from {PREFIX}PORT, and both are {port}."

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in redacted(self).items())
        return f"{type(self).__name__}({shown})"

    __str__ = __repr__


S = TypeVar("S", bound=Struct)


def load(cls: type[S], environ: Mapping[str, str], *, elsewhere: Collection[str] = ()) -> S:
    """The settings that `environ` holds.

    `elsewhere` names variables of others who share this environment: they are no misspellings.
    """
    fields = {variable(field.name): field for field in msgspec.structs.fields(cls)}
    values: dict[str, Any] = {}
    sentences: list[str] = []
    for name, field in fields.items():
        text = environ.get(name, "")
        if text == "":
            if field.required:
                sentences.append(f"{name} is not set; expected {_expected(field.type)}.")
            elif field.default is not msgspec.NODEFAULT:
                values[field.name] = field.default
            continue
        try:
            values[field.name] = _parse(text, field.type)
        except ValueError as error:
            sentences.append(f"{name} {error}.")
    if issubclass(cls, ServiceSettings):
        sentences += cls.conflicts(values)
    sentences += _misspellings(environ, fields.keys(), elsewhere)
    if sentences:
        raise SettingsError(sentences)
    return cls(**values)


def part(cls: type[Struct], names: Collection[str]) -> type[Struct]:
    """These settings of `cls`, as far as it has them, and no others: for who needs no more."""
    fields = [field for field in msgspec.structs.fields(cls) if field.name in names]
    wanted: list[Any] = [
        (field.name, field.type) if field.required else (field.name, field.type, field.default) for field in fields
    ]
    return msgspec.defstruct(f"PartOf{cls.__name__}", wanted, frozen=True, kw_only=True)


def variable(field: str) -> str:
    """The environment variable that a field is read from."""
    return PREFIX + field.upper()


def describe(cls: type[Struct]) -> list[SettingDoc]:
    """One row per setting, in the order of declaration, for the documentation and its test."""
    return [
        SettingDoc(variable(field.name), _expected(field.type), _default(field), _description(field.type))
        for field in msgspec.structs.fields(cls)
    ]


def redacted(settings: Struct) -> dict[str, Any]:
    """The settings by field name, as they may be logged: a secret that is set reads "***"."""
    values = {field.name: (getattr(settings, field.name), field.type) for field in msgspec.structs.fields(settings)}
    return {name: "***" if value and _says(hint, "secret") else value for name, (value, hint) in values.items()}


def _parse(text: str, hint: Any) -> Any:
    """The value; ValueError says in half a sentence what is wrong with it."""
    try:
        value = msgspec.convert(text, hint, strict=False)
    except msgspec.ValidationError as error:
        got = "" if _says(hint, "secret") else f", got {_short(text)}"
        raise ValueError(f"must be {_expected(hint)}{got}") from error
    if _says(hint, "readable_file"):
        _check_readable(value)
    for meta in _metas(hint):
        if check := (meta.extra or {}).get("check"):
            check(value)
    return value


def _check_readable(path: str) -> None:
    try:
        with Path(path).open("rb") as file:
            file.read(1)
    except OSError as error:
        raise ValueError(f"names a file that cannot be read: {path} ({error.strerror})") from error


def _misspellings(environ: Mapping[str, str], known: Collection[str], elsewhere: Collection[str]) -> Iterator[str]:
    bare = [name.removeprefix(PREFIX) for name in known]
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in known or name in elsewhere:
            continue
        if near := difflib.get_close_matches(name.removeprefix(PREFIX), bare, n=1, cutoff=_MISSPELLING_CUTOFF):
            yield f"{name} is not a setting; did you mean {PREFIX}{near[0]}?"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _metas(hint: Any) -> list[Meta]:
    """What is said of the type, whether `Annotated[int | None, …]` or `Annotated[int, …] | None`."""
    if get_origin(hint) in (Union, types.UnionType):
        return [meta for arm in get_args(hint) for meta in _metas(arm)]
    return [meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, Meta)]


def _base(hint: Any) -> Any:
    """The type without what is said of it, and without "or None"."""
    if get_origin(hint) is Annotated:
        return _base(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return _base(next(arm for arm in get_args(hint) if arm is not type(None)))
    return hint


def _says(hint: Any, key: str) -> bool:
    return any((meta.extra or {}).get(key) for meta in _metas(hint))


def _description(hint: Any) -> str:
    return next((meta.description for meta in _metas(hint) if meta.description), "")


def _default(field: msgspec.structs.FieldInfo) -> str | None:
    if field.required:
        return None
    return "" if field.default in (None, msgspec.NODEFAULT) else str(field.default)


_WORDS: Final = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _expected(hint: Any) -> str:
    """In words, what a value must be: "a whole number from 0 to 65535"."""
    base = _base(hint)
    if _says(hint, "readable_file"):
        return "the path of a readable file"
    if get_origin(base) is Literal:
        *others, last = (str(choice) for choice in get_args(base))
        return f"{', '.join(others)} or {last}" if others else last
    return " ".join([_WORDS.get(base, "a valid value"), *(bound for meta in _metas(hint) for bound in _bounds(meta))])


def _bounds(meta: Meta) -> Iterator[str]:
    if meta.ge is not None and meta.le is not None:
        yield f"from {meta.ge} to {meta.le}"
    else:
        if meta.ge is not None:
            yield f"of at least {meta.ge}"
        if meta.gt is not None:
            yield f"above {meta.gt}"
        if meta.le is not None:
            yield f"up to {meta.le}"
    if meta.lt is not None:
        yield f"below {meta.lt}"
    if meta.pattern is not None:
        yield f"matching {meta.pattern}"


__all__ = [
    "PREFIX",
    "READABLE_FILE",
    "SECRET",
    "ServiceSettings",
    "SettingDoc",
    "SettingsError",
    "describe",
    "load",
    "part",
    "redacted",
    "variable",
]
