"""The one training loop that every stage runs in.

A stage says what to build, which batch belongs to a step and what its loss is; the loop owns the optimizer, the
learning rate, the moving average, checkpoints, logs, samples and the end. Everything random at a step comes from
(seed, step), so a run that was killed and resumed has the loss curve of one that was not; only a limit in ``minutes``,
which the learning rate follows, makes it depend on how fast the machine was.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from ultraflash.models.errors import BadConfig, MissingWeights
from ultraflash.models.weights import load_strict, write_manifest
from ultraflash.training.checkpoint import (
    Checkpoint,
    Progress,
    load_latest,
    save_checkpoint,
    write_atomically,
)
from ultraflash.training.optimizers import make_optimizers
from ultraflash.training.placement import bfloat16_products, on_device
from ultraflash.training.run_log import RunLog
from ultraflash.training.sample_sheet import write_png
from ultraflash.training.seeding import counter_seed

ConfigT = TypeVar("ConfigT", bound="StageConfig")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """What the loop needs to know of a stage; a stage's own config extends it.

    A run ends at ``steps``, or earlier when ``minutes`` of training time are spent; the learning rate follows
    whichever is nearer. ``batch_size`` means what the stage makes of it. ``muon_rate`` is the peak learning rate of
    Muon for the matrices of repeated blocks; without it AdamW trains them too. ``autocast`` computes losses in bfloat16
    unless the device is faster in float32. ``device`` is where the loop trains and evaluates; what goes into shards and
    what is fitted in closed form (``patches``, ``seams``, ``decoder``) stays on the CPU. Noise is drawn on the device,
    so another kind of device gives another run.
    """

    seed: int = 0
    steps: int
    minutes: float | None = None
    batch_size: int = 1
    learning_rate: float = 3e-4
    warmup_steps: int = 50
    schedule: str = "cosine"
    final_rate: float = 0.05
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    muon_rate: float | None = None
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    autocast: bool = False
    channels_last: bool = False
    device: str = "cpu"
    log_steps: int = 10
    checkpoint_minutes: float = 3.0
    checkpoint_steps: int | None = None
    sample_minutes: float = 5.0
    export_to: str | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.log_steps < 1:
            raise BadConfig("steps, batch_size and log_steps start at 1")
        if self.minutes is not None and self.minutes <= 0:
            raise BadConfig("minutes must be positive", param="minutes")
        if self.schedule not in ("cosine", "constant"):
            raise BadConfig(f"schedule is cosine or constant, not {self.schedule!r}", param="schedule")
        if not 0 <= self.ema_decay < 1:
            raise BadConfig("ema_decay lies in [0, 1)", param="ema_decay")

    def shared_by(self: ConfigT, networks: int) -> ConfigT:
        """The config of each of so many networks that a stage trains one after the other: with its part of ``minutes``,
        and all of ``steps``."""
        return self if self.minutes is None else replace(self, minutes=self.minutes / networks)


class Stage(Protocol):
    """One training stage. The loop calls ``build`` once, before anything else.

    A parameter that a loss left without a gradient is skipped in that step, so a stage may train two networks in
    turns. ``sample``, ``evaluate`` and ``export`` run without gradients and with the averaged weights in place.
    """

    name: str

    def build(self) -> nn.Module:
        """Make everything and return the module to train."""

    def batch(self, step: int) -> Any:
        """The batch of a step, a function of the config's seed and ``step`` alone. The loop moves to the device
        what is not there."""

    def loss(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor | float]]:
        """The scalar to minimize, and numbers to log. torch's global generator is seeded by the step."""

    def sample(self, step: int) -> torch.Tensor | None:
        """A picture, uint8 (H, W, 3), that shows how good the stage is now; None if there is nothing to show."""

    def evaluate(self) -> dict[str, float]:
        """Measures on held-out data."""

    def export(self, folder: Path) -> list[Path]:
        """Write the stage's weights as safetensors into ``folder``; returns the files."""


def rate_factor(config: StageConfig, progress: Progress) -> float:
    """Share of the peak learning rates: linear warm-up, then constant or a half cosine down to ``final_rate``."""
    warmup = min(1.0, (progress.step + 1) / max(1, config.warmup_steps))
    if config.schedule == "constant":
        return warmup
    cosine = 0.5 * (1 + math.cos(math.pi * fraction_done(config, progress)))
    return warmup * (config.final_rate + (1 - config.final_rate) * cosine)


def fraction_done(config: StageConfig, progress: Progress) -> float:
    """Share of the run that is over, in [0, 1], by steps or by the time budget, whichever is further."""
    done = progress.step / config.steps
    if config.minutes is not None:
        done = max(done, progress.elapsed / (60 * config.minutes))
    return min(1.0, done)


class WeightAverage:
    """Exponential moving average of a module's parameters and buffers; what is not floating point is copied."""

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self._decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, *, step: int) -> None:
        """Take in the weights after ``step``. Early on the decay is lower, or the start would linger."""
        decay = min(self._decay, (1 + step) / (10 + step))
        state = module.state_dict()
        floating = [name for name, average in self.tensors.items() if average.is_floating_point()]
        torch._foreach_lerp_(
            [self.tensors[name] for name in floating], [state[name] for name in floating], 1 - decay
        )
        for name in self.tensors.keys() - set(floating):
            self.tensors[name].copy_(state[name])

    @contextmanager
    def in_place_of(self, module: nn.Module) -> Iterator[None]:
        """Within the block ``module`` holds the averaged weights and is in evaluation mode."""
        own = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        training = module.training
        module.load_state_dict(self.tensors)
        module.eval()
        try:
            yield
        finally:
            module.load_state_dict(own)
            module.train(training)


def train(stage: Stage, config: StageConfig, run_dir: Path) -> bool:
    """Run ``stage`` to its end, resuming from the last checkpoint under ``run_dir``.

    Files go to ``run_dir/<stage>``, weights to ``run_dir/weights`` and, if the config says so, to ``export_to``.
    Returns False when SIGTERM or SIGINT stopped the run; a checkpoint is written before.
    """
    run = _Run(stage, config, run_dir)
    with run.log, stop_on_signal() as stop:
        finished = run.train_until(stop)
        run.save()
        if not finished:
            run.log.say(f"stopped at step {run.step}; the same command goes on from here")
            return False
        run.show()
        run.finish()
    return True


class _Run:
    """State of one run between two lines of its loop."""

    def __init__(self, stage: Stage, config: StageConfig, run_dir: Path) -> None:
        self.stage, self.config, self.run_dir = stage, config, run_dir
        self.folder = run_dir / stage.name
        self.step = 0
        torch.manual_seed(counter_seed(config.seed, stage.name, "build"))
        self.module = stage.build().to(config.device)
        if config.channels_last:
            self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = WeightAverage(self.module, decay=config.ema_decay)
        self.optimizer = make_optimizers(
            self.module,
            learning_rate=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            muon_rate=config.muon_rate,
        )
        checkpoint = load_latest(self.folder / "checkpoints")
        elapsed = self._restore(checkpoint) if checkpoint is not None else 0.0
        self.log = RunLog(self.folder, stage=stage.name, resumed_at=self.step)
        if checkpoint is not None:
            self._report_resume(checkpoint)
        # elapsed = now - _started, also after a resume
        self._started = time.monotonic() - elapsed
        self._saved_at = self._shown_at = time.monotonic()

    def _restore(self, checkpoint: Checkpoint) -> float:
        """Take over a checkpoint; returns its training seconds. Raises BadConfig where it is of another network."""
        folder = self.folder / "checkpoints"
        try:
            load_strict(self.module, checkpoint.model, source=f"the checkpoint in {folder}")
        except MissingWeights as error:
            raise BadConfig(f"{error.message} Delete {folder} or use another --run-dir.") from error
        self.step = checkpoint.progress.step
        for name, tensor in checkpoint.ema.items():
            self.average.tensors[name].copy_(tensor)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        return checkpoint.progress.elapsed

    def _report_resume(self, checkpoint: Checkpoint) -> None:
        self.log.say(f"resumed at step {self.step}")
        now = _plain(self.config)
        changed = [name for name in now if checkpoint.config.get(name, "absent") != now[name]]
        if changed:
            self.log.say(f"settings that changed since: {', '.join(changed)}")

    @property
    def progress(self) -> Progress:
        """How far the run is now."""
        return Progress(step=self.step, elapsed=time.monotonic() - self._started)

    def train_until(self, stop: threading.Event) -> bool:
        """Train to the end of the steps or of the time; False when ``stop`` came first."""
        # Numbers are read when they are logged: a GPU waits once a step as it is, for the norm of the gradient.
        unread: list[dict[str, torch.Tensor | float]] = []
        since = time.monotonic()
        while fraction_done(self.config, self.progress) < 1.0:
            unread.append(self._train_step())
            self.step += 1
            if self.step % self.config.log_steps == 0 or self.step == 1:
                values = _means(unread)
                values["seconds_per_step"] = (time.monotonic() - since) / len(unread)
                self._log(values)
                unread, since = [], time.monotonic()
            if stop.is_set():
                return False
            self._save_and_show_when_due()
        return True

    def _train_step(self) -> dict[str, torch.Tensor | float]:
        config = self.config
        torch.manual_seed(counter_seed(config.seed, self.stage.name, self.step))
        factor = rate_factor(config, self.progress)
        self.optimizer.scale_rates(factor)
        device = torch.device(config.device)
        batch = on_device(self.stage.batch(self.step), device)
        with bfloat16_products(device, wanted=config.autocast):
            loss, metrics = self.stage.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), config.clip_norm)
        if not math.isfinite(float(norm)):
            raise FloatingPointError(f"{self.stage.name}: gradient norm is {float(norm)} at step {self.step}")
        self.optimizer.step()
        self.average.update(self.module, step=self.step)
        rate = factor * config.learning_rate
        return {"loss": loss.detach(), **metrics, "gradient_norm": norm, "learning_rate": rate}

    def _log(self, values: dict[str, float]) -> None:
        self.log.scalars(self.step, values)
        progress = self.progress
        text = f"step {self.step}/{self.config.steps} loss {values['loss']:.4f} {values['seconds_per_step']:.2f} s/step"
        self.log.progress(fraction_done(self.config, progress), elapsed=progress.elapsed, text=text)

    def _save_and_show_when_due(self) -> None:
        config, now = self.config, time.monotonic()
        by_step = config.checkpoint_steps is not None and self.step % config.checkpoint_steps == 0
        if by_step or now - self._saved_at >= 60 * config.checkpoint_minutes:
            self.save()
        if now - self._shown_at >= 60 * config.sample_minutes:
            self.show()

    def save(self) -> None:
        """Write a checkpoint."""
        checkpoint = Checkpoint(
            progress=self.progress,
            model=self.module.state_dict(),
            ema=self.average.tensors,
            optimizer=self.optimizer.state_dict(),
            config=_plain(self.config),
        )
        save_checkpoint(self.folder / "checkpoints", checkpoint)
        self._saved_at = time.monotonic()

    def show(self) -> None:
        """Write a sample sheet, with the averaged weights."""
        with torch.no_grad(), self.average.in_place_of(self.module):
            picture_HWC = self.stage.sample(self.step)
        if picture_HWC is not None:
            write_png(self.folder / "samples" / f"step-{self.step:08d}.png", picture_HWC)
            self.log.picture(self.step, "samples", picture_HWC)
        self._shown_at = time.monotonic()

    def finish(self) -> None:
        """Evaluate and export the averaged weights."""
        with torch.no_grad(), self.average.in_place_of(self.module):
            measures = self.stage.evaluate()
            files = self.stage.export(self.run_dir / "weights")
            if self.config.export_to is not None:
                files += self.stage.export(Path(self.config.export_to))
                files.append(write_manifest(Path(self.config.export_to)))
        report = {
            "stage": self.stage.name,
            "step": self.step,
            "minutes": self.progress.elapsed / 60,
            **measures,
        }
        write_atomically(self.folder / "evaluation.json", (json.dumps(report, indent=2) + "\n").encode())
        shown = ", ".join(f"{name} {value:.4g}" for name, value in measures.items())
        self.log.say(f"finished at step {self.step}: {shown}")
        for file in files:
            self.log.say(f"wrote {file}")


def _means(metrics: list[dict[str, torch.Tensor | float]]) -> dict[str, float]:
    """The mean of each number over these steps; a step without it counts as 0."""
    sums: dict[str, float] = {}
    for step in metrics:
        for name, value in step.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return {name: total / len(metrics) for name, total in sums.items()}


def _plain(config: StageConfig) -> dict[str, Any]:
    """The config as JSON would give it back, so that two can be compared."""
    return dict(json.loads(json.dumps(asdict(config))))


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set instead of ending the process; inert outside the main thread."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    signals = (signal.SIGTERM, signal.SIGINT)
    previous = {number: signal.signal(number, lambda *_: stop.set()) for number in signals}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
