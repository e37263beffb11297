"""Kill a real server again and again with streams and jobs in flight, and count what is lost.

At random moments ``kill -9`` hits the worker, or the whole server, which is then started again; with ``--replicas`` it
hits a worker or the server of one of several replicas, and the front is left to deal with it. Owners of live streams
are the package's own client, which gives up where it cannot come back within a minute. In the end every frame that was
sent is decoded and compared with what one engine makes of the session's log without any kill; every video is
downloaded and compared likewise; every recording is compared with what was sent. Counts, not times, are the result,
so a busy machine is no hindrance. With ``--json`` the file tells after each kill how far the run has come.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from provenance import ROOT, provenance

sys.path.append(str(ROOT / "tests" / "server" / "rig"))

from fault_jobs import JobCustomer, Video
from fault_recordings import compare_recording
from live_server import PATTERN, LiveServer

from ultraflash.server.client import FramePacket, Stream, connect
from ultraflash.server.engine import CASCADE, Engine, engine_transition, load_engine
from ultraflash.server.protocol import MediaFlags, ServerEvent, SessionResumed, Transition

ENGINES = {"pattern": PATTERN, "mini": CASCADE}
PROMPTS = ("a red hill", "a blue lake at night", "snowy mountains at dawn", "a desert at noon", "a calm sea")
# Mostly cuts, so that many prompts are over by the end.
TRANSITIONS: tuple[Transition, ...] = ("cut", "cut", "fade", "blend")
# Below it a picture is another one; H.264 alone stays above.
SAME_PICTURE_DB = 25.0
PATIENCE_S = 60.0
FRAMES_TO_SETTLE = 24


class Owner:
    """One live stream, its packets, and what went wrong with it."""

    def __init__(self, url: str, number: int, dice: random.Random, fps: float) -> None:
        self.packets: dict[int, bytes] = {}
        self.resumed: Counter[str] = Counter()
        self.gaps = self.left_out = 0
        self.longest_silence_s = 0.0
        self.replay: dict[str, Any] | None = None
        self.session_id = ""
        self._url = url
        self._number = number
        self._dice = dice
        self._fps = fps
        self._stop = asyncio.Event()
        self._next_seq = 0
        self._heard_at = time.monotonic()

    async def run(self) -> None:
        """Watches and steers until told to stop."""
        prompt = PROMPTS[self._number % len(PROMPTS)]
        async with connect(
            self._url,
            prompt=prompt,
            seed=self._number,
            size="0.5K",
            record=True,
            on_event=self._on_event,
        ) as stream:
            self.session_id = stream.started.session_id
            stopping = asyncio.create_task(self._stop_later(stream))
            self._heard_at = time.monotonic()
            async for packet in stream:
                self._take(packet)
                if self._dice.random() < 0.02:
                    await stream.set_prompt(
                        self._dice.choice(PROMPTS), transition=self._dice.choice(TRANSITIONS)
                    )
                await asyncio.sleep(1 / self._fps)
            await stopping
            self.replay = None if stream.done is None else stream.done.replay

    def stop(self) -> None:
        """Ends the session; ``run`` returns with its log."""
        self._stop.set()

    def _take(self, packet: FramePacket) -> None:
        seq, flags = packet.header.seq, packet.header.flags
        self.longest_silence_s = max(self.longest_silence_s, time.monotonic() - self._heard_at)
        self._heard_at = time.monotonic()
        missing = seq - self._next_seq
        # What a busy connection could not carry is left out and flagged, which is no loss of the stream.
        if missing > 0 and MediaFlags.DISCONTINUITY in flags:
            self.left_out += missing
        else:
            self.gaps += missing != 0
        self._next_seq = seq + 1
        self.packets[seq] = packet.data

    def _on_event(self, event: ServerEvent) -> None:
        if isinstance(event, SessionResumed):
            self.resumed[event.state] += 1

    async def _stop_later(self, stream: Stream) -> None:
        await self._stop.wait()
        await stream.stop()


def expected_frames(engine: Engine, replay: dict[str, Any]) -> Iterator[np.ndarray]:
    """What one engine makes of a session's log, without end."""
    begin, *changes = replay["events"]
    state = engine.open(begin["prompt"], size=begin["size"], seed=replay["seed"])
    group = index = 0
    while True:
        while (
            changes
            and changes[0].get("restarted")
            and changes[0]["first_pts_us"] <= index * 1e6 / replay["fps"]
        ):
            begin = changes.pop(0)
            state, group = engine.open(begin["prompt"], size=begin["size"], seed=replay["seed"]), 0
        change = None
        while changes and changes[0]["group"] == group and not changes[0].get("restarted"):
            change = changes.pop(0)
        if change is not None:
            engine.set_prompt(
                state,
                change["prompt"],
                transition=engine_transition(change.get("transition", "cut")),
                groups=change.get("groups", 1),
            )
        for frame in np.asarray(engine.next_group(state)):
            yield frame
            index += 1
        group += 1


def decoded(data: bytes, kind: str) -> Iterator[np.ndarray]:
    """All frames of a bitstream or a file, uint8 RGB. Raises ``av.error.FFmpegError`` for one that is torn."""
    with av.open(io.BytesIO(data), format=kind) as container:
        for frame in container.decode(video=0):
            yield frame.reformat(format="rgb24", src_colorspace="ITU709", src_color_range="MPEG").to_ndarray()


def wrong_pictures(shown: Iterator[np.ndarray], expected: Iterator[np.ndarray]) -> tuple[int, int]:
    """Number of frames, and of those among them that show something else."""
    frames = wrong = 0
    for one, other in zip(shown, expected, strict=False):
        error = np.mean((one.astype(float) - other.astype(float)) ** 2)
        wrong += bool(10 * np.log10(255**2 / max(error, 1e-9)) < SAME_PICTURE_DB)
        frames += 1
    return frames, wrong


class FaultRun:
    """A server, those who use it, and the kills."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options = options
        self._folder = folder
        self._dice = random.Random(options.seed)
        port = free_port()
        self._server = LiveServer(
            folder,
            "--port",
            str(port),
            "--replicas",
            str(options.replicas),
            engine=ENGINES[options.engine],
            stream__max_streams=options.streams,
            jobs__checkpoint_s=0.2,
            # A job in whose lifetime many workers die is given up as their killer, which here it is not.
            jobs__max_attempts=1000,
            # Workers live for less than the time for which streams may keep a job from its next group otherwise.
            jobs__patience_s=0.5,
            PATTERN_SECONDS=0.05,
        )
        url = f"http://127.0.0.1:{port}"
        pace = 64.0 if options.engine == "pattern" else 16.0
        self._owners = [
            Owner(url, number, random.Random(options.seed + number), pace)
            for number in range(options.streams)
        ]
        self._customer = JobCustomer(
            url,
            random.Random(options.seed),
            jobs=options.jobs,
            cancel_share=options.cancel_share,
            cancel_within_s=options.cancel_within,
            longest_frames=options.longest_job,
        )
        self._kills: Counter[str] = Counter()

    async def run(self) -> dict[str, Any]:
        """Everything; returns the counts."""
        await asyncio.to_thread(self._server.start)
        try:
            await asyncio.to_thread(self._wait_until_ready)
            owners = [asyncio.create_task(owner.run()) for owner in self._owners]
            ordering = asyncio.create_task(self._customer.run())
            await self._progress(FRAMES_TO_SETTLE)
            stop_at = time.monotonic() + self._options.minutes * 60
            while sum(self._kills.values()) < self._options.kills and time.monotonic() < stop_at:
                await self._kill_once()
                self._note_progress()
            await asyncio.to_thread(self._wait_until_ready)
            await self._progress(FRAMES_TO_SETTLE)
            self._customer.stop()
            await ordering
            for owner in self._owners:
                owner.stop()
            results = await asyncio.gather(*owners, return_exceptions=True)
            ended = [repr(result) for result in results if isinstance(result, BaseException)]
            videos = await asyncio.to_thread(self._customer.collect)
        finally:
            await asyncio.to_thread(self._server.stop)
        return self._counts(ended, videos)

    def _note_progress(self) -> None:
        """Says how far it has come, should it not come to its end."""
        states = Counter(video.status for video in self._customer.videos)
        so_far = {
            "kills": dict(self._kills),
            "frames": [len(owner.packets) for owner in self._owners],
            "gaps": sum(owner.gaps for owner in self._owners),
            "jobs": dict(states),
        }
        print(f"{time.strftime('%X')} {so_far}", file=sys.stderr, flush=True)
        write_report(self._options, {"unfinished": so_far})

    async def _progress(self, frames: int) -> None:
        """Waits until every stream has gone on by so many frames, or for as long as an owner may be away."""
        before = [len(owner.packets) for owner in self._owners]
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and any(
            len(owner.packets) < count + frames for owner, count in zip(self._owners, before, strict=True)
        ):
            await asyncio.sleep(0.1)

    def _wait_until_ready(self) -> None:
        self._server.wait_until_ready()
        if self._options.replicas > 1:
            self._server.wait_for_metric(
                f'ultraflash_replicas{{state="ready"}} {float(self._options.replicas)}'
            )

    async def _kill_once(self) -> None:
        await asyncio.to_thread(self._wait_until_ready)
        await self._progress(self._options.frames_between)
        await asyncio.sleep(self._dice.uniform(0, self._options.longest_wait))
        of_server = self._dice.random() < self._options.server_share
        if self._options.replicas > 1:
            self._kill_in_a_replica(of_server)
        elif of_server:
            await asyncio.to_thread(self._server.stop, signal.SIGKILL)
            await asyncio.to_thread(self._server.start)
            self._kills["server"] += 1
        else:
            # It may be starting again just now.
            with contextlib.suppress(ProcessLookupError):
                for worker in self._server.worker_ids():
                    os.kill(worker, signal.SIGKILL)
            self._kills["worker"] += 1

    def _kill_in_a_replica(self, of_server: bool) -> None:
        replica = self._dice.choice(self._server.worker_ids())
        # It may be starting again just now.
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            for process in [replica] if of_server else children(replica):
                os.kill(process, signal.SIGKILL)
        self._kills["replica" if of_server else "worker"] += 1

    def _counts(self, ended: list[str], videos: list[Video]) -> dict[str, Any]:
        resumed: Counter[str] = Counter()
        frames = wrong = 0
        recorded = different = 0
        torn: list[str] = []
        engine = load_engine(ENGINES[self._options.engine], "mini", None)
        for owner in self._owners:
            resumed += owner.resumed
            if owner.replay is not None and owner.gaps == 0:
                shown = decoded(b"".join(owner.packets.values()), "h264")
                frames_of_log = enumerate(expected_frames(engine, owner.replay))
                expected = (frame for seq, frame in frames_of_log if seq in owner.packets)
                made, off = wrong_pictures(shown, expected)
                frames, wrong = frames + made, wrong + off + (made != len(owner.packets))
            for folder in self._folder.glob(f"data/**/sessions/{owner.session_id or None}"):
                recording = compare_recording(folder, owner.packets)
                recorded, different = recorded + recording.frames, different + recording.different
                torn += recording.torn
        corrupt = [video.id for video in videos if video.file is not None and not whole(engine, video)]
        states = Counter(video.status for video in videos)
        return {
            "kills": dict(self._kills),
            "streams": len(self._owners),
            "streams_lost": ended,
            "resumed": dict(resumed),
            "frames": frames,
            "frames_left_out": sum(owner.left_out for owner in self._owners),
            "gaps": sum(owner.gaps for owner in self._owners),
            "wrong_pictures": wrong,
            "longest_silence_s": round(max(owner.longest_silence_s for owner in self._owners), 1),
            "jobs": len(videos),
            "jobs_completed": states["completed"],
            "jobs_cancelled": states["cancelled"],
            "jobs_lost": [f"{video.id} {video.status}" for video in videos if video.lost],
            "frames_recorded": recorded,
            "recorded_differently": different,
            "corrupt_files": corrupt + torn,
            "tracebacks": sum(log.read_text().count("Traceback") for log in self._folder.glob("*.log")),
        }


def whole(engine: Engine, video: Video) -> bool:
    """Whether a file has all frames of its video, and these frames."""
    try:
        begin = {"prompt": video.prompt, "size": "0.5K"}
        expected = expected_frames(engine, {"seed": video.seed, "fps": 16, "events": [begin]})
        return wrong_pictures(decoded(video.file or b"", "mp4"), expected) == (video.frames, 0)
    except av.error.FFmpegError:
        return False


def faults_of(counts: dict[str, Any]) -> list[str]:
    """What must not have happened and has."""
    faults = [
        name
        for name in (
            "streams_lost",
            "gaps",
            "wrong_pictures",
            "jobs_lost",
            "recorded_differently",
            "corrupt_files",
            "tracebacks",
        )
        if counts[name]
    ]
    faults += ["restarted"] if counts["resumed"].get("restarted") else []
    return faults + (["not_recorded"] if counts["frames"] and not counts["frames_recorded"] else [])


def write_report(options: argparse.Namespace, result: dict[str, Any]) -> None:
    """Writes the JSON, where it is wanted."""
    if options.json is not None:
        given = {name: value for name, value in vars(options).items() if name not in ("json", "folder")}
        report = {**provenance(), "options": given, **result}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def children(process: int) -> list[int]:
    """Process ids of the children of a process."""
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    """Runs, prints the table, writes JSON; 1 where anything was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", choices=ENGINES, default="pattern")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument(
        "--minutes", type=float, default=600.0, help="time after which nothing more is killed"
    )
    parser.add_argument(
        "--server-share", type=float, default=0.3, help="part of the kills that hit the server"
    )
    parser.add_argument("--replicas", type=int, default=1, help="servers behind one front")
    parser.add_argument("--streams", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=3, help="jobs in flight at a time")
    parser.add_argument("--longest-job", type=int, default=120, help="frames of a video at most, at least 20")
    parser.add_argument("--cancel-share", type=float, default=0.5, help="part of the jobs that are cancelled")
    parser.add_argument(
        "--cancel-within", type=float, default=10.0, help="seconds from an order to its cancellation at most"
    )
    parser.add_argument(
        "--longest-wait", type=float, default=3.0, help="seconds from readiness to a kill at most"
    )
    parser.add_argument(
        "--frames-between",
        type=int,
        default=0,
        help="frames that each stream gets between two kills: on a slow machine a stream is given up when its worker "
        "dies again and again before a frame",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="an empty folder for data and logs, which are left there")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) if options.folder is None else options.folder
        counts = asyncio.run(FaultRun(options, folder).run())
    faults = faults_of(counts)
    print("| | |\n|---|---|")
    for name, value in counts.items():
        shown = (
            ", ".join(f"{key} {count}" for key, count in value.items()) if isinstance(value, dict) else value
        )
        print(f"| {name.replace('_', ' ')} | {shown if shown != [] else 0} |")
    print(f"faults: {', '.join(faults) or 'none'}")
    write_report(options, {"counts": counts, "faults": faults})
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
