"""The zoo of `survey_capture.py`: how each model is built, and its inputs for a batch of b."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Call = Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]]


@dataclass(frozen=True)
class Case:
    """`build() → model, call` with `call(b) → args, kwargs`."""

    kind: str
    name: str
    build: Callable[[], tuple[nn.Module, Call]]


def images(b: int, channels: int = 3, size: int = 64) -> tuple[tuple[Tensor], dict[str, Any]]:
    """`x[b, c, size, size]`."""
    return (torch.randn(b, channels, size, size),), {}


# -- timm ------------------------------------------------------------------------------------------

LARGE = 20_000_000  # parameters; above, transformers have three blocks
DROPS = ("drop_rate", "attn_drop_rate", "drop_path_rate")


def timm_cases() -> Iterator[Case]:
    """The smallest model of each family."""
    import timm
    from survey_timm import smallest

    for family in timm.list_modules():
        yield Case("timm", family, partial(timm_model, family, smallest))


def timm_model(family: str, smallest: Callable[[str], str]) -> tuple[nn.Module, Call]:
    """At the smallest size that runs, with as many kinds of dropout as the model takes."""
    from survey_timm import build, create, randomise, works

    name = smallest(family)
    net, size = build(name)
    channels = getattr(net, "default_cfg", {}).get("input_size", (3,))[0]
    choices = [DROPS, DROPS[::2], DROPS[:1], DROPS[2:], ()]
    large = sum(p.numel() for p in net.parameters()) > LARGE
    for short in ({"depth": 3}, {}) if large else ({},):
        for sized in ({"img_size": size}, {}):
            for drops in choices:
                with contextlib.suppress(Exception):
                    other = create(name, **sized, **short, **dict.fromkeys(drops, 0.1))
                    if works(other, size):
                        randomise(other)
                        return other, partial(images, channels=channels, size=size)
    randomise(net)
    return net, partial(images, channels=channels, size=size)


# -- torchvision -----------------------------------------------------------------------------------

VISION = {
    "alexnet": 64, "vgg11_bn": 32, "resnet18": 64, "squeezenet1_1": 64, "densenet121": 64,
    "inception_v3": 96, "googlenet": 64, "shufflenet_v2_x0_5": 64, "mobilenet_v2": 64,
    "mobilenet_v3_small": 64, "resnext50_32x4d": 64, "wide_resnet50_2": 64, "mnasnet0_5": 64,
    "efficientnet_b0": 64, "efficientnet_v2_s": 64, "regnet_y_400mf": 64, "vit_b_32": 64,
    "convnext_tiny": 64, "swin_t": 64, "swin_v2_t": 64, "maxvit_t": 64,
    "fcn_resnet50": 64, "deeplabv3_mobilenet_v3_large": 64, "lraspp_mobilenet_v3_large": 64,
}  # fmt: skip


def vision_cases() -> Iterator[Case]:
    """Classifiers and segmenters, by name and size."""
    for name, size in VISION.items():
        yield Case("torchvision", name, partial(vision_model, name, size))


def vision_model(name: str, size: int) -> tuple[nn.Module, Call]:
    """Ten classes; models for one size are built for this one."""
    import torchvision
    from survey_timm import randomise

    extra: dict[str, Any] = {"num_classes": 10}
    if name in ("inception_v3", "googlenet"):
        extra["init_weights"] = False
    if name == "inception_v3":
        extra["aux_logits"] = False  # these need 299 pixels
    if name.startswith("vit"):
        extra["image_size"] = size
    if name == "maxvit_t":
        net = torchvision.models.MaxVit(
            (size, size), 16, 2, [16, 32], [1, 1], 8, 0.1, num_classes=10
        )
    else:
        if "resnet50" in name[4:] or "mobilenet_v3_large" in name[4:]:
            extra["weights_backbone"] = None
        if name == "wide_resnet50_2":
            del extra["weights_backbone"]
        net = torchvision.models.get_model(name, weights=None, **extra)
    randomise(net)
    return net, partial(images, size=size)


# -- Hugging Face ----------------------------------------------------------------------------------

SMALL = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "vocab_size": 40, "max_position_embeddings": 32,
}  # fmt: skip
PICTURES = {**SMALL, "image_size": 16, "patch_size": 4}
STAGES = {"depths": [1, 1], "num_heads": [2, 2], "embed_dim": 8, "image_size": 16, "patch_size": 2}


def ids(b: int) -> tuple[tuple[()], dict[str, Tensor]]:
    """Token ids with a mask that hides the end of the last sample."""
    mask = torch.ones(b, 7, dtype=torch.long)
    mask[-1, 5:] = 0
    return (), {"input_ids": torch.randint(3, 40, (b, 7)), "attention_mask": mask}


def pixels(b: int, size: int = 16) -> tuple[tuple[()], dict[str, Tensor]]:
    """Images by name."""
    return (), {"pixel_values": torch.randn(b, 3, size, size)}


def both(b: int) -> tuple[tuple[()], dict[str, Tensor]]:
    """Texts and images."""
    return (), {**ids(b)[1], **pixels(b)[1]}


def pairs(b: int) -> tuple[tuple[()], dict[str, Tensor]]:
    """A source, and what the decoder has so far."""
    return (), {**ids(b)[1], "decoder_input_ids": torch.randint(3, 40, (b, 5))}


def speech(b: int) -> tuple[tuple[()], dict[str, Tensor]]:
    """Spectrograms, and what the decoder has so far."""
    features = torch.randn(b, 8, 20)
    return (), {"input_features": features, "decoder_input_ids": torch.randint(3, 40, (b, 5))}


def sound(b: int) -> tuple[tuple[()], dict[str, Tensor]]:
    """Waves."""
    return (), {"input_values": torch.randn(b, 400)}


LLAMA = {**SMALL, "num_key_value_heads": 1, "attention_dropout": 0.1}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": 40}
WHISPER = {
    "vocab_size": 40, "num_mel_bins": 8, "encoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_layers": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24, "d_model": 16, "max_source_positions": 10, "max_target_positions": 16,
    "dropout": 0.1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 1, "suppress_tokens": None, "begin_suppress_tokens": None,
}  # fmt: skip
WAVES = {
    **SMALL, "conv_dim": (8, 8), "conv_kernel": (10, 3), "conv_stride": (5, 2),
    "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
    "mask_time_length": 2, "mask_feature_length": 2, "layerdrop": 0.1,
}  # fmt: skip
CLIP = {
    "text_config": {**SMALL, "projection_dim": 12, "eos_token_id": 2},
    "vision_config": {**PICTURES, "projection_dim": 12},
    "projection_dim": 12,
}
SEGFORMER = {
    "depths": [1, 1], "hidden_sizes": [8, 16], "num_attention_heads": [1, 2],
    "num_encoder_blocks": 2, "sr_ratios": [2, 1], "patch_sizes": [7, 3], "strides": [4, 2],
    "mlp_ratios": [2, 2], "decoder_hidden_size": 8,
}  # fmt: skip
HUGGING: dict[str, tuple[str, dict[str, Any], Call]] = {
    "BertForSequenceClassification": ("BertConfig", SMALL, ids),
    "DistilBertForMaskedLM": (
        "DistilBertConfig",
        {"vocab_size": 40, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24},
        ids,
    ),
    "AlbertModel": ("AlbertConfig", {**SMALL, "embedding_size": 8}, ids),
    "GPT2LMHeadModel": (
        "GPT2Config",
        {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
        ids,
    ),
    "LlamaForCausalLM": ("LlamaConfig", LLAMA, ids),
    "Qwen2ForCausalLM": ("Qwen2Config", LLAMA, ids),
    "MixtralForCausalLM": ("MixtralConfig", {**LLAMA, "num_local_experts": 3}, ids),
    "T5ForConditionalGeneration": ("T5Config", T5, pairs),
    "WhisperForConditionalGeneration": ("WhisperConfig", WHISPER, speech),
    "Wav2Vec2Model": ("Wav2Vec2Config", WAVES, sound),
    "CLIPModel": ("CLIPConfig", CLIP, both),
    "ViTForImageClassification": ("ViTConfig", PICTURES, pixels),
    "SwinForImageClassification": ("SwinConfig", {**STAGES, "window_size": 4}, pixels),
    "Dinov2Model": ("Dinov2Config", PICTURES, pixels),
    "ConvNextForImageClassification": (
        "ConvNextConfig",
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "drop_path_rate": 0.1},
        partial(pixels, size=32),
    ),
    "SegformerForSemanticSegmentation": ("SegformerConfig", SEGFORMER, partial(pixels, size=32)),
    "MambaForCausalLM": (
        "MambaConfig",
        {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
        ids,
    ),
}


def hugging_cases() -> Iterator[Case]:
    """Tiny configurations."""
    for name in HUGGING:
        yield Case("hf", name, partial(hugging_model, name))


def hugging_model(name: str) -> tuple[nn.Module, Call]:
    """From its configuration, without the hub."""
    import transformers
    from survey_timm import randomise

    config, options, call = HUGGING[name]
    transformers.logging.set_verbosity_error()
    chosen = getattr(transformers, config)(**options)
    if hasattr(chosen, "use_cache"):  # a key-value cache is an object that a graph cannot hold
        chosen.use_cache = False
    net = getattr(transformers, name)(chosen)
    randomise(net)
    return net, call


# -- graphs and clouds -----------------------------------------------------------------------------

BASIC = ("GCN", "GAT", "GIN", "GraphSAGE", "EdgeCNN", "PNA")


def graph_cases() -> Iterator[Case]:
    """torch_geometric's models, and set abstraction and dynamic edges from its convolutions."""
    for name in BASIC:
        yield Case("pyg", name, partial(basic_model, name))
    for make in (schnet, point_net, dynamic_edges):
        yield Case("pyg", make.__name__, make)


def edges(b: int, n: int = 5) -> Tensor:
    """Disjoint rings with a chord: edge_index[2, e]."""
    ring = torch.arange(n)
    one = torch.stack([torch.cat([ring, ring[:1]]), torch.cat([ring.roll(-1), ring[2:3]])])
    both_ways = torch.cat([one, one.flip(0)], 1)
    return torch.cat([both_ways + n * i for i in range(b)], 1)


def basic_model(name: str) -> tuple[nn.Module, Call]:
    """Two layers, with dropout and batch normalisation, on disjoint graphs."""
    import torch_geometric.nn.models as models

    extra: dict[str, Any] = {"dropout": 0.1, "norm": "batch_norm"}
    if name == "PNA":
        extra |= {"aggregators": ["mean", "max"], "scalers": ["identity"], "deg": torch.ones(5)}
        extra["deg"] = extra["deg"].long()
    net = getattr(models, name)(4, 8, 2, 3, **extra)
    return net, lambda b: ((torch.randn(5 * b, 4), edges(b)), {})


def molecules(b: int) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Any]]:
    """Charges, positions, and the molecule of each of five atoms."""
    return (
        torch.randint(1, 9, (5 * b,)),
        torch.randn(5 * b, 3),
        torch.arange(b).repeat_interleave(5),
    ), {}


def near(pos: Tensor, batch: Tensor, radius: float = 3.0) -> tuple[Tensor, Tensor]:
    """Pairs of one sample nearer than the radius, and their distances."""
    apart = torch.cdist(pos, pos, compute_mode="donot_use_mm_for_euclid_dist")
    close = (apart < radius) & (batch[:, None] == batch) & ~torch.eye(len(pos), dtype=torch.bool)
    index = close.nonzero().T
    return index, (pos[index[0]] - pos[index[1]]).norm(dim=1)


def schnet() -> tuple[nn.Module, Call]:
    """SchNet with neighbours found by `near`."""
    from torch_geometric.nn.models import SchNet

    return SchNet(8, 8, 2, 6, interaction_graph=near), molecules


def cloud(b: int) -> tuple[tuple[Tensor, Tensor], dict[str, Any]]:
    """Six points each."""
    return (torch.randn(6 * b, 3), torch.arange(b).repeat_interleave(6)), {}


class SetAbstraction(nn.Module):
    """PointNet++'s layer twice, every second point a centre, then the maximum over each cloud."""

    def __init__(self) -> None:
        from torch_geometric.nn import MLP, PointNetConv, global_max_pool

        super().__init__()
        self.one = PointNetConv(MLP([3, 8, 8]), add_self_loops=False)
        self.two = PointNetConv(MLP([11, 8, 8]), add_self_loops=False)
        self.head, self.pool = nn.Linear(8, 3), global_max_pool

    def forward(self, pos: Tensor, batch: Tensor) -> Tensor:
        x = None
        for conv in (self.one, self.two):
            index, _ = near(pos, batch)
            keep = torch.arange(0, len(pos), 2)
            index = index[:, index[1] % 2 == 0]
            index = torch.stack([index[0], index[1] // 2])
            x = conv((x, None), (pos, pos[keep]), index)
            pos, batch = pos[keep], batch[keep]
        return self.head(self.pool(x, batch))


class DynamicEdges(nn.Module):
    """Edge convolutions over neighbours in feature space."""

    def __init__(self) -> None:
        from torch_geometric.nn import MLP, EdgeConv, global_mean_pool

        super().__init__()
        self.convs = nn.ModuleList([EdgeConv(MLP([6, 8])), EdgeConv(MLP([16, 8]))])
        self.head, self.pool = nn.Linear(8, 3), global_mean_pool

    def forward(self, x: Tensor, batch: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x, near(x, batch)[0])
        return self.head(self.pool(x, batch))


def point_net() -> tuple[nn.Module, Call]:
    """PointNet++ by hand."""
    return SetAbstraction(), cloud


def dynamic_edges() -> tuple[nn.Module, Call]:
    """DGCNN by hand."""
    return DynamicEdges(), cloud


KINDS: dict[str, Callable[[], Iterator[Case]]] = {
    "timm": timm_cases,
    "torchvision": vision_cases,
    "hf": hugging_cases,
    "pyg": graph_cases,
}
