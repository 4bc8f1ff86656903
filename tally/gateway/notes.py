"""Notes on deferred operations that every gateway can read: a bucket of the broker's key-value store.

What stands there of an operation: the attempt that was begun last (before it is begun, so that whoever goes on after
a crash knows what to ask for), what an operator has ordered, and which Idempotency-Key it was made for. A note lives
longer than any operation may wait.

Assumes that whoever raises `StreamUnavailable` here has written the note, or not, or later.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Final, Literal, TypeVar, cast
from uuid import UUID

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig, StorageType
from nats.js.errors import BucketNotFoundError, KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from tally.messaging.stream import Stream, StreamUnavailable

BUCKET: Final = "TALLY_DEFERRED"
_DAY_S: Final = 86_400.0

Order = Literal["retry", "abandon"]
T = TypeVar("T")


class Notes:
    """The bucket."""

    def __init__(self, stream: Stream, *, kept_s: float, replicas: int = 1) -> None:
        self._stream = stream
        self._config = KeyValueConfig(
            bucket=BUCKET, ttl=kept_s + _DAY_S, replicas=replicas, storage=StorageType.FILE, history=1
        )
        self._bucket: tuple[object, KeyValue] | None = None

    async def begin(self, operation: UUID, attempt: UUID) -> None:
        """An attempt is about to be made."""
        await self._on(lambda bucket: bucket.put(f"{operation}.attempt", str(attempt).encode()))

    async def attempt(self, operation: UUID) -> UUID | None:
        """The attempt that was begun last."""
        value, _ = await self._get(f"{operation}.attempt")
        return None if value is None else UUID(value)

    async def give(self, operation: UUID, order: Order) -> None:
        """An operator orders something."""
        await self._on(lambda bucket: bucket.put(f"{operation}.order", order.encode()))

    async def order(self, operation: UUID) -> tuple[Order | None, int]:
        """What was ordered last, and a number by which a new order is told from the same one."""
        value, revision = await self._get(f"{operation}.order")
        return cast("Order | None", value), revision

    async def claim(self, key: str, pair: tuple[UUID, UUID], operation: UUID) -> tuple[UUID, bool]:
        """The operation that the Idempotency-Key stands for, ``operation`` if it is new, and whether it was used for
        the same pair."""
        name = f"key.{sha256(key.encode()).hexdigest()}"
        mine = f"{operation} {pair[0]} {pair[1]}"

        async def create(bucket: KeyValue) -> str:
            try:
                await bucket.create(name, mine.encode())
            except KeyWrongLastSequenceError:
                return ((await bucket.get(name)).value or b"").decode()
            return mine

        held, *holder = (await self._on(create)).split()
        return UUID(held), holder == [str(pair[0]), str(pair[1])]

    async def _get(self, key: str) -> tuple[str | None, int]:
        async def get(bucket: KeyValue) -> tuple[str | None, int]:
            try:
                entry = await bucket.get(key)
            except KeyNotFoundError:
                return None, 0
            return (entry.value or b"").decode(), entry.revision or 0

        return await self._on(get)

    async def _on(self, work: Callable[[KeyValue], Awaitable[T]]) -> T:
        context = await self._stream.jetstream()
        try:
            if self._bucket is None or self._bucket[0] is not context:
                self._bucket = (context, await self._found(context))
            return await work(self._bucket[1])
        except (NatsError, OSError) as error:
            self._bucket = None
            raise StreamUnavailable(str(error) or type(error).__name__) from error

    async def _found(self, context: JetStreamContext) -> KeyValue:
        """The bucket; made if it is not there. One that an operator has changed stays as it is."""
        try:
            return await context.key_value(BUCKET)
        except BucketNotFoundError:
            return await context.create_key_value(self._config)
