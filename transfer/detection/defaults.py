"""Every key of a detection config with its default and meaning.

`make_defaults()` returns them all. Keys outside TRANSFER are Detectron2's own, with its defaults
(config/defaults.py there) unless marked OURS, so one YAML file works with both engines;
TRANSFER is ours. `upstream_keys.py` says what happens to each key of Detectron2. A key that is not
listed here may be given only at its default; a different value is an error. Lengths are pixels of
the resized image, learning rates are per iteration.
"""

from __future__ import annotations

from fvcore.common.config import CfgNode

from pretrain.common.config_values import Items, declare_lists

# What the keys that are lists hold
LISTS = {
    "MODEL.PIXEL_MEAN": Items(float, (3,)),
    "MODEL.PIXEL_STD": Items(float, (3,)),
    "MODEL.RESNETS.OUT_FEATURES": Items(str),
    "MODEL.FPN.IN_FEATURES": Items(str),
    "MODEL.ANCHOR_GENERATOR.SIZES": Items(list),
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": Items(list),
    "MODEL.RPN.IN_FEATURES": Items(str),
    "MODEL.RPN.CONV_DIMS": Items(int),
    "MODEL.RPN.IOU_THRESHOLDS": Items(float),
    "MODEL.RPN.IOU_LABELS": Items(int),
    "MODEL.RPN.BBOX_REG_WEIGHTS": Items(float, (4,)),
    "MODEL.ROI_HEADS.IN_FEATURES": Items(str),
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": Items(float),
    "MODEL.ROI_HEADS.IOU_LABELS": Items(int),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": Items(float, (4,)),
    "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS": Items(list),
    "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": Items(float),
    "MODEL.RETINANET.IN_FEATURES": Items(str),
    "MODEL.RETINANET.IOU_THRESHOLDS": Items(float),
    "MODEL.RETINANET.IOU_LABELS": Items(int),
    "MODEL.RETINANET.BBOX_REG_WEIGHTS": Items(float, (4,)),
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": Items(int),
    "INPUT.MIN_SIZE_TRAIN": Items(int),
    "INPUT.CROP.SIZE": Items(float, (2,)),
    "DATASETS.TRAIN": Items(str),
    "DATASETS.TEST": Items(str),
    "SOLVER.STEPS": Items(int),
    "TEST.KEYPOINT_OKS_SIGMAS": Items(float),
    "TRANSFER.CLASSES": Items(str),
    "TRANSFER.LR_SWEEP.RATES": Items(float),
    "TRANSFER.VIT.GLOBAL_BLOCKS": Items(int),
    "TRANSFER.LSJ.SCALES": Items(float, (0, 2)),
    "TRANSFER.SEMANTIC.SCALE_RANGE": Items(float, (2,)),
    "TRANSFER.SEMANTIC.VIT_BLOCKS": Items(int, (4,)),
    "TRANSFER.SEMANTIC.TEST_SCALES": Items(float),
}


def make_defaults() -> CfgNode:
    """Returns a fresh, mutable config with all defaults."""
    cfg = CfgNode()
    cfg.VERSION = 2  # version of Detectron2's config format
    cfg.OUTPUT_DIR = "./output"  # overwritten by --output
    # Trial t of a run uses SEED + t. OURS: never negative (Detectron2: -1, unseeded).
    cfg.SEED = 0
    cfg.CUDNN_BENCHMARK = False
    cfg.VIS_PERIOD = 0  # only the detectron2 engine reads it
    cfg.MODEL = _model()
    cfg.INPUT = _input()
    cfg.DATASETS = CfgNode()
    cfg.DATASETS.TRAIN = ()  # names of data sets: built-in ones, or as in docs/annotations.md
    cfg.DATASETS.TEST = ()  # exactly one name, as in TRAIN
    cfg.DATALOADER = CfgNode()
    cfg.DATALOADER.NUM_WORKERS = 4  # number of reading processes for each training process
    # a batch has only landscape, or only portrait images
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = True
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = (
        True  # images without any object are not used for training
    )
    # TrainingSampler, or RepeatFactorTrainingSampler, which repeats images with rare classes (LVIS)
    cfg.DATALOADER.SAMPLER_TRAIN = "TrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.0  # a class is rare if a smaller share of the images has it
    cfg.DATALOADER.REPEAT_SQRT = True  # images are repeated by the square root of the factor
    cfg.SOLVER = _solver()
    cfg.TEST = CfgNode()
    cfg.TEST.DETECTIONS_PER_IMAGE = 100
    # How far off each keypoint may be in COCO's metric (OKS); (): COCO's own numbers
    cfg.TEST.KEYPOINT_OKS_SIGMAS = []
    cfg.TEST.EVAL_PERIOD = 0  # iterations between evaluations; 0: only at the end
    cfg.TEST.PRECISE_BN = CfgNode()
    cfg.TEST.PRECISE_BN.ENABLED = False  # compute BN statistics again after the last iteration
    cfg.TEST.PRECISE_BN.NUM_ITER = 200  # number of training batches for these statistics
    cfg.TRANSFER = make_transfer()
    declare_lists(cfg, LISTS)
    return cfg


def make_transfer() -> CfgNode:
    """The node TRANSFER is ours: the detectron2 plugin adds it to Detectron2's defaults."""
    node = CfgNode()
    node.TASK = "detection"  # detection, or semantic for semantic segmentation
    # Name of the protocol in records; "": the file's stem. A baseline gives the name of its
    # protocol.
    node.PROTOCOL = ""
    # What a run starts from: the `backbone` in --weights, the `detector` in it (parts that do not
    # fit start at their initialisation), or `auto`: the detector if the file has one. A start from
    # a detector is a different protocol.
    node.INIT = "auto"
    node.CLASSES = ()  # names of the classes; (): those in the training set's annotations
    # The number of the first pixel in a `voc:` set: one (as VOC says), zero (as many tools write),
    # or auto: zero if any coordinate in the folder's annotations is below 1, otherwise one.
    node.VOC_COUNTS_FROM = "auto"
    node.VOC_METRIC = 2007  # 2007: 11-point AP, 2012: area under the curve
    # False: scores are first rounded to 3 and boxes to 1 decimals, as for published numbers.
    node.VOC_EXACT = False
    # pycocotools, faster_coco_eval (the same numbers, faster; `pip install faster-coco-eval`, or
    # the extra `fast`), or auto: the latter if installed.
    node.COCO_EVALUATOR = "auto"
    # before training, compare the sizes of all images with the annotations
    node.CHECK_IMAGES = True
    node.OPTIMIZER = "SGD"  # SGD, or AdamW (ViTDet's, and our small demo configs')
    # The rate of block k of a ViT with D blocks is BASE_LR times this to the power of D - k; that
    # of patches and positions has the power D + 1; all others have BASE_LR (ViTDet: 0.7 for a
    # ViT-B). A ConvNeXt has the groups of blocks of its authors (`convnext_layer_factor`). 1: all
    # have BASE_LR.
    node.LR_LAYER_DECAY = 1.0
    node.WEIGHT_DECAY_POS_EMBED = 0.0  # weight decay of a ViT's absolute positions (as in ViTDet)
    # Learning rates that are each tried in a short run on a part of the training images before the
    # full one; (): only SOLVER.BASE_LR. Fixed and swept results are different protocols.
    node.LR_SWEEP = CfgNode()
    node.LR_SWEEP.RATES = ()
    node.LR_SWEEP.MAX_ITER = 0  # iterations of a short run, to which the schedule is shortened
    node.LR_SWEEP.HELD_OUT = 0.1  # share of the training images on which the rates are compared
    # Dtype of SOLVER.AMP: fp16 as in Detectron2, or bf16 without loss scaling (torchvision engine
    # only).
    node.AMP_DTYPE = "fp16"
    # On GPUs from Ampere on: float32 matrix products round their factors to TF32 (10 bits of
    # mantissa), in training and in the scores that follow it. False: PyTorch's default, which is
    # full float32 for products, and TF32 for convolutions in float32.
    node.TF32 = False
    # Number of parts of a batch that a process computes one after the other, to save memory. Losses
    # are those of as many processes, but batch norm sees one part. torchvision engine only.
    node.ACCUMULATE = 1
    node.LIMIT_IMAGES = 0  # use only the first N images with objects in each split; 0: all
    # Number of bootstrap draws of the test images, for the intervals in the report; 0: none
    node.REPLICATES = 200
    node.DRAW_DETECTIONS = 4  # test images in detections.png; 0: none, and no thumbnails
    node.CHANNELS_LAST = (
        False  # memory layout; True is 1.2 times as fast on a CPU, but rounds differently
    )
    node.LOG_PERIOD = 20  # iterations between lines of metrics.json
    # Loggers that also get these lines: tensorboard, wandb, trackio, mlflow, with commas; "": none.
    # torchvision engine only; the detectron2 engine has Detectron2's writers.
    node.LOGGER = "tensorboard"
    node.VIT = _vit()
    node.CONVNET = _convnet()
    node.LSJ = _jitter()
    node.SEMANTIC = _semantic()
    return node


def _vit() -> CfgNode:
    """Returns the keys of the ViT of build_vit_sfp_backbone; MODEL.FPN has its pyramid's width and
    norm.

    Defaults are ViTDet's for a ViT-B (configs/common/models/mask_rcnn_vitdet.py in Detectron2).
    """
    node = CfgNode()
    node.WIDTH = 768  # channels of a token
    node.DEPTH = 12  # number of blocks
    node.HEADS = 12  # attention heads; the number in the weights replaces it
    node.PATCH_SIZE = 16  # pixels
    node.IMAGE_SIZE = 1024  # pixels; every input is padded to such a square
    node.PRETRAIN_IMAGE_SIZE = 224  # pixels; the size in the weights replaces it
    node.WINDOW_SIZE = 14  # side of a window in tokens, in the blocks that are not in GLOBAL_BLOCKS
    node.GLOBAL_BLOCKS = (2, 5, 8, 11)  # blocks (from 0) that attend over the complete image
    node.RELATIVE_POSITIONS = True  # relative positions along both axes, which start at zero
    node.DROP_PATH = 0.1  # rate of the last block in training; it rises linearly from 0
    return node


def _convnet() -> CfgNode:
    """Returns the keys of timm's ConvNets under FPN. MODEL.RESNETS.NORM replaces their batch
    norms; it is "" for a network without any. OUT_FEATURES is the only other key of MODEL.RESNETS
    that they use.
    """
    node = CfgNode()
    node.DROP_PATH = 0.0  # rate of the last block in training; it rises linearly from 0
    node.OUT_NORM = False  # a new LayerNorm on each map, as in the detectors of ConvNeXt's authors
    return node


def _jitter() -> CfgNode:
    """Large-scale jitter of training images: flip, resize, cut out (Ghiasi et al. 2021).

    As ViTDet's configs/common/coco_loader_lsj.py; it replaces INPUT.MIN_SIZE_TRAIN and
    .MAX_SIZE_TRAIN. Boxes become those of the cut masks if there are masks, which needs the
    package shapely.
    """
    node = CfgNode()
    node.SCALES = ()  # smallest and largest factor on CROP_SIZE (ViTDet: 0.1, 2.0); (): no jitter
    node.CROP_SIZE = 1024  # side of a square in pixels; a smaller image is not padded here
    return node


def _semantic() -> CfgNode:
    """Semantic segmentation; read if TASK is semantic, by our engine alone.

    Detectron2's own keys are used if they mean the same: MODEL.RESNETS, SOLVER, INPUT.MIN_SIZE_*
    (0: the original size), INPUT.MAX_SIZE_*, INPUT.RANDOM_FLIP. Defaults are MoCo's (arXiv
    1911.05722, appendix) if it gives one.
    """
    node = CfgNode()
    node.NUM_CLASSES = 21  # with the background; set from the data for semseg: and coco: names
    # fcn, or linear: a probe of the frozen backbone (dropout, batch norm, 1x1 convolution), which
    # reads none of the keys HEAD_* and AUX_*. MODEL.BACKBONE.FREEZE_AT 5 freezes the backbone.
    # uper: UPerNet on the maps of all stages of a ResNet, a ViT or a ConvNet of timm's; of HEAD_*
    # it reads HEAD_CHANNELS
    node.HEAD = "fcn"
    # uper: the blocks of a ViT, from 0, whose outputs are rescaled to four strides (BEiT's for a
    # ViT-B; for a ViT-L 7, 11, 15, 23)
    node.VIT_BLOCKS = (3, 5, 7, 11)
    # uper: drop path of the last block of a ViT or a ConvNeXt in training; it rises linearly from 0
    node.DROP_PATH = 0.0
    node.POLY_POWER = 0.9  # exponent of SOLVER.LR_SCHEDULER_NAME WarmupPolyLR
    # For a ResNet: pixels per feature; the last stages have dilations in place of strides
    node.OUTPUT_STRIDE = 16
    # False: all 3x3 convolutions of a dilated stage dilate, as MoCo. True: the one that lost its
    # stride does not, as torchvision's replace_stride_with_dilation and mmseg's contract_dilation.
    node.CONTRACT_DILATION = False
    node.HEAD_CONVS = 2  # number of 3x3 convolutions before the 1x1 classifier
    node.HEAD_CHANNELS = 256
    node.HEAD_DILATION = 6
    node.HEAD_CONCAT = False  # as mmseg: one more convolution gets the head's input and output
    node.DROPOUT = 0.0  # share of the channels that are dropped before the classifier
    node.AUX_WEIGHT = 0.0  # weight of the loss of a second head, on the last stage but one; 0: none
    node.AUX_CHANNELS = 256
    # resizing of scores: the centres of corner pixels match, or their edges
    node.ALIGN_CORNERS = True
    node.LOSS_OVER = "labelled"  # the mean is over labelled pixels, or over "all" as in mmseg
    node.SCALE_RANGE = (0.5, 2.0)  # range of a factor on the training size, drawn uniformly
    node.CROP_SIZE = 513  # side of a square in pixels; smaller images are padded
    # Test images are scored in overlapping windows of CROP_SIZE, this many pixels apart; 0: at once
    node.WINDOW_STRIDE = 0
    # Factors on the test size: the class probabilities of a pass at each are averaged, such as
    # (0.5, 0.75, 1.0, 1.25, 1.5, 1.75); (): one pass at the test size
    node.TEST_SCALES = ()
    node.TEST_FLIP = False  # one more pass at each size, with the mirrored image
    # crops with a larger share of one class are drawn again, up to 10 times
    node.CROP_MAX_SHARE = 1.0
    node.COLOR_JITTER = False  # brightness, contrast, saturation, hue, as mmseg
    return node


def _model() -> CfgNode:
    node = CfgNode()
    node.META_ARCHITECTURE = "GeneralizedRCNN"  # two stages; or RetinaNet: one stage
    node.DEVICE = "cuda"  # OURS: means "the GPU if there is one"
    node.MASK_ON = False
    node.KEYPOINT_ON = False
    node.WEIGHTS = ""  # the weights of a run without --weights, which replaces this key
    # Pixel statistics on 0..255 in INPUT.FORMAT order. Those in the weights replace them.
    node.PIXEL_MEAN = [103.530, 116.280, 123.675]
    node.PIXEL_STD = [1.0, 1.0, 1.0]
    node.BACKBONE = CfgNode()
    # build_resnet_backbone (C4), build_resnet_fpn_backbone, build_retinanet_resnet_fpn_backbone
    # (p6 and p7 are convolutions of res5); OURS: build_tiny_resnet_backbone, build_vit_sfp_backbone
    # (ViTDet, see TRANSFER.VIT), or timm's name of a ResNet variant, ResNeXt, ConvNeXt, RegNet or
    # EfficientNet, under FPN (see TRANSFER.CONVNET). With TRANSFER.SEMANTIC.HEAD linear: `any`, for
    # what the weights hold, or the name of `random` weights' network, such as resnet50. With uper:
    # a ResNet as above, or a network's name, such as vit_base_patch16_224 or convnext_tiny
    node.BACKBONE.NAME = "build_resnet_backbone"
    # 0: nothing, 1: the stem, 2: stem and res2, ... 5: all of a ResNet; other networks: 0 or 5
    node.BACKBONE.FREEZE_AT = 2
    node.RESNETS = _resnets()
    node.FPN = CfgNode()
    node.FPN.IN_FEATURES = []
    node.FPN.OUT_CHANNELS = 256
    node.FPN.NORM = ""
    node.FPN.FUSE_TYPE = "sum"  # sum or avg of a map and the coarser one
    node.PROPOSAL_GENERATOR = CfgNode()
    node.PROPOSAL_GENERATOR.NAME = "RPN"  # the only one
    node.PROPOSAL_GENERATOR.MIN_SIZE = 0  # the only one
    node.ANCHOR_GENERATOR = CfgNode()
    node.ANCHOR_GENERATOR.NAME = "DefaultAnchorGenerator"  # the only one
    node.ANCHOR_GENERATOR.SIZES = [[32, 64, 128, 256, 512]]  # one list per map, or one for all
    node.ANCHOR_GENERATOR.ASPECT_RATIOS = [[0.5, 1.0, 2.0]]  # height / width
    node.ANCHOR_GENERATOR.OFFSET = 0.0  # offset of the anchors' centres, in strides
    node.RPN = _rpn()
    node.ROI_HEADS = _roi_heads()
    node.ROI_BOX_HEAD = _box_head()
    node.ROI_BOX_CASCADE_HEAD = _cascade_head()
    node.ROI_MASK_HEAD = _mask_head()
    node.ROI_KEYPOINT_HEAD = _keypoint_head()
    node.RETINANET = _retinanet()
    return node


def _resnets() -> CfgNode:
    node = CfgNode()
    node.DEPTH = 50  # 18, 34 (FPN only), 50, 101, 152
    node.OUT_FEATURES = ["res4"]
    node.NORM = "FrozenBN"  # FrozenBN, BN, SyncBN, naiveSyncBN; from scratch also GN, LN
    node.STRIDE_IN_1X1 = True  # False for torchvision's layout; the weights decide if they state it
    node.STEM_OUT_CHANNELS = 64
    node.RES2_OUT_CHANNELS = 256  # 64 for ResNet-18/34
    node.NUM_GROUPS = 1  # groups of the 3x3 convolutions; ResNeXt: 32
    node.WIDTH_PER_GROUP = 64  # channels of each group in res2 (32x4d: 4; wide: 128)
    # 2: res5 has a dilation in place of its stride; build_resnet_backbone with StandardROIHeads on
    # res5
    node.RES5_DILATION = 1
    return node


def _rpn() -> CfgNode:
    node = CfgNode()
    node.HEAD_NAME = "StandardRPNHead"  # the only one
    node.IN_FEATURES = ["res4"]
    node.CONV_DIMS = [-1]  # -1 for each 3x3 convolution before the logits; as wide as its input
    node.BOUNDARY_THRESH = -1  # anchors that leave the image are kept; the only value
    node.IOU_THRESHOLDS = [0.3, 0.7]  # background below the first, object from the second
    node.IOU_LABELS = [0, -1, 1]
    node.BATCH_SIZE_PER_IMAGE = 256  # number of anchors in the loss
    node.POSITIVE_FRACTION = 0.5  # largest share of objects among them
    node.BBOX_REG_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
    # smooth_l1 of the deltas, or giou, diou, ciou of the decoded boxes
    node.BBOX_REG_LOSS_TYPE = "smooth_l1"
    node.SMOOTH_L1_BETA = 0.0  # width of the quadratic part of smooth_l1; 0: plain L1
    node.BBOX_REG_LOSS_WEIGHT = 1.0  # weight of the boxes' loss, times LOSS_WEIGHT
    node.LOSS_WEIGHT = 1.0  # weight of both losses
    node.PRE_NMS_TOPK_TRAIN = 12000  # per feature map
    node.PRE_NMS_TOPK_TEST = 6000
    node.POST_NMS_TOPK_TRAIN = 2000  # per image
    node.POST_NMS_TOPK_TEST = 1000
    node.NMS_THRESH = 0.7
    return node


def _roi_heads() -> CfgNode:
    node = CfgNode()
    # Res5ROIHeads, Res5ROIHeadsExtraNorm (MoCo's: a norm after res5), StandardROIHeads,
    # CascadeROIHeads (three box heads, each on the boxes of the one before)
    node.NAME = "Res5ROIHeads"
    node.NUM_CLASSES = 80  # set from the data for voc: and coco: names
    node.IN_FEATURES = ["res4"]
    node.IOU_THRESHOLDS = [0.5]
    node.IOU_LABELS = [0, 1]
    node.BATCH_SIZE_PER_IMAGE = 512  # number of regions in the loss
    node.POSITIVE_FRACTION = 0.25  # largest share of objects among them
    node.SCORE_THRESH_TEST = 0.05
    node.NMS_THRESH_TEST = 0.5
    node.PROPOSAL_APPEND_GT = True
    return node


def _box_head() -> CfgNode:
    node = CfgNode()
    node.NAME = ""  # FastRCNNConvFCHead for StandardROIHeads
    node.BBOX_REG_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
    node.BBOX_REG_LOSS_TYPE = "smooth_l1"  # as of RPN
    node.SMOOTH_L1_BETA = 0.0
    node.BBOX_REG_LOSS_WEIGHT = 1.0
    node.POOLER_RESOLUTION = 14
    node.POOLER_SAMPLING_RATIO = 0  # 0: adaptive
    node.POOLER_TYPE = "ROIAlignV2"  # or ROIAlign, half a pixel off
    node.NUM_FC = 0
    node.FC_DIM = 1024
    node.NUM_CONV = 0
    node.CONV_DIM = 256
    node.NORM = ""
    node.CLS_AGNOSTIC_BBOX_REG = False  # True: a region has one box for all classes
    node.USE_SIGMOID_CE = False  # True: a sigmoid and a binary cross-entropy for each class
    node.TRAIN_ON_PRED_BOXES = False  # True: the mask head is trained on the refined boxes
    return node


def _cascade_head() -> CfgNode:
    """Read if ROI_HEADS.NAME is CascadeROIHeads."""
    node = CfgNode()
    # A row for each stage; the later ones refine boxes that are close already.
    node.BBOX_REG_WEIGHTS = (
        (10.0, 10.0, 5.0, 5.0),
        (20.0, 20.0, 10.0, 10.0),
        (30.0, 30.0, 15.0, 15.0),
    )
    # IoU from which a box is an object; the first equals IOU_THRESHOLDS
    node.IOUS = (0.5, 0.6, 0.7)
    return node


def _mask_head() -> CfgNode:
    node = CfgNode()
    node.NAME = "MaskRCNNConvUpsampleHead"  # the only one
    node.POOLER_RESOLUTION = 14
    node.POOLER_SAMPLING_RATIO = 0
    node.POOLER_TYPE = "ROIAlignV2"  # or ROIAlign
    node.NUM_CONV = 0
    node.CONV_DIM = 256
    node.NORM = ""
    node.CLS_AGNOSTIC_MASK = False  # True: a box has one mask for all classes
    return node


def _keypoint_head() -> CfgNode:
    """Read if KEYPOINT_ON is True, with StandardROIHeads or CascadeROIHeads."""
    node = CfgNode()
    node.NAME = "KRCNNConvDeconvUpsampleHead"  # the only one
    node.POOLER_RESOLUTION = 14
    node.POOLER_SAMPLING_RATIO = 0
    node.POOLER_TYPE = "ROIAlignV2"  # or ROIAlign
    node.CONV_DIMS = tuple(512 for _ in range(8))  # channels of the 3x3 convolutions
    node.NUM_KEYPOINTS = 17  # number of keypoints of an object; COCO's persons have 17
    # Training images whose objects have fewer labelled keypoints together are left out.
    node.MIN_KEYPOINTS_PER_IMAGE = 1
    # The loss is divided by the number of labelled keypoints in it. False: by the product of the
    # numbers of images, keypoints and most boxes with an object; then LOSS_WEIGHT 4 is usual.
    node.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS = True
    node.LOSS_WEIGHT = 1.0
    return node


def _retinanet() -> CfgNode:
    """Read if META_ARCHITECTURE is RetinaNet."""
    node = CfgNode()
    node.NUM_CLASSES = 80  # set from the data for voc: and coco: names
    node.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    node.NUM_CONVS = 4  # convolutions in each of the two branches (boxes, classes)
    node.NORM = ""  # norm of these convolutions: GN, LN or none
    node.IOU_THRESHOLDS = [0.4, 0.5]  # background below the first, object from the second
    node.IOU_LABELS = [0, -1, 1]
    node.PRIOR_PROB = 0.01  # probability of each class at each anchor before training
    node.BBOX_REG_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
    node.BBOX_REG_LOSS_TYPE = "smooth_l1"  # as of RPN
    node.SMOOTH_L1_LOSS_BETA = 0.1
    node.FOCAL_LOSS_GAMMA = 2.0
    node.FOCAL_LOSS_ALPHA = 0.25  # weight of the class of an object; others have one minus it
    node.SCORE_THRESH_TEST = 0.05
    node.TOPK_CANDIDATES_TEST = 1000  # per feature map
    node.NMS_THRESH_TEST = 0.5
    return node


def _input() -> CfgNode:
    node = CfgNode()
    node.MIN_SIZE_TRAIN = (800,)  # short edges, of which one is drawn per image; 0: no resizing
    node.MIN_SIZE_TRAIN_SAMPLING = "choice"  # or range: drawn from the first size to the second
    node.MAX_SIZE_TRAIN = 1333  # limit of the long edge
    node.MIN_SIZE_TEST = 800
    node.MAX_SIZE_TEST = 1333
    node.CROP = CfgNode()  # a crop that is cut out of a training image before it is resized
    node.CROP.ENABLED = False
    node.CROP.TYPE = "relative_range"  # or relative, absolute, absolute_range
    node.CROP.SIZE = [0.9, 0.9]  # shares of height and width (absolute: pixels)
    node.RANDOM_FLIP = "horizontal"  # horizontal or none
    node.FORMAT = "BGR"  # channel order; the weights decide if they state it
    node.MASK_FORMAT = "polygon"  # or bitmask, for run-length annotations
    return node


def _solver() -> CfgNode:
    node = CfgNode()
    # WarmupMultiStepLR, WarmupCosineLR, WarmupStepWithFixedGammaLR (steps of equal length)
    node.LR_SCHEDULER_NAME = "WarmupMultiStepLR"
    node.MAX_ITER = 40000
    node.BASE_LR = 0.001
    node.BASE_LR_END = 0.0  # last learning rate of WarmupCosineLR
    node.MOMENTUM = 0.9
    node.NESTEROV = False
    node.WEIGHT_DECAY = 0.0001
    node.WEIGHT_DECAY_NORM = 0.0  # weight decay of BN and GN layers
    node.WEIGHT_DECAY_BIAS = None  # None: the same as WEIGHT_DECAY
    node.BIAS_LR_FACTOR = 1.0
    node.GAMMA = 0.1  # factor on the learning rate at each of STEPS
    node.STEPS = (30000,)
    node.NUM_DECAYS = 3  # number of steps of WarmupStepWithFixedGammaLR
    node.RESCALE_INTERVAL = False  # True: the schedule begins at the end of the warm-up
    node.WARMUP_FACTOR = 1.0 / 1000
    node.WARMUP_ITERS = 1000
    node.WARMUP_METHOD = "linear"  # or constant
    node.CHECKPOINT_PERIOD = 5000  # iterations
    node.IMS_PER_BATCH = 16  # images per iteration over all processes
    # Number of processes for which batch, rate and iterations are meant. On a different number they
    # are scaled, and the batch of a process stays the same. 0: never scaled.
    node.REFERENCE_WORLD_SIZE = 0
    node.CLIP_GRADIENTS = CfgNode()
    node.CLIP_GRADIENTS.ENABLED = False
    # value: each number of a gradient is clipped; norm: the gradient of a parameter is scaled down
    node.CLIP_GRADIENTS.CLIP_TYPE = "value"
    node.CLIP_GRADIENTS.CLIP_VALUE = 1.0  # the largest value, or the largest norm
    node.CLIP_GRADIENTS.NORM_TYPE = 2.0  # type of the norm: 2 is the Euclidean one
    node.AMP = CfgNode()
    node.AMP.ENABLED = False  # mixed precision in training; evaluation is float32
    return node
