import pytest

from ultraflash.training.evaluation.camera import pan_of
from ultraflash.training.evaluation.streams import make_prompts
from ultraflash.training.vista.painter import render


@pytest.mark.parametrize("camera", ["pan left", "pan right"])
def test_pans_of_rendered_clips_are_read_as_they_were_drawn(camera: str) -> None:
    prompts = [p for p in make_prompts(40, split="test", seed=3) if p.scene.camera == camera][:4]
    assert len(prompts) == 4
    read = [pan_of(render(p.scene, frames=25, height=64, width=112, start_s=1.0)) for p in prompts]
    assert read.count(camera) >= 3
    assert {"pan left", "pan right"} - {camera} != set(read)


def test_a_picture_that_does_not_move_is_still() -> None:
    scene = make_prompts(1, split="test", seed=3)[0].scene
    picture = render(scene, frames=1, height=64, width=112)
    assert pan_of(picture.expand(9, -1, -1, -1)) == "still"
