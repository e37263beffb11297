"""The worker's main loop: take commands, ask the scheduler whose turn it is, make one group."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ultraflash.models.errors import UltraflashError
from ultraflash.server.engine import Engine, GpuUser, PictureSize, reference_format
from ultraflash.server.logs import fields
from ultraflash.server.tracing import NO_TRACER, Tracer, stage_spans
from ultraflash.server.worker.channel import ChannelClosed
from ultraflash.server.worker.encoding import EncodingThread
from ultraflash.server.worker.live_stream import (
    LiveStream,
    advance,
    apply_changes,
    control_stream,
    make_group,
    open_stream,
    opened_report,
    stream_stats,
)
from ultraflash.server.worker.messages import (
    AckPlayback,
    AdaptBitrate,
    CancelJob,
    CheckPrompt,
    CloseStream,
    Command,
    CommandRefused,
    Configure,
    ControlStream,
    CostsMeasured,
    GpuMemory,
    JobFailed,
    OpenStream,
    PromptChecked,
    ReadReference,
    ReferenceRead,
    Report,
    RequestKeyframe,
    RunJob,
    SetPrompt,
    Shutdown,
)
from ultraflash.server.worker.playhead import PacingRule
from ultraflash.server.worker.reference_reader import ReferenceReader
from ultraflash.server.worker.scheduler import JobDemand, Scheduler, StreamDemand
from ultraflash.server.worker.stream_sizes import StreamSizes
from ultraflash.server.worker.stream_snapshot import SnapshotRule
from ultraflash.server.worker.video_job import FAULT, VideoJob, make_job_group, open_job

log = logging.getLogger(__name__)

STATS_EVERY_S = 1.0
IDLE_WAIT_S = 0.1
# While a job waits for its encoder or for a gap.
SHORT_WAIT_S = 0.01


class WorkerLoop:
    """Runs all streams and jobs of one engine; everything but encoding and reading happens on its thread."""

    def __init__(
        self,
        engine: Engine,
        config: Configure,
        sizes: StreamSizes,
        commands: queue.Queue[Command],
        emit: Callable[[Report], None],
        clock: Callable[[], float] = time.monotonic,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._engine = engine
        self._sizes = sizes
        self._rule = PacingRule(
            ahead_us=config.ahead_ms * 1000,
            ack_pause_s=config.ack_pause_s,
            ack_end_s=config.ack_end_s,
            paused_end_s=config.paused_end_s,
        )
        self._keeping = SnapshotRule(
            folder=None if config.snapshots is None else Path(config.snapshots),
            share=config.snapshot_share,
            max_bytes=config.snapshot_bytes,
        )
        self._checkpoint_s = config.job_checkpoint_s
        self._commands = commands
        self._emit = emit
        self._clock = clock
        self._tracer = tracer
        self._streams: dict[str, LiveStream] = {}
        self._jobs: dict[str, VideoJob] = {}
        self._scheduler = Scheduler(patience_s=config.job_patience_s, clock=clock)
        self._encoding = EncodingThread(emit, tracer)
        self._references = ReferenceReader(emit)
        self._stats_at = clock() + STATS_EVERY_S
        self._stopping = False

    def run(self) -> None:
        """Works until ``Shutdown``, or until nobody listens."""
        self._encoding.start()
        self._references.start()
        while not self._stopping:
            self._take_commands()
            self._end_the_silent()
            self._report_stats()
            self._sizes.adapt(self._streams.values())
            chosen = self._choose()
            if chosen is None:
                self._wait_for_command()
            else:
                self._work_for(chosen)

    def _choose(self) -> str | None:
        """Key of the stream or job whose turn it is."""
        now = self._clock()
        streams = [
            StreamDemand(key=key, ready=stream.may_generate(now), deadline=stream.deadline)
            for key, stream in self._streams.items()
        ]
        for job in [job for job in self._jobs.values() if job.complete or job.writer.over]:
            self._forget_job(job)
        jobs = [JobDemand(key=key, ready=job.ready) for key, job in self._jobs.items()]
        return self._scheduler.next(streams, jobs)

    def _work_for(self, key: str) -> None:
        start = self._clock()
        job = self._jobs.get(key)
        if job is not None:
            self._make_job_group(job)
        else:
            self._make_group(self._streams[key])
        seconds = self._clock() - start
        if key in self._jobs or key in self._streams:
            self._scheduler.ran(key, seconds, job=job is not None)
        if key in self._streams:
            self._sizes.measured(self._streams[key], seconds)

    def _take_commands(self) -> None:
        while not self._commands.empty():
            self._apply(self._commands.get())

    def _wait_for_command(self) -> None:
        try:
            self._apply(self._commands.get(timeout=SHORT_WAIT_S if self._jobs else IDLE_WAIT_S))
        except queue.Empty:
            return

    def _apply(self, command: Command) -> None:
        if isinstance(command, Shutdown):
            self._stopping = True
        elif isinstance(command, OpenStream):
            self._open(command)
        elif isinstance(command, RunJob):
            self._open_job(command)
        elif isinstance(command, CancelJob):
            self._cancel_job(command.job_id)
        elif isinstance(command, CheckPrompt):
            self._check_prompt(command)
        elif isinstance(command, ReadReference):
            self._read_reference(command)
        elif isinstance(command, Configure):
            raise ValueError("A worker is configured once.")
        elif command.stream_id in self._streams:
            self._change(self._streams[command.stream_id], command)

    def _open(self, command: OpenStream) -> None:
        try:
            fps = command.fps or self._engine.preset.fps
            size = self._sizes.choose(command.size, fps, self._streams.values())
            stream = open_stream(self._engine, command, self._rule, self._keeping, size, self._clock())
        except UltraflashError as error:
            self._refuse(command.stream_id, None, error)
            return
        self._streams[command.stream_id] = stream
        self._emit(opened_report(stream))
        how = "restored" if stream.groups else "opened"
        log.info("stream %s", how, extra=fields(session=stream.stream_id, size=stream.size.name))

    def _open_job(self, command: RunJob) -> None:
        try:
            self._jobs[command.job_id] = open_job(self._engine, command, self._emit, self._clock())
        except UltraflashError as error:
            self._emit(JobFailed(job_id=command.job_id, code=error.code, message=error.message))
            return
        log.info("job started", extra=fields(job=command.job_id, frames=command.frames))

    def _cancel_job(self, job_id: str) -> None:
        job = self._jobs.get(job_id)
        if job is None:
            return
        job.writer.stop()
        self._forget_job(job)
        log.info("job stopped", extra=fields(job=job_id, frames=job.next_index))

    def _forget_job(self, job: VideoJob) -> None:
        del self._jobs[job.job_id]
        self._scheduler.forget(job.job_id)

    def _check_prompt(self, command: CheckPrompt) -> None:
        code, message = None, ""
        try:
            self._engine.check_prompt(command.prompt)
        except UltraflashError as error:
            code, message = error.code, error.message
        self._emit(PromptChecked(check_id=command.check_id, code=code, message=message))

    def _read_reference(self, command: ReadReference) -> None:
        try:
            self._references.read(command, reference_format(self._engine))
        except UltraflashError as error:
            self._emit(ReferenceRead(check_id=command.check_id, code=error.code, message=error.message))

    def _change(
        self,
        stream: LiveStream,
        command: SetPrompt | ControlStream | AckPlayback | AdaptBitrate | RequestKeyframe | CloseStream,
    ) -> None:
        now = self._clock()
        try:
            if isinstance(command, AckPlayback):
                stream.playhead.ack(command.pts_us + stream.frame_us, now)
            elif isinstance(command, SetPrompt):
                self._engine.check_prompt(command.prompt)
                stream.new_prompts.append(command)
            elif isinstance(command, ControlStream):
                control_stream(stream, command, self._size_for(stream, command), now)
            elif isinstance(command, AdaptBitrate):
                stream.encoder.request_share(command.share)
            elif isinstance(command, RequestKeyframe):
                stream.encoder.request_key()
            else:
                self._forget(stream)
        except UltraflashError as error:
            event_id = command.event_id if isinstance(command, SetPrompt | ControlStream) else None
            self._refuse(stream.stream_id, event_id, error)

    def _size_for(self, stream: LiveStream, command: ControlStream) -> PictureSize | None:
        """What a control's size comes to. Raises ``UnknownSize``."""
        if command.size is None:
            return None
        others = [other for other in self._streams.values() if other is not stream]
        return self._sizes.choose(command.size, stream.fps, others)

    def _refuse(self, stream_id: str, event_id: str | None, error: UltraflashError) -> None:
        self._emit(
            CommandRefused(
                stream_id=stream_id,
                event_id=event_id,
                code=error.code,
                message=error.message,
                retryable=error.retryable,
            )
        )

    def _forget(self, stream: LiveStream) -> None:
        stream.encoder.closed = True
        self._drop(stream)

    def _drop(self, stream: LiveStream) -> None:
        del self._streams[stream.stream_id]
        self._scheduler.forget(stream.stream_id)

    def _end(self, stream: LiveStream, reason: str) -> None:
        self._drop(stream)
        self._encoding.end(stream.encoder, reason)
        log.info(
            "stream ended", extra=fields(session=stream.stream_id, reason=reason, frames=stream.next_index)
        )

    def _end_the_silent(self) -> None:
        now = self._clock()
        for stream in list(self._streams.values()):
            reason = stream.playhead.over(now)
            if reason is not None:
                self._end(stream, reason)

    def _report_stats(self) -> None:
        now = self._clock()
        if now < self._stats_at:
            return
        self._stats_at = now + STATS_EVERY_S
        self._emit(CostsMeasured(frame_seconds=self._sizes.costs.all_seconds()))
        if isinstance(self._engine, GpuUser) and (gpus := self._engine.gpu_memory()):
            self._emit(GpuMemory(gpus={name: list(memory) for name, memory in gpus.items()}))
        for stream in self._streams.values():
            self._emit(stream_stats(stream))

    def _make_group(self, stream: LiveStream) -> None:
        if stream.encoder.closed:
            self._drop(stream)
            return
        start_ns = time.time_ns()
        # A group that shows a new prompt belongs to its story, which is part of the session's.
        parent = stream.new_prompts[-1].trace if stream.new_prompts else stream.trace
        span = self._tracer.span(
            "group",
            parent=parent,
            start_ns=start_ns,
            session=stream.stream_id,
            group=stream.groups,
            size=stream.size.name,
        )
        try:
            for report in apply_changes(self._engine, stream):
                about = fields(session=stream.stream_id, event=report.event_id, group=stream.groups)
                log.info("change shown from this group on", extra=about)
                self._emit(report)
            group = make_group(self._engine, stream)
        except ChannelClosed:
            raise
        except Exception:
            log.exception("engine fault", extra=fields(session=stream.stream_id))
            span.end(failed=True)
            self._end(stream, "engine_fault")
            return
        stage_spans(self._tracer, span, start_ns, group.seconds)
        span.end(first_frame=group.first_index, frames=len(group.frames_THWC))
        group = replace(group, trace=span.context)
        self._encoding.encode(stream.encoder, group)
        if advance(stream, group, self._clock()):
            self._end(stream, "max_frames")

    def _make_job_group(self, job: VideoJob) -> None:
        try:
            make_job_group(self._engine, job, now=self._clock(), checkpoint_s=self._checkpoint_s)
        except Exception:
            log.exception("engine fault", extra=fields(job=job.job_id))
            message = "The engine could not make the next frames of this video; the server's log says why."
            self._emit(JobFailed(job_id=job.job_id, code=FAULT, message=message))
            job.writer.stop()
            self._forget_job(job)
