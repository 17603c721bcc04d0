"""Small vision models of transformers, built from their configs: no weights are downloaded."""

import transformers as T

VIT = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8
)
STAGES = dict(embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], layer_type="basic")
HEADS = dict(encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64)


def vit():
    return T.ViTForImageClassification(T.ViTConfig(**VIT, num_labels=5)), 32


def deit():
    return T.DeiTForImageClassification(T.DeiTConfig(**VIT, num_labels=5)), 32


def dinov2():
    sizes = {**VIT, "mlp_ratio": 2}
    del sizes["intermediate_size"]
    return T.Dinov2ForImageClassification(T.Dinov2Config(**sizes, num_labels=5)), 32


def swin():
    sizes = dict(image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4)
    return T.SwinForImageClassification(T.SwinConfig(**sizes, num_labels=5)), 32


def convnext():
    config = T.ConvNextConfig(hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1], num_labels=5)
    return T.ConvNextForImageClassification(config), 64


def segformer():
    sizes = dict(hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 4, 4])
    return T.SegformerForSemanticSegmentation(T.SegformerConfig(**sizes, decoder_hidden_size=32, num_labels=5)), 64


def detr():
    config = T.DetrConfig(
        backbone_config=T.ResNetConfig(**STAGES, out_features=["stage4"]), use_timm_backbone=False, backbone=None,
        use_pretrained_backbone=False, d_model=32, encoder_layers=2, decoder_layers=2, num_queries=10, num_labels=5,
        **HEADS,
    )  # fmt: skip
    return T.DetrForObjectDetection(config), 64


def rt_detr():
    config = T.RTDetrConfig(
        backbone_config=T.RTDetrResNetConfig(**STAGES, out_features=["stage2", "stage3", "stage4"]),
        use_timm_backbone=False, backbone=None, use_pretrained_backbone=False, encoder_hidden_dim=32, d_model=32,
        encoder_in_channels=[32, 48, 64], decoder_in_channels=[32, 32, 32], decoder_layers=2, num_queries=10,
        num_denoising=0, num_labels=5, **HEADS,
    )  # fmt: skip
    return T.RTDetrForObjectDetection(config), 128


def clip():
    return T.CLIPVisionModelWithProjection(T.CLIPVisionConfig(**VIT, projection_dim=16)), 32


def siglip():
    return T.SiglipVisionModel(T.SiglipVisionConfig(**VIT)), 32


def dpt():
    config = T.DPTConfig(
        **{**VIT, "num_hidden_layers": 4}, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[16, 16, 32, 32],
        fusion_hidden_size=16, is_hybrid=False, reassemble_factors=[4, 2, 1, 0.5],
    )  # fmt: skip
    return T.DPTForDepthEstimation(config), 32


MODELS = (vit, deit, dinov2, swin, convnext, segformer, detr, rt_detr, clip, siglip, dpt)
