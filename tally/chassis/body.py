"""A request's body, from bytes to a struct; or a Problem that names what is wrong with it.

Bodies are JSON whatever the Content-Type says, because plain `curl -d` must work. What arrives is hostile
until it is a struct: it is bounded in bytes while it is read and in depth when it is parsed, has no key
twice, and what would not survive PostgreSQL (NUL, a lone surrogate, a time outside the calendar) is refused
by the field's name. Fields that the struct does not have are ignored, whatever they hold.

Assumes that string fields which must not be blank say so by `Meta(pattern=VISIBLE)`, and other strings
`Meta(pattern=NO_NUL)`, so that the OpenAPI document tells it too. Assumes that integers have bounds.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct
from starlette.requests import Request

from tally.chassis.problems import FieldError, Problem

BODY_MAX_BYTES: Final = 1_048_576
DEPTH_MAX: Final = 32
# Counted by commas and brackets, wherever they stand. What is parsed in Python stops the event loop meanwhile.
VALUES_MAX: Final = 20_000

# JSON Schema patterns that mean the same to Python, to ECMAScript and to Rust: no `\s`, whose members differ.
NO_NUL: Final = r"^[^\u0000]*$"
# Blanks and control characters.
_INVISIBLE: Final = r"\u0000-\u0020\u007f-\u00a0\u1680\u2000-\u200f\u2028-\u202f\u205f-\u2064\u3000\ufeff"
MAIL_ADDRESS: Final = rf"^[^@{_INVISIBLE}]+@[^@{_INVISIBLE}]+$"
VISIBLE: Final = rf"^[^\u0000]*[^{_INVISIBLE}][^\u0000]*$"

S = TypeVar("S", bound=Struct)


async def json_body(request: Request, shape: type[S], *, max_bytes: int | None = None) -> S:
    """The body as a `shape`; a Problem names what is wrong with it."""
    return parse_body(await read_body(request, max_bytes=max_bytes), shape)


async def read_body(request: Request, *, max_bytes: int | None = None) -> bytes:
    """The body; a Problem as soon as it is known to exceed `max_bytes` (by default the service's setting).

    What is left unread is not our memory: the server discards it after the answer.
    """
    most = _body_max_bytes(request) if max_bytes is None else max_bytes
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > most):
        raise _too_large(most)
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise _too_large(most)
        chunks.append(chunk)
    return b"".join(chunks)


def parse_body(raw: bytes, shape: type[S]) -> S:
    """`raw` as a `shape`, or one Problem that names every bad field."""
    document = _parse(raw, shape)
    fields = _fields(shape)
    flaws = {name: wrong for name in fields if name in document and (wrong := flaw(document[name]))}
    if not flaws:
        try:
            return _in_calendar(msgspec.convert(document, shape))
        except (msgspec.ValidationError, OverflowError) as error:
            # It names one field. A caller wants to hear of all of them.
            raise _refusal(document, fields, flaws, str(error)) from error
    raise _refusal(document, fields, flaws)


def _body_max_bytes(request: Request) -> int:
    settings = getattr(request.app.state, "settings", None) if "app" in request.scope else None
    most: int = getattr(settings, "body_max_bytes", BODY_MAX_BYTES)
    return most


def _too_large(most: int) -> Problem:
    return Problem("body-too-large", f"The body is larger than {most} bytes.")


@cache
def _fields(shape: type[Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.encode_name: field for field in msgspec.structs.fields(shape)}


def _parse(raw: bytes, shape: type[Struct]) -> dict[str, Any]:
    """The JSON object that `raw` is. By json, since msgspec can't say which field has a lone surrogate."""
    try:
        text = raw.decode("utf-8")
        if not text.strip():
            raise Problem("not-json", f"The body is empty; send {_wanted(shape)}.")
        brackets = text.count("{") + text.count("[")
        if brackets + text.count(",") > VALUES_MAX:
            raise Problem("body-too-large", f"The body holds more than {VALUES_MAX} values.")
        document = _decode(text)
    except UnicodeDecodeError as error:
        raise Problem(
            "not-json", f"The body is not UTF-8: byte {error.start + 1} is not part of a character."
        ) from error
    except json.JSONDecodeError as error:
        # (Some of Python's sentences end with "at" already.)
        what = f"{error.msg.removesuffix(' at')} at line {error.lineno} column {error.colno}"
        raise Problem("not-json", f"The body is not JSON: {what}; send {_wanted(shape)}.") from error
    except RecursionError as error:
        raise _too_deep() from error
    # A bound that needs no walk: most bodies do not have as many brackets in all.
    if brackets > DEPTH_MAX and _nested_deeper(document, DEPTH_MAX):
        raise _too_deep()
    if not isinstance(document, dict):
        raise Problem("not-an-object", f"The body is JSON, but no object; send {_wanted(shape)}.")
    return document


def _wanted(shape: type[Struct]) -> str:
    required = [f'"{name}"' for name, field in _fields(shape).items() if field.required]
    return f"a JSON object with {', '.join(required)}" if required else "a JSON object"


def _too_deep() -> Problem:
    return Problem("body-too-deep", f"The body is nested more than {DEPTH_MAX} levels deep.")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Which of two equal keys counts differs between parsers, so nobody downstream shall have to choose."""
    members = dict(pairs)
    if len(members) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = _printable(next(key for key, count in counts.items() if count > 1))
        raise Problem("invalid-field", f'The field "{twice}" stands more than once in one object.', field=twice)
    return members


def _no_constant(name: str) -> Any:
    raise Problem("not-json", f"The body is not JSON: it holds {name}, which is no JSON number.")


_DIGITS_MAX: Final = 40
_HUGE: Final = 10**40


def _integer(text: str) -> int:
    """The integer; of too many digits (which take quadratic time) another one that is out of any bound."""
    if len(text) <= _DIGITS_MAX:
        return int(text)
    return -_HUGE if text.startswith("-") else _HUGE


def _number(text: str) -> float | int:
    """The number; 2.0 is the integer 2, as JSON Schema has it."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


_decode: Final = json.JSONDecoder(
    object_pairs_hook=_without_repetition,
    parse_constant=_no_constant,
    parse_int=_integer,
    parse_float=_number,
).decode


def _nested_deeper(document: Any, levels: int) -> bool:
    """Whether containers are nested more than `levels` deep. Level by level, without recursion."""
    level = _containers([document])
    for _ in range(levels):
        level = [child for parent in level for child in _containers(parent)]
        if not level:
            return False
    return True


def _containers(parent: Any) -> list[Any]:
    children = parent.values() if isinstance(parent, dict) else parent
    return [child for child in children if isinstance(child, dict | list)]


def flaw(value: Any) -> str | None:
    """What keeps a value from being stored although JSON allows it, as "holds …"; None if nothing does."""
    if isinstance(value, str):
        if "\0" in value:
            return "holds a NUL character"
        return None if value.isascii() or _encodable(value) else "holds half of a surrogate pair"
    if isinstance(value, float):
        return None if math.isfinite(value) else "is too large a number"
    if isinstance(value, dict):
        return next((wrong for pair in value.items() for part in pair if (wrong := flaw(part))), None)
    if isinstance(value, list):
        return next((wrong for item in value if (wrong := flaw(item))), None)
    return None


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _in_calendar(body: S) -> S:
    """`body`; OverflowError if it holds a time that PostgreSQL could not give back."""
    for name in body.__struct_fields__:
        check_time(getattr(body, name))
    return body


# What asyncpg takes for -infinity and infinity.
_ENDS_OF_TIME: Final = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


def check_time(value: Any) -> None:
    """OverflowError where it is a time that lies outside the years 1 to 9999 when told in UTC."""
    if isinstance(value, datetime) and value.tzinfo is not None and value.astimezone(UTC) in _ENDS_OF_TIME:
        raise OverflowError


def _field_problems(
    document: dict[str, Any], fields: Mapping[str, msgspec.structs.FieldInfo], flaws: Mapping[str, str]
) -> Iterator[tuple[str, FieldError]]:
    """(code, error) for each field that is wrong, in the order of declaration."""
    for name, field in fields.items():
        if name not in document:
            if field.required:
                yield "missing-field", FieldError(name, "is required")
        elif name in flaws:
            yield "invalid-field", FieldError(name, flaws[name])
        else:
            try:
                check_time(msgspec.convert(document[name], field.type))
            except msgspec.ValidationError as error:
                what, _, path = str(error).partition(" - at `$")
                yield "invalid-field", FieldError(name + path.rstrip("`"), phrase(what))
            except OverflowError:
                yield "invalid-field", FieldError(name, "is outside the years 1 to 9999 (UTC)")


def _refusal(
    document: dict[str, Any],
    fields: Mapping[str, msgspec.structs.FieldInfo],
    flaws: Mapping[str, str],
    whole: str = "",
) -> Problem:
    """One Problem for all bad fields: its code and field are those of the first."""
    problems = list(_field_problems(document, fields, flaws))
    if not problems:  # a rule of the struct as a whole, from its __post_init__
        return Problem("invalid-field", f"The fields do not fit together: {whole}.")
    code, first = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return Problem(
        code,
        f'The field "{first.field}" {first.detail}{more}.',
        field=first.field,
        errors=[error for _, error in problems],
    )


_PATTERNS: Final = {
    NO_NUL: "holds a NUL character",
    MAIL_ADDRESS: "must be an address such as ada@example.org",
    VISIBLE: "must hold a visible character",
}
_WORDS: Final = {
    "array": "an array",
    "bool": "true or false",
    "datetime": "a time",
    "float": "a number",
    "int": "an integer",
    "null": "null",
    "object": "an object",
    "str": "a string",
    "uuid": "a UUID",
}


def phrase(message: str) -> str:
    """msgspec's message as a predicate: "Expected `int`, got `str`" is "must be an integer, not a string"."""
    if match := re.search(r"matching regex '(.*)'$", message, re.DOTALL):
        pattern = match[1].replace("\\\\", "\\")
        return _PATTERNS.get(pattern, f"must match {pattern}")

    def words(match: re.Match[str]) -> str:
        return " or ".join(_WORDS.get(name, name) for name in match[1].split(" | "))

    plain = re.sub("`([^`]*)`", words, message)
    if plain.startswith("Expected "):
        return "must be " + plain.removeprefix("Expected ").replace(", got ", ", not ")
    return f"is refused: {plain}"


def _printable(name: str) -> str:
    """A key that a client made up, short enough and encodable."""
    return name.encode("ascii", "backslashreplace").decode("ascii").replace("\0", "\\x00")[:64]
