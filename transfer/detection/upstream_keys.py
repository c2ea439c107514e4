"""What this package does with each of Detectron2's 192 config keys: the only table of them.

It has four disjoint parts, in which every leaf of detectron2/config/defaults.py (at version 0.6 and
its main branch of 2024) is found once:
- HONOURED: keys whose every value is followed, each with the code here that reads it;
- ONLY: keys of `defaults.py` of which one value is supported; a different one is an error;
- ABSENT: keys that `defaults.py` does not have, with Detectron2's default, which is the only
  accepted value: what they switch on is not built here;
- NO_EFFECT: keys whose value does not change any number of a run here, each with the reason; any
  value is accepted. Those that `defaults.py` does not have are in NO_EFFECT_DEFAULTS as well.
"""

from __future__ import annotations

from typing import Any

_PARTS = "transfer.detection.torchvision_engine"  # each part's spec is next to its module
_OPTIMIZER = "transfer.training.build.make_optimizer"
_SCHEDULE = "transfer.training.build.make_schedule"
_MAPPER = "transfer.detection.torchvision_engine.engine.make_train_mapper"
_BATCHES = "transfer.detection.torchvision_engine.engine.training_batches"
_TEST_MAPPER = "transfer.detection.torchvision_engine.engine.make_inference_mapper"
_TO_END = "transfer.training.build.train_to_end"
_OPEN = "transfer.detection.task.DetectionTask.open_data"

# The keys that each place reads, by their section.
_READ: dict[str, dict[str, str]] = {
    f"{_PARTS}.resnet.ResNetSpec.from_config": {
        "MODEL.BACKBONE": "FREEZE_AT",
        "MODEL.RESNETS": "DEPTH OUT_FEATURES RES5_DILATION",
    },
    f"{_PARTS}.resnet.BottleneckSpec.from_config": {
        "MODEL.RESNETS": "NORM STRIDE_IN_1X1 NUM_GROUPS WIDTH_PER_GROUP",
    },
    f"{_PARTS}.fpn.FPNSpec.from_config": {"MODEL.FPN": "IN_FEATURES OUT_CHANNELS NORM FUSE_TYPE"},
    f"{_PARTS}.anchors.AnchorSpec.from_config": {
        "MODEL.ANCHOR_GENERATOR": "SIZES ASPECT_RATIOS OFFSET"
    },
    f"{_PARTS}.rpn.RPNSpec.from_config": {
        "MODEL.RPN": (
            "IN_FEATURES IOU_THRESHOLDS BATCH_SIZE_PER_IMAGE POSITIVE_FRACTION BBOX_REG_WEIGHTS "
            "PRE_NMS_TOPK_TRAIN PRE_NMS_TOPK_TEST POST_NMS_TOPK_TRAIN POST_NMS_TOPK_TEST "
            "NMS_THRESH CONV_DIMS LOSS_WEIGHT"
        ),
    },
    f"{_PARTS}.box_losses.BoxLossSpec.from_config": {
        "MODEL.RPN": "BBOX_REG_LOSS_TYPE SMOOTH_L1_BETA BBOX_REG_LOSS_WEIGHT",
        "MODEL.ROI_BOX_HEAD": "BBOX_REG_LOSS_TYPE SMOOTH_L1_BETA BBOX_REG_LOSS_WEIGHT",
    },
    f"{_PARTS}.roi_sampler.RoiSamplerSpec.from_config": {
        "MODEL.ROI_HEADS": (
            "IOU_THRESHOLDS BATCH_SIZE_PER_IMAGE POSITIVE_FRACTION PROPOSAL_APPEND_GT"
        ),
    },
    f"{_PARTS}.standard_roi_heads.StandardHeadsSpec.from_config": {
        "MODEL.ROI_HEADS": "NUM_CLASSES IN_FEATURES",
        "MODEL.ROI_BOX_HEAD": "NAME TRAIN_ON_PRED_BOXES",
    },
    f"{_PARTS}.cascade_roi_heads.CascadeHeadsSpec.from_config": {
        "MODEL.ROI_BOX_CASCADE_HEAD": "IOUS BBOX_REG_WEIGHTS",
    },
    f"{_PARTS}.box_head.ConvFCHeadSpec.from_config": {
        "MODEL.ROI_BOX_HEAD": "NUM_FC FC_DIM NUM_CONV CONV_DIM NORM"
    },
    f"{_PARTS}.box_head.BoxPredictorSpec.from_config": {
        "MODEL.ROI_BOX_HEAD": "BBOX_REG_WEIGHTS CLS_AGNOSTIC_BBOX_REG USE_SIGMOID_CE",
        "MODEL.ROI_HEADS": "SCORE_THRESH_TEST NMS_THRESH_TEST",
        "TEST": "DETECTIONS_PER_IMAGE",
    },
    f"{_PARTS}.pooler.PoolerSpec.from_config": {
        "MODEL.ROI_BOX_HEAD": "POOLER_RESOLUTION POOLER_SAMPLING_RATIO POOLER_TYPE",
        "MODEL.ROI_MASK_HEAD": "POOLER_RESOLUTION POOLER_SAMPLING_RATIO POOLER_TYPE",
        "MODEL.ROI_KEYPOINT_HEAD": "POOLER_RESOLUTION POOLER_SAMPLING_RATIO POOLER_TYPE",
    },
    f"{_PARTS}.mask_head.MaskHeadSpec.from_config": {
        "MODEL": "MASK_ON",
        "MODEL.ROI_MASK_HEAD": "NUM_CONV CONV_DIM NORM CLS_AGNOSTIC_MASK",
    },
    f"{_PARTS}.keypoint_head.KeypointHeadSpec.from_config": {
        "MODEL": "KEYPOINT_ON",
        "MODEL.ROI_KEYPOINT_HEAD": (
            "CONV_DIMS NUM_KEYPOINTS NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS LOSS_WEIGHT"
        ),
    },
    f"{_PARTS}.engine.training_images": {
        "MODEL.ROI_KEYPOINT_HEAD": "MIN_KEYPOINTS_PER_IMAGE",
        "DATALOADER": "FILTER_EMPTY_ANNOTATIONS",
    },
    "transfer.detection.config_checks.oks_sigmas": {"TEST": "KEYPOINT_OKS_SIGMAS"},
    f"{_PARTS}.detector.DetectorSpec.from_config": {
        "MODEL": "PIXEL_MEAN PIXEL_STD",
        "MODEL.ROI_HEADS": "NAME",
    },
    f"{_PARTS}.retinanet.RetinaNetSpec.from_config": {
        "MODEL.RETINANET": (
            "NUM_CLASSES IN_FEATURES NUM_CONVS NORM PRIOR_PROB IOU_THRESHOLDS BBOX_REG_WEIGHTS "
            "FOCAL_LOSS_GAMMA FOCAL_LOSS_ALPHA BBOX_REG_LOSS_TYPE SMOOTH_L1_LOSS_BETA "
            "SCORE_THRESH_TEST TOPK_CANDIDATES_TEST NMS_THRESH_TEST"
        ),
    },
    f"{_PARTS}.engine.make_detector": {"MODEL": "META_ARCHITECTURE"},
    f"{_PARTS}.architectures.architecture": {"MODEL.BACKBONE": "NAME"},
    # They are refused unless they have the only value that the backbone can have.
    "transfer.detection.config_checks._check_widths": {
        "MODEL.RESNETS": "STEM_OUT_CHANNELS RES2_OUT_CHANNELS",
    },
    _OPTIMIZER: {
        "SOLVER": (
            "BASE_LR MOMENTUM NESTEROV WEIGHT_DECAY WEIGHT_DECAY_NORM WEIGHT_DECAY_BIAS "
            "BIAS_LR_FACTOR"
        ),
    },
    _SCHEDULE: {
        "SOLVER": (
            "LR_SCHEDULER_NAME MAX_ITER BASE_LR_END GAMMA STEPS WARMUP_FACTOR WARMUP_ITERS "
            "WARMUP_METHOD NUM_DECAYS RESCALE_INTERVAL"
        ),
    },
    "transfer.training.build.make_clipping": {
        "SOLVER.CLIP_GRADIENTS": "ENABLED CLIP_TYPE CLIP_VALUE NORM_TYPE",
    },
    "transfer.training.build.make_precision": {"SOLVER.AMP": "ENABLED"},
    "transfer.training.build.batch_indices": {"SOLVER": "IMS_PER_BATCH"},
    "transfer.detection.scaling.for_processes": {"SOLVER": "REFERENCE_WORLD_SIZE"},
    _MAPPER: {
        "INPUT": (
            "MIN_SIZE_TRAIN MIN_SIZE_TRAIN_SAMPLING MAX_SIZE_TRAIN RANDOM_FLIP FORMAT MASK_FORMAT"
        ),
    },
    "transfer.detection.config_checks.make_crop": {"INPUT.CROP": "ENABLED TYPE SIZE"},
    _TEST_MAPPER: {"INPUT": "MIN_SIZE_TEST MAX_SIZE_TEST"},
    _BATCHES: {"DATALOADER": "ASPECT_RATIO_GROUPING"},
    "transfer.detection.torchvision_engine.engine.make_factors": {
        "DATALOADER": "SAMPLER_TRAIN REPEAT_THRESHOLD REPEAT_SQRT",
    },
    _TO_END: {"TEST": "EVAL_PERIOD"},
    "transfer.detection.torchvision_engine.engine.TorchvisionEngine.fit": {
        "TEST.PRECISE_BN": "ENABLED NUM_ITER",
    },
    _OPEN: {"DATASETS": "TRAIN TEST"},
    "transfer.training.build.begin_training": {"MODEL": "DEVICE"},
    "transfer.detection.config.default_weights": {"MODEL": "WEIGHTS"},
    "transfer.detection.fine_tuning.config_of_trial": {"": "SEED"},
}
HONOURED = {
    f"{section}.{key}".lstrip("."): where
    for where, sections in _READ.items()
    for section, keys in sections.items()
    for key in keys.split()
}

ONLY: dict[str, Any] = {
    "VERSION": 2,
    "MODEL.PROPOSAL_GENERATOR.NAME": "RPN",
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": 0,
    "MODEL.ANCHOR_GENERATOR.NAME": "DefaultAnchorGenerator",
    "MODEL.RPN.HEAD_NAME": "StandardRPNHead",
    "MODEL.RPN.BOUNDARY_THRESH": -1,
    "MODEL.RPN.IOU_LABELS": [0, -1, 1],
    "MODEL.ROI_HEADS.IOU_LABELS": [0, 1],
    "MODEL.RETINANET.IOU_LABELS": [0, -1, 1],
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_KEYPOINT_HEAD.NAME": "KRCNNConvDeconvUpsampleHead",
}

ABSENT: dict[str, Any] = {
    "MODEL.LOAD_PROPOSALS": False,
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": False,
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, False, False, False],
    "TEST.AUG.ENABLED": False,
    "FLOAT32_PRECISION": "",
}

# Values of ABSENT keys that are the default under a different name: torch's own precision.
SAME_AS_DEFAULT: dict[str, tuple[Any, ...]] = {"FLOAT32_PRECISION": ("highest",)}

# The reasons why a key has no effect.
_MACHINE = "it says where a run is made or how fast, not what it computes"
_FILES = "it says which files are written, not what is trained"
_SEMANTIC = "only other meta-architectures (SemanticSegmentor, PanopticFPN) use it"
_PROPOSALS = "only precomputed proposals use it, and MODEL.LOAD_PROPOSALS must be False"
_FED_LOSS = "only the federated loss uses it, and USE_FED_LOSS must be False"
_TEST_AUG = "only test-time augmentation uses it, and TEST.AUG.ENABLED must be False"
_DEFORM = "only deformable convolutions use it, and DEFORM_ON_PER_STAGE must be False"

# (section, reason, keys with Detectron2's default)
_UNREAD: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("MODEL.ANCHOR_GENERATOR", "only rotated anchors use it", {"ANGLES": [[-90, 0, 90]]}),
    (
        "MODEL.ROI_BOX_HEAD",
        _FED_LOSS,
        {"FED_LOSS_FREQ_WEIGHT_POWER": 0.5, "FED_LOSS_NUM_CLASSES": 50},
    ),
    (
        "MODEL.SEM_SEG_HEAD",
        _SEMANTIC,
        {
            "NAME": "SemSegFPNHead",
            "IN_FEATURES": ["p2", "p3", "p4", "p5"],
            "IGNORE_VALUE": 255,
            "NUM_CLASSES": 54,
            "CONVS_DIM": 128,
            "COMMON_STRIDE": 4,
            "NORM": "GN",
            "LOSS_WEIGHT": 1.0,
        },
    ),
    ("MODEL.PANOPTIC_FPN", _SEMANTIC, {"INSTANCE_LOSS_WEIGHT": 1.0}),
    (
        "MODEL.PANOPTIC_FPN.COMBINE",
        _SEMANTIC,
        {
            "ENABLED": True,
            "OVERLAP_THRESH": 0.5,
            "STUFF_AREA_LIMIT": 4096,
            "INSTANCES_CONFIDENCE_THRESH": 0.5,
        },
    ),
    ("MODEL.RESNETS", _DEFORM, {"DEFORM_MODULATED": False, "DEFORM_NUM_GROUPS": 1}),
    (
        "DATASETS",
        _PROPOSALS,
        {
            "PROPOSAL_FILES_TRAIN": (),
            "PROPOSAL_FILES_TEST": (),
            "PRECOMPUTED_PROPOSAL_TOPK_TRAIN": 2000,
            "PRECOMPUTED_PROPOSAL_TOPK_TEST": 1000,
        },
    ),
    (
        "TEST",
        "Detectron2 compares it with the results after a run, which nothing here does",
        {"EXPECTED_RESULTS": []},
    ),
    (
        "TEST.AUG",
        _TEST_AUG,
        {
            "MIN_SIZES": (400, 500, 600, 700, 800, 900, 1000, 1100, 1200),
            "MAX_SIZE": 4000,
            "FLIP": True,
        },
    ),
    ("GLOBAL", "Detectron2's own code does not read it", {"HACK": 1.0}),
)
NO_EFFECT_DEFAULTS: dict[str, Any] = {
    f"{section}.{key}": value for section, _, keys in _UNREAD for key, value in keys.items()
}
NO_EFFECT: dict[str, str] = {
    "OUTPUT_DIR": _FILES,
    "SOLVER.CHECKPOINT_PERIOD": _FILES,
    "VIS_PERIOD": "it asks for pictures of training images, which only the detectron2 engine draws",
    "CUDNN_BENCHMARK": _MACHINE,
    "DATALOADER.NUM_WORKERS": _MACHINE,
    **{f"{section}.{key}": reason for section, reason, keys in _UNREAD for key in keys},
}
