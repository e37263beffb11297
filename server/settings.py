"""Settings of ``serve`` and ``generate``: defaults, then a TOML file, then the environment, then options."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from ultraflash.models.errors import BadConfig
from ultraflash.server.engine import CASCADE
from ultraflash.server.errors import UnsafeBinding
from ultraflash.server.keys.records import KeyLimits, limit_names
from ultraflash.server.logs import LogFormat
from ultraflash.server.worker.messages import Configure

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def data_home() -> Path:
    """Where programs of this user keep their data."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")


class HttpSettings(BaseModel):
    """Where the server listens and whom it answers.

    Attributes:
        auth: whether requests need an API key: ``required`` always, ``auto`` as soon as there is a key, and wherever
            others reach the server without ``allow_unauthenticated``.
        allowed_origins: origins beside the server's own whose pages may open the stream.
        allowed_hosts: Host names that requests may carry; on loopback only loopback names unless given,
            so that a foreign name that resolves to this machine gets nowhere.
        allow_unauthenticated: let others reach the server although there are no API keys.
        open_metrics: let `/metrics` be read without a key, which it can be then while the database is away, too.
        max_message_bytes: longest message that a client may send, but for a ``session.start`` with an image.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    auth: Literal["auto", "required"] = "auto"
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    allowed_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    allow_unauthenticated: bool = False
    open_metrics: bool = False
    max_message_bytes: int = Field(default=65_536, ge=1024)

    def longest_message(self, max_image_bytes: int) -> int:
        """Bytes of any message, one with a picture of so many bytes in base64 included."""
        return self.max_message_bytes + 4 * (max_image_bytes // 3 + 1)

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return self.host in LOOPBACK

    @property
    def for_others(self) -> bool:
        """Whether others reach it: by its address, or by a name of theirs, which means a proxy in front."""
        return not self.on_loopback or not set(self.allowed_hosts) <= set(LOOPBACK)

    @property
    def key_required(self) -> bool:
        """Whether nobody comes in without a key, even where there is none yet."""
        return self.auth == "required" or (self.for_others and not self.allow_unauthenticated)


class KeySettings(BaseModel):
    """What one API key may use at a time, where ``ultraflash keys create`` has said nothing else; None is no limit.

    Attributes:
        max_sessions: live sessions, of one server.
        max_jobs: videos that are queued or in progress.
        max_pixels_per_s: width x height x fps, of its live sessions together and of its unfinished videos together.
        max_prompt_chars: longest prompt.
        max_body_bytes: longest body of a request.
        check_every_s: how often live sessions are looked through for keys that have been revoked or have expired.
        ticket_s: life of tickets.
        first_file: where `serve` puts the key that it makes at its first start, unless ``http.allow_unauthenticated``.
            Without it none is made.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_sessions: int | None = Field(default=2, ge=0)
    max_jobs: int | None = Field(default=20, ge=0)
    max_pixels_per_s: int | None = Field(default=500_000_000, ge=0)
    max_prompt_chars: int | None = Field(default=4000, ge=1)
    max_body_bytes: int | None = Field(default=16 * 2**20, ge=1024)
    check_every_s: float = Field(default=5.0, gt=0)
    ticket_s: float = Field(default=21_600.0, gt=0)
    first_file: Path | None = None

    @property
    def limits(self) -> KeyLimits:
        """Those that count where a key has none of its own."""
        return KeyLimits(**self.model_dump(include=set(limit_names())))


class StreamSettings(BaseModel):
    """Limits of live streams.

    Attributes:
        max_streams: live streams at a time, however fast the machine is.
        capacity: share of the machine's time that live streams may be promised together, by what frames were measured
            to cost. The rest is for jobs and hitches; above 1 there are more streams, slower than real time. The first
            stream is always accepted.
        max_queued: clients that may wait for a place; further ones are refused with 1013.
        adapt_named_sizes: whether a stream that asked for a size by name may get a smaller one under load, as
            those that asked for ``auto`` do.
        raise_after_s: time for which a larger size must have fitted before a stream gets it.
        ahead_ms: media generated at most beyond what the owner has seen.
        ack_pause_s, ack_end_s: silence after which a stream rests, and ends.
        paused_end_s: longest pause by the owner.
        resume_s: time for an owner whose connection was lost to come back.
        max_viewers: viewers of one session.
        token_s: life of viewer tokens.
        start_timeout_s: time for ``session.start`` after connecting.
        max_image_bytes: largest picture in ``session.start``, before it is written as text; those of jobs count too.
        max_errors: bad messages after which a connection is closed.
        retry_after_s: what a refused client is told at least.
        keep_s: how long the log of a session is kept after its end.
        snapshot_share: part of a stream's work that may go into snapshots, from which it goes on when the worker has
            died; 0 makes none.
        snapshot_bytes: largest snapshot that is made, where need be with latents alone; the newest three of each
            stream are kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_streams: int = Field(default=8, ge=1)
    capacity: float = Field(default=0.9, gt=0)
    max_queued: int = Field(default=8, ge=0)
    adapt_named_sizes: bool = False
    raise_after_s: float = Field(default=10.0, gt=0)
    ahead_ms: float = Field(default=1500.0, gt=0)
    ack_pause_s: float = Field(default=15.0, gt=0)
    ack_end_s: float = Field(default=60.0, gt=0)
    paused_end_s: float = Field(default=600.0, gt=0)
    resume_s: float = Field(default=60.0, ge=0)
    max_viewers: int = Field(default=100, ge=0)
    token_s: float = Field(default=86_400.0, gt=0)
    start_timeout_s: float = Field(default=60.0, gt=0)
    max_image_bytes: int = Field(default=8 * 2**20, ge=1024, le=32 * 2**20)
    max_errors: int = Field(default=100, ge=1)
    retry_after_s: int = Field(default=5, ge=1)
    keep_s: float = Field(default=30 * 86_400.0, gt=0)
    snapshot_share: float = Field(default=0.05, ge=0, le=1)
    snapshot_bytes: int = Field(default=256 * 2**20, ge=0)

    @model_validator(mode="after")
    def _silence_pauses_before_it_ends(self) -> StreamSettings:
        if self.ack_pause_s > self.ack_end_s:
            raise ValueError("ack_pause_s must not exceed ack_end_s")
        return self


class DataSettings(BaseModel):
    """Where jobs, their videos and recordings are kept.

    Attributes:
        folder: of everything that is not placed elsewhere; videos in the making are always in it.
        database: URL as SQLAlchemy reads it, such as ``postgresql+psycopg://user@host/name``; by default an SQLite
            file in the folder.
        artifacts: URL as fsspec reads it, such as ``s3://bucket/videos``; by default a sub-folder.
        snapshots: folder of the newest states of live streams, best in memory; by default one in ``/dev/shm``.
        quota_bytes: finished videos with what extensions go on from, and room for those in the queue; the oldest
            finished ones go first.
        recordings_quota_bytes: recordings of sessions; the oldest finished ones go first.
        recordings_expire_after_s: age at which a recording goes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path = Field(default_factory=lambda: data_home() / "ultraflash")
    database: str | None = None
    artifacts: str | None = None
    snapshots: Path | None = None
    quota_bytes: int = Field(default=20 * 2**30, ge=0)
    recordings_quota_bytes: int = Field(default=20 * 2**30, ge=0)
    recordings_expire_after_s: float = Field(default=7 * 86_400.0, gt=0)

    @property
    def database_url(self) -> str:
        """Of the job store."""
        return self.database or f"sqlite:///{self.folder.absolute() / 'ultraflash.db'}"

    @property
    def database_file(self) -> Path | None:
        """The default database."""
        return None if self.database else self.folder.absolute() / "ultraflash.db"

    @property
    def artifacts_url(self) -> str:
        """Of the folder of finished videos."""
        return self.artifacts or str(self.folder.absolute() / "videos")

    @property
    def work_folder(self) -> Path:
        """Of videos in the making."""
        return self.folder.absolute() / "work"

    @property
    def tails_folder(self) -> Path:
        """Of what extensions go on from; on the same file system as the videos in the making."""
        return self.folder.absolute() / "tails"

    @property
    def uploads_folder(self) -> Path:
        """Of uploads while they are read."""
        return self.folder.absolute() / "uploads"

    @property
    def recordings(self) -> Path:
        """A folder with one for each recorded session."""
        return self.folder.absolute() / "sessions"


class JobSettings(BaseModel):
    """Limits of jobs.

    Attributes:
        max_queued: jobs that wait at most; further ones are refused with 429.
        max_seconds: longest video.
        expire_after_s: how long a finished video can be downloaded.
        keep_s: how long the record of a finished job is kept.
        max_attempts: lives of the worker that one job may take without getting further than before.
        lease_s: silence after which the jobs of another server are taken over.
        max_upload_bytes: longest body of a request.
        max_reference_pixels, max_reference_frames, max_reference_seconds: of a picture or clip to start from.
        reference_cpu_s: processor time that reading one may take.
        patience_s: longest time that live streams may keep a job from its next group of frames.
        checkpoint_s: time between two points of a job from which it can go on, where the engine can keep streams.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_queued: int = Field(default=100, ge=0)
    max_seconds: float = Field(default=120.0, gt=0)
    expire_after_s: float = Field(default=7 * 86_400.0, gt=0)
    keep_s: float = Field(default=30 * 86_400.0, gt=0)
    max_attempts: int = Field(default=3, ge=1)
    lease_s: float = Field(default=30.0, gt=0)
    max_upload_bytes: int = Field(default=16 * 2**20, ge=1024)
    max_reference_pixels: int = Field(default=2**25, ge=1)
    max_reference_frames: int = Field(default=1800, ge=1)
    max_reference_seconds: float = Field(default=60.0, gt=0)
    reference_cpu_s: int = Field(default=20, ge=1)
    patience_s: float = Field(default=30.0, gt=0)
    checkpoint_s: float = Field(default=5.0, ge=0)


class ReplicaSettings(BaseModel):
    """Several servers behind one address; see docs/SCALING.md.

    Attributes:
        count: servers to begin with; 1 without ``max`` is a server without a front.
        min, max: bounds within which the queue decides; by default always ``count``.
        scale_up_eta_s: a queue that would take longer for some seconds starts one more.
        scale_down_idle_s: time for which nobody has needed one that is stopped.
        drain_s: time that live sessions have to end when the front is told to stop.
        secret: opens the door between front and replicas; a front makes one up.
        number: of one of these servers, by which its log lines can be told apart; a front gives it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int = Field(default=1, ge=1, le=256)
    min: int | None = Field(default=None, ge=1, le=256)
    max: int | None = Field(default=None, ge=1, le=256)
    scale_up_eta_s: float = Field(default=10.0, gt=0)
    scale_down_idle_s: float = Field(default=300.0, gt=0)
    drain_s: float = Field(default=30.0, ge=0)
    secret: str | None = Field(default=None, repr=False, min_length=16)
    number: int | None = Field(default=None, ge=0)

    @property
    def least(self) -> int:
        """Never fewer."""
        return self.count if self.min is None else self.min

    @property
    def most(self) -> int:
        """Never more."""
        return self.count if self.max is None else self.max

    @property
    def with_front(self) -> bool:
        """Whether there is more than one server, or may be."""
        return self.most > 1

    @model_validator(mode="after")
    def _count_is_within_its_bounds(self) -> ReplicaSettings:
        if not self.least <= self.count <= self.most:
            raise ValueError("min must not exceed count, nor count max")
        return self


class TraceSettings(BaseModel):
    """Where traces go; they need the extra ``otel``.

    Attributes:
        exporter: ``otlp`` sends them by HTTP, ``file`` writes them into a file for each process.
        endpoint: of OTLP, such as ``http://127.0.0.1:4318/v1/traces``; by default what OpenTelemetry's own environment
            variables say.
        folder: of the files, ``web-PID.jsonl`` and ``worker-PID.jsonl`` with the ids of the processes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    exporter: Literal["none", "otlp", "file"] = "none"
    endpoint: str | None = None
    folder: Path | None = None

    @model_validator(mode="after")
    def _files_have_a_folder(self) -> TraceSettings:
        if self.exporter == "file" and self.folder is None:
            raise ValueError("the exporter 'file' needs traces.folder")
        return self

    @property
    def folder_name(self) -> str | None:
        """The folder as text."""
        return None if self.folder is None else str(self.folder.absolute())


class Settings(BaseSettings):
    """All of it. In the environment ``ULTRAFLASH_PRESET`` or, nested, ``ULTRAFLASH_HTTP__PORT``.

    Attributes:
        preset: name or path of the preset; if None, the best that the machine has weights and memory for.
        size: the largest of streams that ask for ``auto``, and that of videos that ask for none. If None, streams get
            any that the machine holds in real time, and videos the preset's own.
        engine: factory of the engine, ``module:attribute``.
        log_level: of Python's logging, in both processes.
        log_format: of log lines, text or JSON.
    """

    model_config = SettingsConfigDict(
        env_prefix="ULTRAFLASH_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    preset: str | None = None
    size: str | None = None
    engine: str = CASCADE
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    log_format: LogFormat = "text"
    http: HttpSettings = Field(default_factory=HttpSettings)
    stream: StreamSettings = Field(default_factory=StreamSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    jobs: JobSettings = Field(default_factory=JobSettings)
    keys: KeySettings = Field(default_factory=KeySettings)
    replicas: ReplicaSettings = Field(default_factory=ReplicaSettings)
    traces: TraceSettings = Field(default_factory=TraceSettings)

    def configure(self, snapshots: Path | None) -> Configure:
        """What the worker is told; ``snapshots`` is where it keeps the states of live streams."""
        return Configure(
            engine=self.engine,
            preset=self.preset,
            size=self.size,
            adapt_named_sizes=self.stream.adapt_named_sizes,
            raise_after_s=self.stream.raise_after_s,
            ahead_ms=self.stream.ahead_ms,
            ack_pause_s=self.stream.ack_pause_s,
            ack_end_s=self.stream.ack_end_s,
            paused_end_s=self.stream.paused_end_s,
            job_patience_s=self.jobs.patience_s,
            job_checkpoint_s=self.jobs.checkpoint_s,
            replica=self.replicas.number,
            log_level=self.log_level,
            log_format=self.log_format,
            trace_exporter=self.traces.exporter,
            trace_endpoint=self.traces.endpoint,
            trace_folder=self.traces.folder_name,
            snapshots=None if snapshots is None else str(snapshots),
            snapshot_share=self.stream.snapshot_share,
            snapshot_bytes=self.stream.snapshot_bytes,
        )


def load_settings(file: Path | None, options: Mapping[str, Any]) -> Settings:
    """Reads the settings.

    Args:
        file: TOML, or None.
        options: values of the command line by dotted name, such as ``http.port``.

    Raises:
        BadConfig: a file that cannot be read, or a setting that does not exist or cannot have its value.
    """
    table = _read_table(file) if file is not None else {}

    class Layered(Settings):
        """Settings that know one file."""

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=table)

    try:
        return Layered(**_nested(options))
    except (ValidationError, SettingsError) as error:
        raise BadConfig(_explain(error)) from error


def check_binding(http: HttpSettings, *, has_keys: bool) -> None:
    """Raises ``UnsafeBinding`` for an address or a name that others reach, where there is no key and nobody has said
    that they may come in without."""
    if not http.for_others or http.allow_unauthenticated or has_keys or http.auth == "required":
        return
    how = "Answering to the names of http.allowed_hosts" if http.on_loopback else f"Listening on {http.host}"
    raise UnsafeBinding(
        f"{how} lets others reach this server, and there is no API key. Make one with `ultraflash keys create NAME`, "
        "or keep to 127.0.0.1, or pass --allow-unauthenticated where everybody who can reach it may use it.",
        param="http.allowed_hosts" if http.on_loopback else "http.host",
    )


def _read_table(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadConfig(f"The settings file {file} cannot be read: {error}", param="config") from error


def _nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """``{"http.port": 1}`` as ``{"http": {"port": 1}}``."""
    table: dict[str, Any] = {}
    for name, value in options.items():
        *groups, last = name.split(".")
        inner = table
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return table


def _explain(error: ValidationError | SettingsError) -> str:
    if isinstance(error, SettingsError):
        return str(error)
    problems = []
    for detail in error.errors(include_url=False):
        name = ".".join(str(part) for part in detail["loc"])
        problems.append(
            f"no setting {name!r}" if detail["type"] == "extra_forbidden" else f"{name}: {detail['msg']}"
        )
    return "Settings: " + "; ".join(problems)
