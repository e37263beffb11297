"""Who is asking: keys are looked up anew for every request, so that a revoked one is worth nothing at once."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool

from ultraflash.server.errors import Unauthorized
from ultraflash.server.keys.records import ANYBODY, Caller, KeyLimits
from ultraflash.server.keys.store import KeyStore

NO_KEY = (
    "This server wants an API key: send it as `Authorization: Bearer KEY`. Its operator makes keys with "
    "`ultraflash keys create`."
)


class Keyring:
    """The keys of a server while it runs.

    Args:
        store: where they are.
        required: whether a key is needed even where there is none.
        defaults: limits of keys that have none of their own.
    """

    def __init__(self, store: KeyStore, *, required: bool, defaults: KeyLimits) -> None:
        self.store = store
        self._required = required
        self._defaults = defaults

    async def needs_key(self) -> bool:
        """Whether a request needs a key. Once it does, it does for as long as the server runs."""
        if not self._required:
            self._required = await run_in_threadpool(self.store.has_keys)
        return self._required

    async def caller(self, authorization: str | None) -> Caller:
        """Who sends this header. Raises ``Unauthorized``."""
        if not await self.needs_key():
            return ANYBODY
        if authorization is None:
            raise Unauthorized(NO_KEY, param="Authorization")
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized(NO_KEY, param="Authorization")
        return await self.holder(secret.strip())

    async def holder(self, secret: str) -> Caller:
        """Who has this key. Raises ``Unauthorized``."""
        key = await run_in_threadpool(self.store.find, secret)
        if key is None:
            raise Unauthorized(
                "This API key does not exist, has expired or was revoked.", param="Authorization"
            )
        return Caller(key_id=key.id, limits=key.limits.over(self._defaults))
