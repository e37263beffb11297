"""``POST /v1/tickets``."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from ultraflash.server.keys.gate import caller_of
from ultraflash.server.keys.tickets import Tickets


class CreateTicket(BaseModel):
    """What a ticket is to open: ``/v1/videos/ID/content`` or ``/v1/videos/ID/events``."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(max_length=256, examples=["/v1/videos/video_0123456789abcdef01234567/content"])


class TicketBody(BaseModel):
    """An address that needs no key until ``expires_at``, Unix time in seconds."""

    url: str
    path: str
    expires_at: int


def ticket_routes(tickets: Tickets) -> APIRouter:
    """The one route."""
    router = APIRouter(tags=["tickets"])

    @router.post("/v1/tickets")
    async def create(wish: CreateTicket, request: Request) -> TicketBody:
        """An address for a video element or a download, which cannot send a key."""
        text, ticket = tickets.issue(wish.path, caller_of(request))
        return TicketBody(
            url=f"{ticket.path}?ticket={text}", path=ticket.path, expires_at=int(ticket.expires_at)
        )

    return router
