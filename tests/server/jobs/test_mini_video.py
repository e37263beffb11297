"""A very short video of the shipped model, by the ``openai`` client and with everything real."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import openai
import pytest
from live_server import PATIENCE_S
from PIL import Image
from videos_client import pictures

from ultraflash.server.engine import CASCADE


@pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
def test_mini_makes_a_video(start_server: Any) -> None:
    server = start_server(ULTRAFLASH_ENGINE=CASCADE)
    server.wait_until_ready()
    with openai.OpenAI(base_url=f"http://{server.address}/v1", api_key="none", timeout=PATIENCE_S) as client:
        video = client.videos.create_and_poll(
            prompt="snowy mountains at dawn", extra_body={"seed": 7, "num_frames": 12}, poll_interval_ms=500
        )
        assert (video.status, video.model) == ("completed", "mini")
        frames = pictures(client.videos.download_content(video.id).read())
        out = io.BytesIO()
        Image.fromarray(frames[-1]).save(out, "PNG")
        sent: dict[str, Any] = {"input_reference": ("last.png", out.getvalue(), "image/png")}
        started = client.videos.create_and_poll(
            prompt="snowy mountains at dawn",
            extra_body={"seed": 8, "num_frames": 12},
            poll_interval_ms=500,
            **sent,
        )
        (first, *_) = pictures(client.videos.download_content(started.id).read())
        words = "word " * 200
        with pytest.raises(openai.BadRequestError) as long:
            client.videos.create(prompt=words.strip()[:1000])
    assert f"{frames[0].shape[1]}x{frames[0].shape[0]}" == video.size
    assert len(frames) == 12
    assert frames[0].std() > 5
    assert started.status == "completed"
    # As near as the latents of the base, at half the resolution, come to a picture.
    assert np.abs(first.astype(float) - frames[-1]).mean() < 0.5 * frames[-1].std()
    assert long.value.code == "prompt_too_long"
