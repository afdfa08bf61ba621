"""Every public configuration of the line is read, or refused with the name of the missing feature.

The keys are those of published files: the folders of v1.0 to v1.3, upstream's JSON sections for MindSpeed-MM (v1.2, v1.3,
v1.5), the autoencoder examples of upstream and mindone, and what diffusers and transformers add.
"""

import warnings

import pytest

from mindsora.errors import InputError
from mindsora.models import registry

DIFFUSERS = {"_class_name": None, "_diffusers_version": "0.30.2", "_name_or_path": "/home/checkpoints/"}
EMA = {
    "decay": 0.9999,
    "inv_gamma": 1.0,
    "min_decay": 0.0,
    "optimization_step": 5500,
    "power": 0.6666666666666666,
    "update_after_step": 0,
    "use_ema_warmup": False,
}
DENOISER = {  # of all denoisers but v1.5's
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 96,
    "caption_channels": 4096,
    "cross_attention_dim": 2304,
    "double_self_attention": False,
    "dropout": 0.0,
    "interpolation_scale_h": 1.0,
    "interpolation_scale_t": 1.0,
    "interpolation_scale_w": 1.0,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-06,
    "num_attention_heads": 24,
    "num_layers": 32,
    "only_cross_attention": False,
    "patch_size": 2,
    "patch_size_t": 1,
    "upcast_attention": False,
}
V1_3 = DENOISER | {"in_channels": 8, "out_channels": 8, "sparse1d": True, "sparse_n": 4, "sample_size_t": 24}
V1_3 |= {"sample_size_h": 80, "sample_size_w": 80}
V1_2 = DENOISER | {
    "attention_mode": "xformers",
    "attention_type": "default",
    "downsampler": None,
    "in_channels": 4,
    "norm_num_groups": 32,
    "norm_type": "ada_norm_single",
    "num_embeds_ada_norm": 1000,
    "num_vector_embeds": None,
    "out_channels": 4,
    "sample_size": [60, 80],
    "sample_size_t": 24,
    "use_additional_conditions": None,
    "use_linear_projection": False,
    "use_rope": True,
    "use_stable_fp32": True,
}
LATTE = {  # v1.0, v1.1
    "_class_name": "LatteT2V",
    "attention_head_dim": 72,
    "compress_kv_factor": 1,
    "in_channels": 4,
    "model_max_length": 300,
    "num_attention_heads": 16,
    "num_layers": 28,
    "out_channels": 8,
    "rope_scaling_type": "linear",
    "use_rope": False,
    "video_length": 5,
}
PREDICTOR = {  # MindSpeed-MM's, v1.2 and v1.3
    "dtype": "bf16",
    "num_layers": 32,
    "num_heads": 24,
    "head_dim": 96,
    "dropout": 0.0,
    "cross_attention_dim": 2304,
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-06,
    "caption_channels": 4096,
    "interpolation_scale": [1.0, 1.0, 1.0],
    "from_pretrained": "/weights/diffusion_pytorch_model.safetensors",
}
PREDICTOR_V1_2 = {
    "model_id": "videodit",
    "in_channels": 4,
    "out_channels": 4,
    "input_size": [8, 60, 80],
    "patch_size": [1, 2, 2],
    "num_embeds_ada_norm": 1000,
    "norm_type": "ada_norm_single",
    "use_rope": True,
}
PREDICTOR_V1_3 = {
    "model_id": "OpenSoraI2V_v1_3",
    "in_channels": 8,
    "out_channels": 8,
    "patch_size": 2,
    "patch_size_t": 1,
    "sparse1d": True,
    "sparse_n": 4,
}
PREDICTOR_V1_5 = {
    "model_id": "SparseUMMDiT",
    "num_layers": [2, 4, 6, 8, 6, 4, 2],
    "sparse_n": [1, 2, 4, 8, 4, 2, 1],
    "double_ff": True,
    "sparse1d": True,
    "num_heads": 24,
    "head_dim": 128,
    "in_channels": 32,
    "out_channels": 32,
    "timestep_embed_dim": 1024,
    "caption_channels": 2048,
    "pooled_projection_dim": 1280,
    "skip_connection": True,
    "skip_connection_zero_init": True,
    "dropout": 0.0,
    "attention_bias": True,
    "patch_size": 2,
    "patch_size_t": 1,
    "activation_fn": "gelu-approximate",
    "norm_elementwise_affine": True,
    "norm_eps": 1e-06,
    "from_pretrained": None,
}
WAVELET = {
    "base_channels": 128,
    "connect_res_layer_num": 2,
    "decoder_energy_flow_hidden_size": 128,
    "decoder_num_resblocks": 2,
    "dropout": 0.0,
    "encoder_energy_flow_hidden_size": 64,
    "encoder_num_resblocks": 2,
    "latent_dim": 8,
    "norm_type": "layernorm",
    "t_interpolation": "trilinear",
    "use_attention": True,
}
LEVELS = {
    "l1_dowmsample_block": "Downsample",
    "l1_downsample_wavelet": "HaarWaveletTransform2D",
    "l1_upsample_block": "Upsample",
    "l1_upsample_wavelet": "InverseHaarWaveletTransform2D",
    "l2_dowmsample_block": "Spatial2xTime2x3DDownsample",
    "l2_downsample_wavelet": "HaarWaveletTransform3D",
    "l2_upsample_block": "Spatial2xTime2x3DUpsample",
    "l2_upsample_wavelet": "InverseHaarWaveletTransform3D",
}
SCALED = {"scale": [0.18215] * 4, "shift": [0, 0, 0, 0]}
SECTION_AE = {"model_id": "wfvae", "from_pretrained": "wfvae.ckpt", "dtype": "bf16", "output_dtype": "bf16"}
CAUSAL = {
    "attn_resolutions": [],
    "decoder_attention": "AttnBlock3DFix",
    "decoder_conv_in": "CausalConv3d",
    "decoder_conv_out": "CausalConv3d",
    "decoder_mid_resnet": "ResnetBlock3D",
    "decoder_resnet_blocks": ["ResnetBlock3D"] * 4,
    "decoder_spatial_upsample": ["", "SpatialUpsample2x", "SpatialUpsample2x", "SpatialUpsample2x"],
    "decoder_temporal_upsample": ["", "", "TimeUpsampleRes2x", "TimeUpsampleRes2x"],
    "double_z": True,
    "dropout": 0.0,
    "embed_dim": 4,
    "encoder_attention": "AttnBlock3DFix",
    "encoder_conv_in": "Conv2d",
    "encoder_conv_out": "CausalConv3d",
    "encoder_mid_resnet": "ResnetBlock3D",
    "encoder_resnet_blocks": ["ResnetBlock2D", "ResnetBlock2D", "ResnetBlock3D", "ResnetBlock3D"],
    "encoder_spatial_downsample": ["Downsample", "Downsample", "Downsample", ""],
    "encoder_temporal_downsample": ["", "TimeDownsampleRes2x", "TimeDownsampleRes2x", ""],
    "hidden_size": 128,
    "hidden_size_mult": [1, 2, 4, 4],
    "in_channels": 3,
    "loss_params": {"disc_start": 2001, "disc_weight": 0.5, "kl_weight": 1e-06, "logvar_init": 0.0},
    "loss_type": "opensora.models.ae.videobase.losses.LPIPSWithDiscriminator3D",
    "lr": 1e-05,
    "num_res_blocks": 2,
    "out_channels": 3,
    "q_conv": "CausalConv3d",
    "resolution": 256,
    "z_channels": 4,
}
SECTION_CAUSAL = {
    "model_id": "casualvae",
    "from_pretrained": "./weights/vae/casualvae_statedict.pt",
    "dtype": "fp32",
    "output_dtype": "fp16",
    "decoder_spatial_upsample": ["", "SpatialUpsample2x", "Spatial2xTime2x3DUpsample", "Spatial2xTime2x3DUpsample"],
    "decoder_temporal_upsample": [""] * 4,
    "encoder_conv_in": "Conv2d",
    "encoder_resnet_blocks": ["ResnetBlock2D", "ResnetBlock2D", "ResnetBlock3D", "ResnetBlock3D"],
    "encoder_spatial_downsample": ["Downsample", "Spatial2xTime2x3DDownsample", "Spatial2xTime2x3DDownsample", ""],
    "encoder_temporal_downsample": [""] * 4,
    "use_tiling": True,
    "tile_overlap_factor": 0.125,
    "vae_scale_factor": [4, 8, 8],
    "tile_sample_min_size": 512,
    "tile_latent_min_size": 64,
    "tile_sample_min_size_t": 29,
    "tile_latent_min_size_t": 8,
}
MT5 = {
    "model_type": "mt5",
    "vocab_size": 250112,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
    "torch_dtype": "bfloat16",
}


def named(config, class_name):
    return DIFFUSERS | config | {"_class_name": class_name}


FILES = {
    "v1.3 text to video, with EMA": ("OpenSoraT2V", named(V1_3 | EMA, "OpenSoraT2V_v1_3")),
    "v1.3 inpainting": ("OpenSoraInpaint", named(V1_3 | EMA | {"vae_scale_factor_t": 4}, "OpenSoraInpaint_v1_3")),
    "v1.3, earlier size": ("OpenSoraT2V", V1_3 | {"sample_size": [80, 80]}),
    "v1.2 text to video": ("OpenSoraT2V", named(V1_2 | EMA, "OpenSoraT2V")),
    "v1.2, null scales": ("OpenSoraT2V", named(V1_2 | {"interpolation_scale_h": None}, "OpenSoraT2V")),
    "v1.2 inpainting": ("OpenSoraInpaintV1_2", named(V1_2 | EMA | {"vae_scale_factor_t": 4}, "OpenSoraInpaint")),
    "MindSpeed-MM v1.2": ("OpenSoraT2V", PREDICTOR | PREDICTOR_V1_2),
    "MindSpeed-MM v1.3": ("OpenSoraT2V", PREDICTOR | PREDICTOR_V1_3),
    "MindSpeed-MM v1.5": ("SUV", PREDICTOR_V1_5),
    "v1.5 with EMA": ("SUV", PREDICTOR_V1_5 | EMA | {"_use_default_values": ["norm_cls"]}),
    "WF-VAE, upstream's example": ("WFVAE", named(WAVELET | LEVELS, "WFVAEModel")),
    "WF-VAE of 16 channels": (
        "WFVAE",
        named(WAVELET | LEVELS | SCALED | {"latent_dim": 16, "attention_type": "AttnBlock3DFix"}, "WFVAE"),
    ),
    "WF-VAE, trained with a rate": ("WFVAE", named(WAVELET | LEVELS | {"lr": 1e-5}, "WFVAEModel")),
    "MindSpeed-MM's WF-VAE": ("WFVAE", WAVELET | SECTION_AE | {"vae_scale_factor": [4, 8, 8]}),
    "MindSpeed-MM's WF-VAE in tests": (
        "WFVAE",
        WAVELET | SECTION_AE | {"norm_type": "aelayernorm", "use_tiling": False, "vae_cp_size": 1},
    ),
    "mindone's CausalVAE": ("CausalVAE", named(CAUSAL, "CausalVAEModel")),
    "MindSpeed-MM's CausalVAE": ("CausalVAE", SECTION_CAUSAL),
    "mT5 of transformers": ("T5Encoder", MT5 | {"_name_or_path": "google/mt5-xxl", "use_cache": True}),
    "mT5 of a section": (
        "T5Encoder",
        MT5 | {"hub_backend": "hf", "local_files_only": False, "low_cpu_mem_usage": True},
    ),
    "unquantised by name": ("T5Encoder", MT5 | {"quantization_config": None}),
}


@pytest.mark.parametrize("model, config", FILES.values(), ids=FILES)
def test_a_published_configuration_is_read_without_a_word(model, config):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert registry.spec(model).config.from_upstream(config)


def test_every_spelling_of_a_network_is_the_same_network():
    def read(name):
        model, config = FILES[name]
        return registry.spec(model).config.from_upstream(config)

    assert read("MindSpeed-MM v1.3") == read("v1.3 text to video, with EMA") == read("v1.3, earlier size")
    assert read("MindSpeed-MM v1.5") == read("v1.5 with EMA")
    assert read("WF-VAE, upstream's example") == read("MindSpeed-MM's WF-VAE") == read("WF-VAE, trained with a rate")
    dense, port = read("v1.2 text to video"), read("MindSpeed-MM v1.2")
    assert dense.sparse_n == 1 and dense.in_channels == port.in_channels == 4
    assert read("v1.2, null scales").interpolation_scale == (1.0, 2.0, 1.0)  # 60 / 30


@pytest.mark.parametrize(
    "model, config, words",
    [
        ("OpenSoraT2V", DENOISER | LATTE, ["LatteT2V", "another network"]),
        ("OpenSoraT2V", V1_2 | {"_class_name": "OpenSoraT2V", "use_rope": False}, ["use_rope = False"]),
        (
            "OpenSoraT2V",
            V1_2 | {"_class_name": "OpenSoraT2V", "downsampler": "k333_s222"},
            ["downsampler = 'k333_s222'"],
        ),
        ("OpenSoraT2V", V1_2 | {"_class_name": "OpenSoraT2V", "sparse_n": 4}, ["sparse_n = 4", "v1.2", "sparse_n = 1"]),
        (
            "OpenSoraT2V",
            V1_3 | {"interpolation_scale_t": None, "sample_size_t": None},
            ["interpolation_scale_t is null"],
        ),
        ("OpenSoraT2V", V1_3 | {"quantization_config": {"quant_method": "gptq"}}, ["quantization_config", "gptq"]),
        ("OpenSoraInpaint", V1_2 | {"_class_name": "OpenSoraInpaint"}, ["configuration of OpenSoraInpaintV1_2"]),
        ("T5Encoder", MT5 | {"load_in_8bit": True}, ["load_in_8bit = True", "unquantised"]),
        ("WFVAE", WAVELET | {"attention_type": "AttnBlock3D"}, ["attention_type = 'AttnBlock3D'"]),
        ("SUV", PREDICTOR_V1_5 | {"skip_conection": True}, ["unknown key 'skip_conection'"]),
    ],
)
def test_another_network_is_refused_by_name(model, config, words):
    with pytest.raises(InputError) as error:
        spec = registry.spec(model)
        (spec.cell if model.startswith("OpenSora") else spec.config).from_upstream(config)
    assert all(word in str(error.value) for word in words), error.value


def test_keys_that_look_like_a_trainings_are_named_and_not_refused():
    config = V1_3 | {"global_step": 5500, "ema_rate": 0.999, "lr_scheduler": "constant"}
    with pytest.warns(UserWarning, match="'global_step', 'ema_rate', 'lr_scheduler'.*not read"):
        found = registry.spec("OpenSoraT2V").config.from_upstream(config)
    assert found == registry.spec("OpenSoraT2V").config.from_upstream(V1_3)
