"""The table of pretrained backbones in `keras.applications`. Reading it imports nothing heavy."""

from kerazoo.models.backbone import Backbone


def _resnet(name: str, blocks: tuple[int, ...], function: str, parameters: int) -> Backbone:
    v2 = name.endswith("v2")
    ends = [f"conv{stage}_block{count}_out" for stage, count in enumerate(blocks, start=2)]
    stages = ("conv1_conv", *ends[:3], "post_relu") if v2 else ("conv1_relu", *ends)
    module, scaling = ("resnet_v2", "tf") if v2 else ("resnet", "caffe")
    return Backbone(name, module, function, scaling, 224, 32, 2048, parameters, stages)


def _mobilenet(alpha: float, features: int, parameters: int) -> Backbone:
    stages = tuple(f"conv_pw_{block}_relu" for block in (1, 3, 5, 11, 13))
    name = f"mobilenet_{round(alpha * 100):03d}"
    arguments = {"alpha": alpha}
    return Backbone(name, "mobilenet", "MobileNet", "tf", 224, 32, features, parameters, stages, arguments)


def _mobilenet_v2(alpha: float, features: int, parameters: int) -> Backbone:
    stages = ("expanded_conv_project_BN", "block_2_add", "block_5_add", "block_12_add", "out_relu")
    name = f"mobilenet_v2_{round(alpha * 100):03d}"
    arguments = {"alpha": alpha}
    return Backbone(name, "mobilenet_v2", "MobileNetV2", "tf", 224, 32, features, parameters, stages, arguments)


def _mobilenet_v3(name: str, function: str, alpha: float, features: int, parameters: int) -> Backbone:
    large = ("expanded_conv_add", *(f"expanded_conv_{block}_add" for block in (2, 5, 11, 14)))
    small = ("conv_bn", "expanded_conv_project_bn", *(f"expanded_conv_{block}_add" for block in (2, 7, 10)))
    stages = large if function.endswith("Large") else small
    arguments = {"alpha": alpha}
    return Backbone(name, "mobilenet_v3", function, "none", 224, 32, features, parameters, stages, arguments)


def _densenet(depth: int, blocks: tuple[int, int, int], features: int, parameters: int) -> Backbone:
    ends = (f"conv{stage}_block{count}_concat" for stage, count in enumerate(blocks, start=2))
    stages = ("conv1_relu", *ends, "relu")
    return Backbone(f"densenet{depth}", "densenet", f"DenseNet{depth}", "torch", 224, 32, features, parameters, stages)


def _efficientnet(name: str, ends: str, size: int, features: int, parameters: int) -> Backbone:
    """`ends` are the blocks that close the stages at strides 2, 4, 8 and 16."""
    version = name.removeprefix("efficientnet_").upper().replace("V2_", "V2")
    stages = (*(f"block{end}" for end in ends.split()), "top_activation")
    module = "efficientnet_v2" if version.startswith("V2") else "efficientnet"
    std = () if version.startswith("V2") else (0.229, 0.224, 0.225)
    inside = "torch" if version.startswith("V2B") else ""
    return Backbone(
        name, module, f"EfficientNet{version}", "none", size, 32, features, parameters, stages, published_std=std,
        scaling_inside=inside,
    )  # fmt: skip


def _convnext(variant: str, features: int, parameters: int) -> Backbone:
    prefix = f"convnext_{variant.lower()}"
    ends = (f"{prefix}_downsampling_block_{block}" for block in range(3))
    stages = (f"{prefix}_stem", *ends, f"{prefix}_stage_3_block_2_identity")
    return Backbone(
        prefix, "convnext", f"ConvNeXt{variant}", "none", 224, 32, features, parameters, stages, scaling_inside="torch"
    )


def _pools(*blocks: int) -> tuple[str, ...]:
    return tuple(f"block{block}_pool" for block in blocks)


BACKBONES: tuple[Backbone, ...] = (
    Backbone("vgg16", "vgg16", "VGG16", "caffe", 224, 32, 512, 14_714_688, _pools(1, 2, 3, 4, 5)),
    Backbone("vgg19", "vgg19", "VGG19", "caffe", 224, 32, 512, 20_024_384, _pools(1, 2, 3, 4, 5)),
    _resnet("resnet50", (3, 4, 6, 3), "ResNet50", 23_587_712),
    _resnet("resnet101", (3, 4, 23, 3), "ResNet101", 42_658_176),
    _resnet("resnet152", (3, 8, 36, 3), "ResNet152", 58_370_944),
    _resnet("resnet50_v2", (3, 4, 6, 3), "ResNet50V2", 23_564_800),
    _resnet("resnet101_v2", (3, 4, 23, 3), "ResNet101V2", 42_626_560),
    _resnet("resnet152_v2", (3, 8, 36, 3), "ResNet152V2", 58_331_648),
    Backbone(
        "inception_v3", "inception_v3", "InceptionV3", "tf", 299, 75, 2048, 21_802_784, ("mixed2", "mixed7", "mixed10")
    ),
    Backbone(
        "inception_resnet_v2", "inception_resnet_v2", "InceptionResNetV2", "tf", 299, 75, 1536, 54_336_736,
        ("mixed_5b", "block35_10_ac", "block17_20_ac", "conv_7b_ac"),
    ),
    Backbone(
        "xception", "xception", "Xception", "tf", 299, 71, 2048, 20_861_480,
        ("block1_conv2_act", *_pools(2, 3, 4), "block14_sepconv2_act"),
    ),
    _mobilenet(0.25, 256, 218_544),
    _mobilenet(0.50, 512, 829_536),
    _mobilenet(0.75, 768, 1_832_976),
    _mobilenet(1.00, 1024, 3_228_864),
    _mobilenet_v2(0.35, 1280, 410_208),
    _mobilenet_v2(0.50, 1280, 706_224),
    _mobilenet_v2(0.75, 1280, 1_382_064),
    _mobilenet_v2(1.00, 1280, 2_257_984),
    _mobilenet_v2(1.30, 1664, 3_766_048),
    _mobilenet_v2(1.40, 1792, 4_363_712),
    _mobilenet_v3("mobilenet_v3_small_075", "MobileNetV3Small", 0.75, 432, 583_160),
    _mobilenet_v3("mobilenet_v3_small", "MobileNetV3Small", 1.0, 576, 939_120),
    _mobilenet_v3("mobilenet_v3_large_075", "MobileNetV3Large", 0.75, 720, 1_808_736),
    _mobilenet_v3("mobilenet_v3_large", "MobileNetV3Large", 1.0, 960, 2_996_352),
    _densenet(121, (6, 12, 24), 1024, 7_037_504),
    _densenet(169, (6, 12, 32), 1664, 12_642_880),
    _densenet(201, (6, 12, 48), 1920, 18_321_984),
    Backbone(
        "nasnet_mobile", "nasnet", "NASNetMobile", "tf", 224, 32, 1056, 4_269_716,
        ("stem_bn1", "normal_concat_3", "normal_concat_8", "normal_concat_12"),
    ),
    Backbone(
        "nasnet_large", "nasnet", "NASNetLarge", "tf", 331, 32, 4032, 84_916_818,
        ("stem_bn1", "normal_concat_5", "normal_concat_12", "normal_concat_18"),
    ),
    _efficientnet("efficientnet_b0", "1a_project_bn 2b_add 3b_add 5c_add", 224, 1280, 4_049_571),
    _efficientnet("efficientnet_b1", "1b_add 2c_add 3c_add 5d_add", 240, 1280, 6_575_239),
    _efficientnet("efficientnet_b2", "1b_add 2c_add 3c_add 5d_add", 260, 1408, 7_768_569),
    _efficientnet("efficientnet_b3", "1b_add 2c_add 3c_add 5e_add", 300, 1536, 10_783_535),
    _efficientnet("efficientnet_b4", "1b_add 2d_add 3d_add 5f_add", 380, 1792, 17_673_823),
    _efficientnet("efficientnet_b5", "1c_add 2e_add 3e_add 5g_add", 456, 2048, 28_513_527),
    _efficientnet("efficientnet_b6", "1c_add 2f_add 3f_add 5h_add", 528, 2304, 40_960_143),
    _efficientnet("efficientnet_b7", "1d_add 2g_add 3g_add 5j_add", 600, 2560, 64_097_687),
    _efficientnet("efficientnet_v2_b0", "1a_project_activation 2b_add 3b_add 5e_add", 224, 1280, 5_919_312),
    _efficientnet("efficientnet_v2_b1", "1b_add 2c_add 3c_add 5f_add", 240, 1280, 6_931_124),
    _efficientnet("efficientnet_v2_b2", "1b_add 2c_add 3c_add 5f_add", 260, 1408, 8_769_374),
    _efficientnet("efficientnet_v2_b3", "1b_add 2c_add 3c_add 5g_add", 300, 1536, 12_930_622),
    _efficientnet("efficientnet_v2_s", "1b_add 2d_add 3d_add 5i_add", 384, 1280, 20_331_360),
    _efficientnet("efficientnet_v2_m", "1c_add 2e_add 3e_add 5n_add", 480, 1280, 53_150_388),
    _efficientnet("efficientnet_v2_l", "1d_add 2g_add 3g_add 5s_add", 480, 1280, 117_746_848),
    _convnext("Tiny", 768, 27_820_128),
    _convnext("Small", 768, 49_454_688),
    _convnext("Base", 1024, 87_566_464),
    _convnext("Large", 1536, 196_230_336),
    _convnext("XLarge", 2048, 348_147_968),
)  # fmt: skip
