"""How much of the queue one API key may use."""

from __future__ import annotations

from sqlalchemy import Connection, Float, cast, func, select

from ultraflash.server.errors import KeyLimitReached, OverLimit
from ultraflash.server.jobs.records import JOBS, WAITING, Order
from ultraflash.server.keys.records import API_KEYS, Caller


def check_key(connection: Connection, caller: Caller, order: Order, retry_after_s: int) -> None:
    """Raises ``KeyLimitReached`` or ``OverLimit``, which say the limit, where a key may not have one more job."""
    if caller.key_id is None:
        return
    limits = caller.limits
    # Requests with one key take turns, or two of them would both find the last place free.
    connection.execute(select(API_KEYS.c.id).where(API_KEYS.c.id == caller.key_id).with_for_update())
    # As floating point from the start: the product does not fit an integer of PostgreSQL.
    pixels = cast(JOBS.c.width, Float) * JOBS.c.height * JOBS.c.fps
    query = select(func.count(), func.coalesce(func.sum(pixels), 0.0)).where(
        JOBS.c.key_id == caller.key_id, JOBS.c.state.in_(WAITING)
    )
    count, in_use = connection.execute(query).one()
    if limits.max_jobs is not None and count >= limits.max_jobs:
        raise KeyLimitReached(
            f"This key has {count} videos that are not done, and {limits.max_jobs} is its limit; try again later.",
            param="max_jobs",
            retry_after_s=retry_after_s,
        )
    wanted, most = order.width * order.height * order.fps, limits.max_pixels_per_s
    if most is not None and wanted > most:
        raise OverLimit(
            f"This video would have {wanted} pixels a second, and {most} is this key's limit; choose a smaller size or "
            "a lower fps.",
            param="max_pixels_per_s",
        )
    if most is not None and wanted + in_use > most:
        raise KeyLimitReached(
            f"This video would have {wanted} pixels a second beside {in_use:.0f} of this key's others in the queue, "
            f"and {most} is its limit; try again later.",
            param="max_pixels_per_s",
            retry_after_s=retry_after_s,
        )
