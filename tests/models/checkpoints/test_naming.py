import pytest
import torch
from diffusers import WanTransformer3DModel
from tiny_official import Official

from ultraflash.kernels.attention import dense_attention
from ultraflash.models.checkpoints.naming import (
    halves,
    renamed,
    state_dict_of,
    trimmed_growth,
    umt5_names,
    unwrapped,
    upsampler_factor,
    wan_names,
)
from ultraflash.models.dit import CausalDiT, DiTConfig
from ultraflash.models.errors import MissingWeights
from ultraflash.models.weights import check_fit, load_strict

ONE = torch.ones(1)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("model.blocks.0.self_attn.q.weight", "blocks.0.self_attn.q.weight"),
        ("model._fsdp_wrapped_module.blocks.3._fsdp_wrapped_module.ffn.0.bias", "blocks.3.ffn.0.bias"),
        ("module.model._orig_mod.head.modulation", "head.modulation"),
        ("blocks.0._checkpoint_wrapped_module.modulation", "blocks.0.modulation"),
        ("patch_embedding.weight", "patch_embedding.weight"),
        ("model", "model"),
    ],
)
def test_what_wrappers_put_into_a_name_is_removed(key: str, name: str) -> None:
    assert unwrapped(key) == name


def test_two_names_that_become_one_are_refused() -> None:
    with pytest.raises(MissingWeights, match=r"the file holds a\.b twice, once as model\.a\.b"):
        renamed({"a.b": ONE, "model.a.b": ONE}, unwrapped, source="the file")


def test_averaged_weights_come_before_the_last_ones() -> None:
    last, averaged = {"a": torch.zeros(1)}, {"a": ONE}
    assert state_dict_of({"generator": last, "generator_ema": averaged}, source="x")["a"].eq(1).all()
    assert state_dict_of({"generator": last, "step": 5}, source="x") == last
    assert state_dict_of({"generator": {"model": averaged}}, source="x") == averaged
    assert state_dict_of(last, source="x") == last


@pytest.mark.parametrize("checkpoint", [{}, {"step": 5}, {"generator": {"a": "b"}}])
def test_a_checkpoint_without_a_network_is_refused(checkpoint: dict[str, object]) -> None:
    with pytest.raises(MissingWeights, match="holds no network"):
        state_dict_of(checkpoint, source="the file")


def test_diffusers_transformer_gives_the_same_numbers_with_the_same_weights() -> None:
    config = DiTConfig(
        in_channels=16,
        out_channels=16,
        dim=48,
        ffn_dim=64,
        layers=2,
        heads=2,
        text_tokens=7,
        text_dim=20,
        freq_dim=16,
    )
    torch.manual_seed(3)
    theirs = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=16,
        out_channels=16,
        text_dim=20,
        freq_dim=16,
        ffn_dim=64,
        num_layers=2,
        cross_attn_norm=True,
        rope_max_seq_len=32,
    ).eval()
    for parameter in theirs.parameters():
        parameter.data = torch.randn(parameter.shape) * (0.3 if parameter.dim() > 1 else 1.0)
    ours = CausalDiT(config).eval()
    load_strict(ours, wan_names(theirs.state_dict(), source="diffusers"), source="diffusers")
    latent, text = torch.randn(1, 16, 3, 4, 6), torch.randn(1, 7, 20)
    with torch.no_grad():
        expected = theirs(
            hidden_states=latent, timestep=torch.tensor([625]), encoder_hidden_states=text, return_dict=False
        )[0]
        flow = ours(
            latent,
            torch.full((1, 1), 625.0),
            ours.encode_text(text),
            torch.arange(3),
            lambda _, q, k, v: dense_attention(q, k, v),
        )
    assert expected.std() > 0.1
    torch.testing.assert_close(flow, expected, atol=1e-4, rtol=1e-4)


def test_wan_names_are_the_same_from_either_naming(official: Official) -> None:
    tensors = official.tensors["base"]
    wrapped = {f"model.{key}": value for key, value in tensors.items()}
    assert wan_names(wrapped, source="x").keys() == tensors.keys()


def test_a_repeated_token_embedding_counts_once() -> None:
    tensors = {"shared.weight": ONE, "encoder.embed_tokens.weight": ONE}
    assert umt5_names(tensors, source="x").keys() == {"shared.weight"}


def test_of_larger_convolutions_that_grow_time_the_last_rows_count() -> None:
    rows = torch.arange(6.0).view(6, 1, 1, 1)
    tensors = {"7.conv.weight": rows, "8.weight": torch.ones(6, 1, 3, 3)}
    shapes = {"7.conv.weight": torch.Size((2, 1, 1, 1)), "8.weight": torch.Size((2, 1, 3, 3))}
    trimmed = trimmed_growth(tensors, shapes)
    assert trimmed["7.conv.weight"].flatten().tolist() == [4, 5]
    assert trimmed["8.weight"].shape[0] == 6
    assert tensors["7.conv.weight"].shape[0] == 6


@pytest.mark.parametrize(
    ("rows", "factor"), [([512], 2), ([1152], 3), ([512, 512], 4), ([512, 1152], 6), ([], None)]
)
def test_an_upsampler_tells_its_factor_by_its_shapes(rows: list[int], factor: int | None) -> None:
    shapes = {f"pre_shuffle.{i}.weight": (count, 16, 3, 3) for i, count in enumerate(rows)}
    assert upsampler_factor({**shapes, "final.weight": (16, 128, 3, 3)}) == factor
    assert upsampler_factor(shapes) is None


def test_an_autoencoder_comes_apart_into_its_halves() -> None:
    encoder, decoder = halves({"encoder.0.weight": ONE, "decoder.1.weight": 2 * ONE})
    assert encoder == {"0.weight": ONE} and decoder == {"1.weight": 2 * ONE}


def test_the_encoder_of_wan_has_all_that_transformers_wants(official: Official) -> None:
    from transformers import UMT5EncoderModel

    from ultraflash.models.umt5 import umt5_config

    named = umt5_names(official.tensors["text"], source="x")
    with torch.device("meta"):
        net = UMT5EncoderModel(umt5_config(named))
    tied = {"encoder.embed_tokens.weight": named["shared.weight"]}
    wanted = net.state_dict().keys()
    check_fit(net, named | {key: value for key, value in tied.items() if key in wanted}, source="x")
