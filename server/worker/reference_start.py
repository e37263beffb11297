"""Lets a new stream, of a session or of a job, start from frames that an upload was read into.

Axis letters: T frames, H rows, W columns, C the channels R, G, B.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ultraflash.server.engine import Engine, EngineState, ReferenceTaker, reference_format
from ultraflash.server.media.reference_decoder import BadReference


def start_from(engine: Engine, state: EngineState, reference: str | None) -> None:
    """Shows a stream without a group what to go on from, if there is anything.

    Args:
        engine: of the stream.
        state: of the stream.
        reference: file of the frames, uint8 (T, H, W, 3) as numpy stores it; None for none.

    Raises:
        UltraflashError: engine and frames do not fit.
    """
    if reference is None:
        return
    wanted = reference_format(engine)
    try:
        frames_THWC = np.load(Path(reference), allow_pickle=False)
    except FileNotFoundError as error:
        raise BadReference("The picture to start from is no longer there; send it again.") from error
    if not isinstance(engine, ReferenceTaker) or frames_THWC.shape[1:] != (wanted.height, wanted.width, 3):
        raise BadReference(
            f"The picture was read for another model; {engine.preset.name} takes {wanted.width}x{wanted.height}. "
            "Send it again."
        )
    engine.start_from(state, frames_THWC)
