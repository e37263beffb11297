"""Fetching official weights from the Hugging Face hub, once, into files of ours."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

from ultraflash.models.checkpoints.conversion import convert, official_files
from ultraflash.models.checkpoints.files import stored_files
from ultraflash.models.errors import HubUnreachable, MissingExtra, MissingWeights
from ultraflash.models.preset import Preset
from ultraflash.models.sources import Source
from ultraflash.models.wan_vae import VAE
from ultraflash.models.weights import MANIFEST


def missing_sources(preset: Preset) -> tuple[Source, ...]:
    """Sources of a preset that are not converted on this machine yet; none where the preset has its own folder."""
    if preset.weights:
        return ()
    return tuple(source for source in preset.sources if not _is_converted(source))


def _is_converted(source: Source) -> bool:
    # The manifest comes last, so that a conversion that was cut short is done again.
    return (source.folder / MANIFEST).is_file() and bool(stored_files(source.folder, source.part))


def pull(preset: Preset, *, say: Callable[[str], None]) -> tuple[Source, ...]:
    """Fetch and convert what a preset lacks. ``HF_TOKEN`` and ``HF_HOME`` are honoured.

    Official files that already lie in a source's folder are converted without asking the hub. Wan's VAE only serves
    streams that start from pictures: where it cannot be had, ``say`` is told why, and the rest is fetched all the same.

    Args:
        preset: whose weights.
        say: told what is being done, a line at a time.

    Returns:
        The sources that were fetched or converted.

    Raises:
        MissingExtra: huggingface_hub is not installed, and another network than the VAE is lacking.
        HubUnreachable: the hub does not answer or does not give such a network's files; the message says which go
            where.
        MissingWeights: a file of such a network is not in its repository, or holds something else than it should.
    """
    lacking = missing_sources(preset)
    required = tuple(source for source in lacking if source.part != VAE)
    for source in required:
        _fetch(preset, source, lacking, say)
    done = required
    for source in (source for source in lacking if source.part == VAE):
        done += _fetch_vae(preset, source, say)
    return done


def _fetch_vae(preset: Preset, source: Source, say: Callable[[str], None]) -> tuple[Source, ...]:
    """The source if it could be had, else nothing, after saying why."""
    try:
        _fetch(preset, source, (source,), say)
    except (HubUnreachable, MissingExtra, MissingWeights) as error:
        say(f"no {VAE}, so streams cannot start from pictures: {error.message}")
        return ()
    return (source,)


def _fetch(preset: Preset, source: Source, lacking: Sequence[Source], say: Callable[[str], None]) -> None:
    """Fetch and convert one source; ``lacking`` are those that a message tells about when the hub refuses."""
    files = _own_copies(source)
    if not files:
        say(f"fetching {', '.join(wanted_files(source))} of {source.repo}")
        files = official_files(source, _snapshot(preset, source, lacking))
    say(f"converting {source.part} to {source.folder}")
    convert(preset, source, files, source.folder)


def wanted_files(source: Source) -> tuple[str, ...]:
    """Names and patterns of all files of a source."""
    return (*source.files, *([source.lora] if source.lora else []))


def fetch_folder(repo: str, *, token: str | None = None) -> Path:
    """A whole repository of the hub, as :meth:`UltraFlashPipeline.save_pretrained` writes one.

    Raises:
        MissingExtra: huggingface_hub is not installed.
        HubUnreachable: the hub does not answer or has no such repository.
    """
    try:
        return _download(repo, patterns=None, token=token)
    except _Refused as error:
        raise HubUnreachable(
            f"cannot fetch https://huggingface.co/{repo} ({error}); download it and give the folder's path"
        ) from error


class _Refused(Exception):
    """What the hub's client said, in one line."""


def _own_copies(source: Source) -> tuple[Path, ...]:
    try:
        return official_files(source, source.folder)
    except MissingWeights:
        return ()  # not all of them are there, so that the hub is asked


def _snapshot(preset: Preset, source: Source, lacking: Sequence[Source]) -> Path:
    try:
        return _download(source.repo, patterns=list(wanted_files(source)), token=None)
    except _Refused as error:
        places = "\n".join(f"  {each.told} into {each.folder}" for each in lacking)
        raise HubUnreachable(
            f"cannot fetch the weights of {preset.name} from the Hugging Face hub ({error}). On a machine with a "
            f"network, download these files, put them into these folders, and run the command again:\n{places}"
        ) from error


def _download(repo: str, *, patterns: list[str] | None, token: str | None) -> Path:
    if importlib.util.find_spec("huggingface_hub") is None:
        raise MissingExtra(
            "fetching weights wants huggingface_hub; install it with: pip install huggingface_hub"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    failures: tuple[type[Exception], ...] = (OSError, HfHubHTTPError, HFValidationError)
    if importlib.util.find_spec("httpx") is not None:
        import httpx  # newer clients let its errors through

        failures = (*failures, httpx.HTTPError)
    try:
        return Path(snapshot_download(repo, allow_patterns=patterns, token=token))
    except failures as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise _Refused(lines[0]) from error
