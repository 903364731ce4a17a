"""Caffe's NetParameter family as protobuf message classes, built at run time from tables.

No protoc and no generated code: the classes live in a descriptor pool of their own and so cannot clash with another
Caffe schema in the same process. Text fields are declared as bytes, because Caffe never checked their encoding.

The numbers are those of the SSD branch of Caffe, with the layers that later or other Caffes added (Swish, Clip, BN, Interp, Upsample,
ReLU6). A field reads ``name:type=number``; ``*`` after the type marks repeated, ``+`` repeated and packed fields. Types: f float,
d double, i32 i64 u32 integers, b bool, s text (kept as bytes), otherwise an enum or message of these tables. Messages of operations
stand with them, in ``ssd_ref.graph``.

Other Caffes, and the SSD branch before it settled on 200 to 207, wrote the same messages under numbers that mean something else today
(Permute under 144, now ``crop_param``). A layer has only its own type's message, so the type says what such a number means. Their
numbers come from the history of the SSD branch and from public forks that list theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from ssdconv.converters.protobuf_wire import LEN, Field, encode_varint
from ssdconv.ssd_ref.graph.operation import ParamMessage, operations

ENUMS: dict[str, str] = {
    "AnnotationType": "BBOX=0",
    "CodeType": "CORNER=1 CENTER_SIZE=2 CORNER_SIZE=3",
    "ConfLossType": "SOFTMAX=0 LOGISTIC=1",
    "DB": "LEVELDB=0 LMDB=1",
    "DimCheckMode": "STRICT=0 PERMISSIVE=1",
    "EltwiseOp": "PROD=0 SUM=1 MAX=2",
    "EmitType": "CENTER=0 MIN_OVERLAP=1",
    "Engine": "DEFAULT=0 CAFFE=1 CUDNN=2",
    "HingeNorm": "L1=1 L2=2",
    "InterpMode": "LINEAR=1 AREA=2 NEAREST=3 CUBIC=4 LANCZOS4=5",
    "LocLossType": "L2=0 SMOOTH_L1=1",
    "MatchType": "BIPARTITE=0 PER_PREDICTION=1",
    "MiningType": "NONE=0 MAX_NEGATIVE=1 HARD_EXAMPLE=2",
    "NormRegion": "ACROSS_CHANNELS=0 WITHIN_CHANNEL=1",
    "NormalizationMode": "FULL=0 VALID=1 BATCH_SIZE=2 NONE=3",
    "PadMode": "CONSTANT=1 MIRRORED=2 REPEAT_NEAREST=3",
    "Phase": "TRAIN=0 TEST=1",
    "PoolMethod": "MAX=0 AVE=1 STOCHASTIC=2",
    "ReductionOp": "SUM=1 ASUM=2 SUMSQ=3 MEAN=4",
    "ResizeMode": "WARP=1 FIT_SMALL_SIZE=2 FIT_LARGE_SIZE_AND_PAD=3",
    "RoundMode": "CEIL=0 FLOOR=1",
    "VarianceNorm": "FAN_IN=0 FAN_OUT=1 AVERAGE=2",
    "VideoType": "WEBCAM=0 VIDEO=1",
}

MESSAGES: dict[str, str] = {
    "Accuracy": "top_k:u32=1 axis:i32=2 ignore_label:i32=3",
    "AnnotatedData": "batch_sampler:BatchSampler*=1 label_map_file:s=2 anno_type:AnnotationType=3",
    "BN": "slope_filler:Filler=1 bias_filler:Filler=2 momentum:f=3 eps:f=4 frozen:b=5",
    "BatchSampler": """
        use_original_image:b=1 sampler:Sampler=2 sample_constraint:SampleConstraint=3 max_sample:u32=4 max_trials:u32=5
    """,
    "Blob": """
        num:i32=1 channels:i32=2 height:i32=3 width:i32=4 data:f+=5 diff:f+=6 shape:BlobShape=7 double_data:d+=8
        double_diff:d+=9
    """,
    "BlobShape": "dim:i64+=1",
    "ContrastiveLoss": "margin:f=1 legacy_version:b=2",
    "Data": """
        source:s=1 scale:f=2 mean_file:s=3 batch_size:u32=4 crop_size:u32=5 mirror:b=6 rand_skip:u32=7 backend:DB=8
        force_encoded_color:b=9 prefetch:u32=10
    """,
    "DetectionEvaluate": """
        num_classes:u32=1 background_label_id:u32=2 overlap_threshold:f=3 evaluate_difficult_gt:b=4 name_size_file:s=5
        resize_param:Resize=6
    """,
    "DetectionOutput": """
        num_classes:u32=1 share_location:b=2 background_label_id:i32=3 nms_param:NonMaximumSuppression=4
        save_output_param:SaveOutput=5 code_type:CodeType=6 keep_top_k:i32=7 variance_encoded_in_target:b=8
        confidence_threshold:f=9 visualize:b=10 visualize_threshold:f=11 save_file:s=12 clip:b=1000
    """,
    "Distortion": """
        brightness_prob:f=1 brightness_delta:f=2 contrast_prob:f=3 contrast_lower:f=4 contrast_upper:f=5 hue_prob:f=6
        hue_delta:f=7 saturation_prob:f=8 saturation_lower:f=9 saturation_upper:f=10 random_order_prob:f=11
    """,
    "DummyData": "data_filler:Filler*=1 num:u32*=2 channels:u32*=3 height:u32*=4 width:u32*=5 shape:BlobShape*=6",
    "Embed": "num_output:u32=1 input_dim:u32=2 bias_term:b=3 weight_filler:Filler=4 bias_filler:Filler=5",
    "EmitConstraint": "emit_type:EmitType=1 emit_overlap:f=2",
    "Expansion": "prob:f=1 max_expand_ratio:f=2",
    "Filler": "type:s=1 value:f=2 min:f=3 max:f=4 mean:f=5 std:f=6 sparse:i32=7 variance_norm:VarianceNorm=8",
    "HDF5Data": "source:s=1 batch_size:u32=2 shuffle:b=3",
    "HDF5Output": "file_name:s=1",
    "HingeLoss": "norm:HingeNorm=1",
    "ImageData": """
        source:s=1 scale:f=2 mean_file:s=3 batch_size:u32=4 crop_size:u32=5 mirror:b=6 rand_skip:u32=7 shuffle:b=8
        new_height:u32=9 new_width:u32=10 is_color:b=11 root_folder:s=12
    """,
    "InfogainLoss": "source:s=1",
    "Input": "shape:BlobShape*=1",
    "Layer": """
        name:s=1 type:s=2 bottom:s*=3 top:s*=4 loss_weight:f*=5 param:ParamSpec*=6 blobs:Blob*=7
        include:NetStateRule*=8 exclude:NetStateRule*=9 phase:Phase=10 propagate_down:b*=11
        transform_param:Transformation=100 loss_param:Loss=101 accuracy_param:Accuracy=102
        contrastive_loss_param:ContrastiveLoss=105 data_param:Data=107 dummy_data_param:DummyData=109
        hdf5_data_param:HDF5Data=112 hdf5_output_param:HDF5Output=113 hinge_loss_param:HingeLoss=114
        image_data_param:ImageData=115 infogain_loss_param:InfogainLoss=116 memory_data_param:MemoryData=119
        window_data_param:WindowData=129 python_param:Python=130 spp_param:SPP=132 embed_param:Embed=137
        input_param:Input=143 parameter_param:Parameter=145 recurrent_param:Recurrent=146
        annotated_data_param:AnnotatedData=200 multibox_loss_param:MultiBoxLoss=201 prior_box_param:PriorBox=203
        detection_output_param:DetectionOutput=204 detection_evaluate_param:DetectionEvaluate=205
        video_data_param:VideoData=207 bn_param:BN=1137
    """,
    "Loss": "ignore_label:i32=1 normalize:b=2 normalization:NormalizationMode=3",
    "MemoryData": "batch_size:u32=1 channels:u32=2 height:u32=3 width:u32=4",
    "MultiBoxLoss": """
        loc_loss_type:LocLossType=1 conf_loss_type:ConfLossType=2 loc_weight:f=3 num_classes:u32=4 share_location:b=5
        match_type:MatchType=6 overlap_threshold:f=7 use_prior_for_matching:b=8 background_label_id:u32=9
        use_difficult_gt:b=10 do_neg_mining:b=11 neg_pos_ratio:f=12 neg_overlap:f=13 code_type:CodeType=14
        encode_variance_in_target:b=16 map_object_to_agnostic:b=17 ignore_cross_boundary_bbox:b=18 bp_inside:b=19
        mining_type:MiningType=20 nms_param:NonMaximumSuppression=21 sample_size:i32=22 use_prior_for_nms:b=23
    """,
    "Net": """
        name:s=1 layers:V1Layer*=2 input:s*=3 input_dim:i32*=4 force_backward:b=5 state:NetState=6 debug_info:b=7
        input_shape:BlobShape*=8 layer:Layer*=100
    """,
    "NetState": "phase:Phase=1 level:i32=2 stage:s*=3",
    "NetStateRule": "phase:Phase=1 min_level:i32=2 max_level:i32=3 stage:s*=4 not_stage:s*=5",
    "Noise": """
        prob:f=1 hist_eq:b=2 inverse:b=3 decolorize:b=4 gauss_blur:b=5 jpeg:f=6 posterize:b=7 erode:b=8 saltpepper:b=9
        saltpepper_param:SaltPepper=10 clahe:b=11 convert_to_hsv:b=12 convert_to_lab:b=13
    """,
    "NonMaximumSuppression": "nms_threshold:f=1 top_k:i32=2 eta:f=3",
    "ParamSpec": "name:s=1 share_mode:DimCheckMode=2 lr_mult:f=3 decay_mult:f=4",
    "Parameter": "shape:BlobShape=1",
    "PriorBox": """
        min_size:f*=1 max_size:f*=2 aspect_ratio:f*=3 flip:b=4 clip:b=5 variance:f*=6 img_size:u32=7 img_h:u32=8
        img_w:u32=9 step:f=10 step_h:f=11 step_w:f=12 offset:f=13
    """,
    "Python": "module:s=1 layer:s=2 param_str:s=3 share_in_parallel:b=4",
    "Recurrent": "num_output:u32=1 weight_filler:Filler=2 bias_filler:Filler=3 debug_info:b=4 expose_hidden:b=5",
    "Resize": """
        prob:f=1 resize_mode:ResizeMode=2 height:u32=3 width:u32=4 pad_mode:PadMode=5 pad_value:f*=6
        interp_mode:InterpMode*=7 height_scale:u32=8 width_scale:u32=9
    """,
    "SPP": "pyramid_height:u32=1 pool:PoolMethod=2 engine:Engine=6",
    "SaltPepper": "fraction:f=1 value:f*=2",
    "SampleConstraint": """
        min_jaccard_overlap:f=1 max_jaccard_overlap:f=2 min_sample_coverage:f=3 max_sample_coverage:f=4
        min_object_coverage:f=5 max_object_coverage:f=6
    """,
    "Sampler": "min_scale:f=1 max_scale:f=2 min_aspect_ratio:f=3 max_aspect_ratio:f=4",
    "SaveOutput": """
        output_directory:s=1 output_name_prefix:s=2 output_format:s=3 label_map_file:s=4 name_size_file:s=5
        num_test_image:u32=6 resize_param:Resize=7
    """,
    "Transformation": """
        scale:f=1 mirror:b=2 crop_size:u32=3 mean_file:s=4 mean_value:f*=5 force_color:b=6 force_gray:b=7
        resize_param:Resize=8 noise_param:Noise=9 emit_constraint:EmitConstraint=10 crop_h:u32=11 crop_w:u32=12
        distort_param:Distortion=13 expand_param:Expansion=14
    """,
    "V1Layer": """
        layer:V0Layer=1 bottom:s*=2 top:s*=3 name:s=4 type:V1Type=5 blobs:Blob*=6 blobs_lr:f*=7 weight_decay:f*=8
        concat_param:Concat=9 convolution_param:Convolution=10 data_param:Data=11 dropout_param:Dropout=12
        hdf5_data_param:HDF5Data=13 hdf5_output_param:HDF5Output=14 image_data_param:ImageData=15
        infogain_loss_param:InfogainLoss=16 inner_product_param:InnerProduct=17 lrn_param:LRN=18
        pooling_param:Pooling=19 window_data_param:WindowData=20 power_param:Power=21 memory_data_param:MemoryData=22
        argmax_param:ArgMax=23 eltwise_param:Eltwise=24 threshold_param:Threshold=25 dummy_data_param:DummyData=26
        accuracy_param:Accuracy=27 hinge_loss_param:HingeLoss=29 relu_param:ReLU=30 slice_param:Slice=31
        include:NetStateRule*=32 exclude:NetStateRule*=33 mvn_param:MVN=34 loss_weight:f*=35
        transform_param:Transformation=36 tanh_param:TanH=37 sigmoid_param:Sigmoid=38 softmax_param:Softmax=39
        contrastive_loss_param:ContrastiveLoss=40 exp_param:Exp=41 loss_param:Loss=42 param:s*=1001
        blob_share_mode:DimCheckMode*=1002
    """,
    "V0Layer": "",
    "VideoData": "video_type:VideoType=1 device_id:i32=2 video_file:s=3 skip_frames:u32=4",
    "WindowData": """
        source:s=1 scale:f=2 mean_file:s=3 batch_size:u32=4 crop_size:u32=5 mirror:b=6 fg_threshold:f=7
        bg_threshold:f=8 fg_fraction:f=9 context_pad:u32=10 crop_mode:s=11 cache_images:b=12 root_folder:s=13
    """,
}
"""Messages that are no operation's; those of operations stand with them (``ssd_ref.graph``)."""


# V1 enum name: (number, name of the same layer type in V2)
V1_TYPES: dict[str, tuple[int, str]] = {
    "ACCURACY": (1, "Accuracy"),
    "BNLL": (2, "BNLL"),
    "CONCAT": (3, "Concat"),
    "CONVOLUTION": (4, "Convolution"),
    "DATA": (5, "Data"),
    "DROPOUT": (6, "Dropout"),
    "EUCLIDEAN_LOSS": (7, "EuclideanLoss"),
    "FLATTEN": (8, "Flatten"),
    "HDF5_DATA": (9, "HDF5Data"),
    "HDF5_OUTPUT": (10, "HDF5Output"),
    "IM2COL": (11, "Im2col"),
    "IMAGE_DATA": (12, "ImageData"),
    "INFOGAIN_LOSS": (13, "InfogainLoss"),
    "INNER_PRODUCT": (14, "InnerProduct"),
    "LRN": (15, "LRN"),
    "MULTINOMIAL_LOGISTIC_LOSS": (16, "MultinomialLogisticLoss"),
    "POOLING": (17, "Pooling"),
    "RELU": (18, "ReLU"),
    "SIGMOID": (19, "Sigmoid"),
    "SOFTMAX": (20, "Softmax"),
    "SOFTMAX_LOSS": (21, "SoftmaxWithLoss"),
    "SPLIT": (22, "Split"),
    "TANH": (23, "TanH"),
    "WINDOW_DATA": (24, "WindowData"),
    "ELTWISE": (25, "Eltwise"),
    "POWER": (26, "Power"),
    "SIGMOID_CROSS_ENTROPY_LOSS": (27, "SigmoidCrossEntropyLoss"),
    "HINGE_LOSS": (28, "HingeLoss"),
    "MEMORY_DATA": (29, "MemoryData"),
    "ARGMAX": (30, "ArgMax"),
    "THRESHOLD": (31, "Threshold"),
    "DUMMY_DATA": (32, "DummyData"),
    "SLICE": (33, "Slice"),
    "MVN": (34, "MVN"),
    "ABSVAL": (35, "AbsVal"),
    "SILENCE": (36, "Silence"),
    "CONTRASTIVE_LOSS": (37, "ContrastiveLoss"),
    "EXP": (38, "Exp"),
    "DECONVOLUTION": (39, "Deconvolution"),
}


_PACKAGE = "ssdconv.caffe"
_SCALARS = {"d": 1, "f": 2, "i64": 3, "i32": 5, "b": 8, "s": 12, "u32": 13}  # FieldDescriptorProto.Type
_MESSAGE, _ENUM = 11, 14
_OPTIONAL, _REPEATED = 1, 3


@cache
def messages() -> dict[str, Any]:
    """ParamMessage classes by table name: ``messages()["Net"]``, ``["Layer"]``, ``["V1Layer"]``, ``["Convolution"]`` …"""
    file = descriptor_pb2.FileDescriptorProto(name="ssdconv_caffe.proto", package=_PACKAGE, syntax="proto2")
    enums = {**ENUMS, "V1Type": "NONE=0 " + " ".join(f"{name}={number}" for name, (number, _) in V1_TYPES.items())}
    for name, values in enums.items():
        holder = file.message_type.add(name=f"{name}Enum")  # proto2 enum values share the scope around the enum
        enum = holder.enum_type.add(name=name)
        for value in values.split():
            label, number = value.split("=")
            enum.value.add(name=label, number=int(number))
    tables = _tables()
    for name, fields in tables.items():
        message = file.message_type.add(name=name)
        for text in fields.split():
            _add_field(message, text, enums)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in tables}


def _operations() -> dict[str, ParamMessage]:
    """Name of a message in the tables -> an operation's message: that of the first type that has it (Convolution)."""
    found: dict[str, ParamMessage] = {}
    for kind in operations().values():
        if kind.message and kind.message not in found.values():
            found[kind.types[0]] = kind.message
    return found


def _tables() -> dict[str, str]:
    """``MESSAGES`` with those of the operations, and their fields among a layer's."""
    own = _operations()
    fields = " ".join(f"{message.name}:{name}={message.number}" for name, message in own.items())
    tables = {**MESSAGES, **{name: message.fields for name, message in own.items()}}
    return {**tables, "Layer": f"{MESSAGES['Layer']} {fields}"}


def _add_field(message: Any, text: str, enums: dict[str, str]) -> None:
    left, number = text.split("=")
    name, kind = left.split(":")
    base = kind.rstrip("*+")
    field = message.field.add(name=name, number=int(number), label=_OPTIONAL if base == kind else _REPEATED)
    if kind.endswith("+"):
        field.options.packed = True
    if base in _SCALARS:
        field.type = _SCALARS[base]
    elif base in enums:
        field.type, field.type_name = _ENUM, f".{_PACKAGE}.{base}Enum.{base}"
    else:
        field.type, field.type_name = _MESSAGE, f".{_PACKAGE}.{base}"


# layer type: (message field, its number in our schema, its numbers elsewhere)
ALIASES: dict[str, tuple[str, int, frozenset[int]]] = {
    "AnnotatedData": ("annotated_data_param", 200, frozenset({141, 142, 143, 144})),
    "MultiBoxLoss": ("multibox_loss_param", 201, frozenset({141, 143, 144, 145})),
    "PriorBox": ("prior_box_param", 203, frozenset({140, 142, 146, 147})),
    "DetectionOutput": ("detection_output_param", 204, frozenset({147, 148})),
}


def renumbered(kind: str, fields: Sequence[Field]) -> tuple[Field, bytes, str] | None:
    """The field of a V2 layer that holds its type's message under another Caffe's number.

    Args:
        kind: the layer's type.
        fields: the layer's fields.

    Returns:
        The field, the tag bytes to put in place of its own, and a remark; None where nothing needs renumbering.
    """
    known = operations().get(kind)
    if known and known.message:
        name, home, elsewhere = known.message.name, known.message.number, known.message.elsewhere
    elif kind in ALIASES:
        name, home, elsewhere = ALIASES[kind]
    else:
        return None
    if any(f.number == home for f in fields):
        return None
    strays = [f for f in fields if f.number in elsewhere and f.wire == LEN]
    if len(strays) != 1:
        return None
    stray = strays[0]
    return stray, encode_varint(home << 3 | LEN), f"field {stray.number} read as {name}"
