"""Arguments of public classes as configurations: what they say is read, or refused."""

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from reeltok.models.convert_arguments import vidtok_config
from reeltok.models.convert_coordtok import coordtok_config
from reeltok.models.presets import VIDTOK

PARAMS = {
    "double_z": True,
    "z_channels": 4,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "time_downsample_factor": 4,
    "num_res_blocks": 2,
    "dropout": 0.0,
    "use_checkpoint": False,
    "init_pad_mode": "replicate",
    "norm_type": "layernorm",
    "fix_encoder": False,
    "fix_decoder": False,
}
MODULES = "vidtok.modules"
FIRST, SECOND = f"{MODULES}.model_3dcausal", f"{MODULES}.model_3dcausal_v1_1"


def arguments(**changes: Any) -> dict[str, Any]:
    """A published file's three parts, with other arguments of the encoder; None leaves one out."""
    params = {k: v for k, v in (deepcopy(PARAMS) | changes).items() if v is not None}
    return {
        "encoder": {"target": f"{FIRST}.EncoderCausal3DPadding", "params": params},
        "decoder": {
            "target": f"{FIRST}.DecoderCausal3DPadding",
            "params": "${model.params.encoder_config.params}",
        },
        "regularizer": {"target": f"{MODULES}.regularizers.DiagonalGaussianRegularizer"},
    }


def of_fsq(levels: list[int], **params: Any) -> dict[str, Any]:
    made = arguments(double_z=False)
    regularizer = {"target": f"{MODULES}.regularizers.FSQRegularizer"}
    return made | {"regularizer": regularizer | {"params": {"levels": levels, **params}}}


def of_second(encoder: dict[str, Any], decoder: Any) -> dict[str, Any]:
    made = arguments(**encoder)
    made["encoder"]["target"] = f"{SECOND}.EncoderCausal3DPadding"
    return made | {"decoder": {"target": f"{SECOND}.DecoderCausal3DPadding", "params": decoder}}


def test_published_files_are_the_presets(shared: Path) -> None:
    assert vidtok_config(arguments()) == VIDTOK["vidtok_kl_causal_488_4chn"]
    assert vidtok_config(of_fsq([8] * 4)) == VIDTOK["vidtok_fsq_causal_488_4096"]
    for path in shared.glob("parity/vidtok/*.safetensors"):
        with safe_open(path, "pt") as file:
            found = vidtok_config(json.loads(file.metadata()["kwargs"]))
        assert found.edge == VIDTOK[f"vidtok_{re.sub('_(long|T5).*', '', path.stem)}"].edge


def test_the_decoder_says_how_it_interpolates() -> None:
    trilinear, nearest = {"interpolation_mode": "trilinear"}, {"interpolation_mode": "nearest"}
    wanted = VIDTOK["vidtok_kl_causal_488_4chn_v1_1"]
    for encoder, decoder in ((trilinear, None), ({}, trilinear), (trilinear, trilinear)):
        assert vidtok_config(of_second(encoder, decoder)) == wanted
    with pytest.raises(ValueError, match="'nearest' of the encoder, but 'trilinear' of the dec"):
        vidtok_config(of_second(nearest, trilinear))
    other = arguments() | {"decoder": {"target": f"{SECOND}.DecoderCausal3DPadding"}}
    with pytest.raises(ValueError, match="give the one of the same release"):
        vidtok_config(other)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (arguments(bogus=1), "'bogus' is unknown"),
        (arguments(tempo_dss=[1]), "did you mean 'tempo_ds'?"),
        (arguments(norm_type="batchnorm"), "norm_type='batchnorm'"),
        (arguments(interpolation_mode="linear"), "interpolation_mode='linear'"),
        (arguments(interpolation_mode="trilinear"), "is of model_3dcausal_v1_1 alone"),
        (arguments(ch="8"), "ch='8': Input should be a valid integer"),
        (arguments(ch=8.0), "ch=8.0: Input should be a valid integer"),
        (arguments(out_ch=4), "4 channels of frames made from 3: give both the same"),
        (arguments(double_z=False), "a gaussian regularizer needs True"),
        (arguments(time_downsample_factor=2), "time_downsample_factor=2, but"),
        (arguments(tanh_out=True), "tanh_out=True"),
        (arguments(ch=None), "ch is missing"),
        (of_fsq([8] * 7), "z_channels=4, but the regularizer has levels="),
        (of_fsq([8] * 4, num_codebooks=2), "num_codebooks=2"),
        (arguments() | {"regularizer": {"target": "x.LFQ"}}, "regularizer.target='x.LFQ'"),
        (arguments(ch_mult=4), "ch_mult=4: Input should be a valid tuple"),
        (arguments(ch_mult=[]), "ch_mult=[]: Tuple should have at least 1 item"),
        (arguments() | {"encoder": 7}, "encoder=7: Input should be"),
        (arguments(tempo_ds=[1]), "the decoder must double as often as the encoder halves"),
        (of_fsq([1] * 4), "Input should be greater than or equal to 2"),
        ({"encoder": arguments()["encoder"]}, "regularizer is missing"),
    ],
)
def test_arguments_of_no_public_class_are_one_sentence(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        vidtok_config(given)
    assert str(caught.value).startswith("the arguments of VidTok: ")
    assert str(caught.value).isprintable()


FLAT = {
    "_class_name": "AutoencoderVidTok",
    "_diffusers_version": "0.36.0",
    "in_channels": 3,
    "out_channels": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "z_channels": 4,
    "double_z": True,
    "num_res_blocks": 2,
    "spatial_ds": None,
    "spatial_us": None,
    "tempo_ds": None,
    "tempo_us": None,
    "dropout": 0.0,
    "regularizer": "kl",
    "codebook_size": 262144,
    "is_causal": True,
}
FLAT_FSQ = FLAT | {"regularizer": "fsq", "double_z": False, "codebook_size": 4096}


def test_a_configuration_of_diffusers_is_read() -> None:
    assert vidtok_config(FLAT) == VIDTOK["vidtok_kl_causal_488_4chn_v1_1"]
    codes = vidtok_config(FLAT_FSQ).quantizer
    assert codes == VIDTOK["vidtok_fsq_causal_488_4096"].quantizer
    # diffusers rounds the logarithm down, and so loads this.
    assert vidtok_config(FLAT_FSQ | {"codebook_size": 5000}).quantizer == codes


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (FLAT | {"regularizer": "vq"}, "regularizer='vq': Input should be 'kl' or 'fsq'"),
        (FLAT | {"regularizer": None}, "regularizer=None: Input should be 'kl' or 'fsq'"),
        (FLAT | {"out_channels": 5}, "5 channels of frames made from 3: give both the same"),
        (FLAT | {"double_z": False}, "double_z=False, but a gaussian regularizer needs True"),
        (FLAT_FSQ | {"double_z": True}, "double_z=True, but a fsq regularizer needs False"),
        (FLAT_FSQ | {"codebook_size": 65536}, "codebook_size=65536, but z_channels=4"),
        (FLAT_FSQ | {"codebook_size": 5}, "codebook_size=5, but z_channels=4"),
        (FLAT | {"ch": 8.0}, "ch=8.0: Input should be a valid integer"),
        (FLAT | {"in_channels": "3"}, "in_channels='3': Input should be a valid integer"),
        (FLAT | {"num_res_blocks": True}, "num_res_blocks=True"),
        (FLAT | {"is_causal": "false"}, "is_causal='false': Input should be a valid boolean"),
        (FLAT | {"z_channels": None}, "z_channels=None: Input should be a valid integer"),
        (FLAT | {"bogus": 1}, "'bogus' is unknown"),
    ],
)
def test_what_diffusers_does_not_write_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        vidtok_config(given)
    assert str(caught.value).startswith("the arguments of VidTok: ")
    assert str(caught.value).isprintable()


def test_arguments_of_coordtok_that_fit_no_other_are_one_sentence() -> None:
    with pytest.raises(ValueError, match="CoordTok: width 1024 does not divide by 3") as caught:
        coordtok_config({"enc_num_heads": 3})
    assert str(caught.value).isprintable()
