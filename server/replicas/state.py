"""What a replica says of itself to the front."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

STATE_PATH = "/replica/state"
TAKE_OVER_PATH = "/replica/take-over"
SECRET_HEADER = "x-ultraflash-replica"


class ReplicaState(BaseModel):
    """One moment of a replica.

    Attributes:
        ready: whether streams can be started, as its ``/readyz`` says.
        stage, progress, restarts: of its worker, or what is in the way, as in ``/readyz``.
        sessions: ids of its live sessions, those included that wait for their owners.
        waiting: clients in its queue.
        share: part of its machine's time that its streams need in real time.
        eta_s: until one more stream would begin, 0 for at once; None where that cannot be said.
        job: the video that it works on.
        begun: sessions and videos that it has ever begun, by which one is known that came and went unseen.
        queued: unfinished videos in the database, when it last looked.
        jobs_eta_s: time that this replica alone would need for all of them; None until it has measured its speed.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    ready: bool
    stage: str = ""
    progress: float = 0.0
    restarts: int = 0
    sessions: tuple[str, ...] = ()
    waiting: int = 0
    share: float = 0.0
    eta_s: float | None = 0.0
    job: str | None = None
    begun: int = 0
    queued: int = 0
    jobs_eta_s: float | None = 0.0

    @property
    def idle(self) -> bool:
        """Whether nobody would miss it."""
        return not self.sessions and not self.waiting and self.job is None
