"""Every config key of pretraining with its default: the recipe of MSCN on ImageNet, ResNet-50.

"Our choice" marks values that the MSCN article (arXiv 2206.07700) does not give. px means pixels of
the network's input. Probabilities and shares are from 0 to 1.
"""

from __future__ import annotations

from fvcore.common.config import CfgNode as CN

from pretrain.common.config_values import Items, declare_lists

_C = CN()
_C.SEED = 0  # initial weights, order of images, crops, augmentation, masks
_C.OUTPUT_DIR = ""  # "" = runs/<config's name>; --output replaces it

_C.DATASETS = CN()
# imagenet:train, folder:FOLDER[:SPLIT] (without SPLIT: FOLDER itself), cifar10:train; below
# $DETECTRON2_DATASETS or ./datasets
_C.DATASETS.TRAIN = "imagenet:train"
_C.DATASETS.LIMIT_PER_CLASS = 0  # first images of each class, by name; 0 = all
_C.DATASETS.KNN_TRAIN = ""  # bank of the kNN monitor; "" = no monitor
_C.DATASETS.KNN_TEST = ""  # its queries: a validation split, never the test set

_C.DATALOADER = CN()
_C.DATALOADER.NUM_WORKERS = 8  # decoding processes per training process; 0 = none
_C.DATALOADER.MAX_CORRUPT = 10  # unreadable images skipped (and named) before the run stops
# Keep images decoded in memory, if they have one size and fit in half of the free memory
_C.DATALOADER.CACHE_DECODED = False
# GiB of shared memory (/dev/shm) for the batches that wait for one training process; each decoding
# process still prepares at least one batch
_C.DATALOADER.PREFETCH_GIB = 2.0

_C.BACKBONE = CN()
_C.BACKBONE.NAME = "resnet50"  # a name in pretrain.backbones.resnet.BACKBONES, or any timm model
_C.BACKBONE.ZERO_INIT_RESIDUAL = False  # ResNets: last BN scale of a block is 0 (Goyal 2017)
_C.BACKBONE.PATCH_SIZE = 0  # ViTs: px, side of a patch; 0 = the model's own
# ResNets: the backward pass computes each block again: same numbers, but less memory
_C.BACKBONE.CHECKPOINTING = False

_C.METHOD = CN()
_C.METHOD.NAME = "mscn"  # a name of pretrain.methods.all_methods.METHODS
_C.METHOD.BASE = "simclr"  # mscn only: the two-view loss to which masking is added
_C.METHOD.TEMPERATURE = 0.1  # google-research/simclr README, ImageNet; our choice for MSCN
# mscn only. cross: each view of A with each of B (the article's asymmetric pairs); all: all pairs
_C.METHOD.PAIRS = "cross"
# One forward pass over all views, with one set of BN statistics; False: one pass per branch.
_C.METHOD.JOINT_FORWARD = True  # our choice; SimCLR's code concatenates its two views
_C.METHOD.PROJECTOR = CN()  # backbones/heads.py sets norms and biases by method
_C.METHOD.PROJECTOR.LAYERS = 3  # SimCLR v2; v1 has 2
_C.METHOD.PROJECTOR.HIDDEN_DIM = 2048  # SimCLR: the trunk's width (2048 for ResNet-50)
_C.METHOD.PROJECTOR.OUT_DIM = 128  # SimCLR
_C.METHOD.PREDICTOR = CN()  # simsiam, byol, moco_v3
_C.METHOD.PREDICTOR.HIDDEN_DIM = 512  # SimSiam; BYOL and MoCo v3: 4096
# Momentum copies (moco_v1, moco_v2, moco_v3, byol, msn)
_C.METHOD.MOMENTUM = 0.999  # MoCo v1, v2
_C.METHOD.MOMENTUM_SCHEDULE = "constant"  # constant; cosine (BYOL, MoCo v3) or linear (MSN) to 1
_C.METHOD.QUEUE_SIZE = 65536  # MoCo v1, v2: keys, a multiple of SOLVER.BATCH_SIZE
# Images in a row that share BN statistics; 0: the global batch. MoCo v1, v2: 32, as many as a GPU
# has in the original; a GPU then splits its batch into such groups, and the keys are shuffled.
_C.METHOD.BN_GROUP = 0
_C.METHOD.VICREG = CN()
_C.METHOD.VICREG.WEIGHTS = (25.0, 25.0, 1.0)  # invariance, variance, covariance; VICReg
_C.METHOD.BARLOW = CN()
_C.METHOD.BARLOW.OFF_DIAGONAL = 0.0051  # weight; Barlow Twins
_C.METHOD.MSN = CN()  # facebookresearch/msn configs/pretrain/msn_vits16.yaml
_C.METHOD.MSN.PROTOTYPES = 1024
_C.METHOD.MSN.SHARPENING = 0.25  # temperature of the targets' sharpening
_C.METHOD.MSN.PATCH_DROP = 0.15  # share of an anchor's patches that is dropped
_C.METHOD.MSN.MEAN_ENTROPY = 1.0  # weight
_C.METHOD.MSN.ENTROPY = 0.0  # weight
_C.METHOD.MSN.SINKHORN = True  # balances the targets over the prototypes
_C.METHOD.MAE = CN()  # facebookresearch/mae models_mae.py, PRETRAIN.md
_C.METHOD.MAE.MASK_RATIO = 0.75  # share of the patches that is removed
_C.METHOD.MAE.NORMALIZE_PIXELS = True  # targets normalised within each patch
_C.METHOD.MAE.DECODER_DIM = 512
_C.METHOD.MAE.DECODER_DEPTH = 8
_C.METHOD.MAE.DECODER_HEADS = 16

# Crops and photometric augmentation, all of SimCLR (tf2/data_util.py) unless said otherwise.
_C.VIEWS = CN()
_C.VIEWS.SIZE = 224  # px, square
_C.VIEWS.CROP_SCALE = (0.08, 1.0)  # share of the image's area
_C.VIEWS.CROP_RATIO = (3 / 4, 4 / 3)  # width / height
_C.VIEWS.INTERPOLATION = "bilinear"  # bilinear (MoCo, torchvision) or bicubic (SimCLR, BYOL)
# The library that resizes crops: pillow (used for all numbers in docs/results), or torch, which
# needs two thirds of a worker's time; they differ at the crop's edges, see pretrain/data/crops.py
_C.VIEWS.RESIZE = "pillow"
_C.VIEWS.SAME_CROP = False  # all views share one crop (rungs 0-2 of the ladder; ablation)
_C.VIEWS.SAME_VIEW = False  # all views share crop and augmentation, masks differ (ablation)
_C.VIEWS.FLIP_PROB = 0.5
_C.VIEWS.JITTER_PROB = 0.8
_C.VIEWS.JITTER = (0.8, 0.8, 0.8, 0.2)  # brightness, contrast, saturation, hue
_C.VIEWS.GRAY_PROB = 0.2
_C.VIEWS.BLUR_SIGMA = (0.1, 2.0)  # px, drawn uniformly
_C.VIEWS.BLUR_KERNEL = 0  # px, odd; 0 = a tenth of SIZE, as SimCLR
# The two branches. The article says that they use different probabilities, but not which ones. Here
# the masks differ (our choice), and one view of A is compared with two of B ("multiple masks"; the
# number is our choice).
_C.VIEWS.A = CN()
_C.VIEWS.A.COUNT = 1  # views per image
_C.VIEWS.A.BLUR_PROB = 0.5
_C.VIEWS.A.SOLARIZE_PROB = 0.0  # BYOL's; SimCLR and MSCN have none
_C.VIEWS.A.HIGHPASS = True  # filter this branch's views
_C.VIEWS.A.MASK_PROB = 0.5  # share of this branch's views that are masked; our choice
_C.VIEWS.B = _C.VIEWS.A.clone()
_C.VIEWS.B.COUNT = 2  # our choice
_C.VIEWS.B.MASK_PROB = 1.0  # our choice
_C.VIEWS.FOCAL = _C.VIEWS.A.clone()  # msn: small views of small regions
_C.VIEWS.FOCAL.COUNT = 0  # MSN: 10
_C.VIEWS.FOCAL.SIZE = 96  # px; MSN
_C.VIEWS.FOCAL.CROP_SCALE = (0.05, 0.3)  # MSN
_C.VIEWS.FOCAL.HIGHPASS = False
_C.VIEWS.FOCAL.MASK_PROB = 0.0

# The filter x - blur(x). Kernel and sigma: our choice, those of the third-party MSCN at 224 px
# (joycenerd/Saliency-Guided-Masking-for-ConvNets, Dataset/random_mask_hp.py).
_C.HIGHPASS = CN()
_C.HIGHPASS.KERNEL_SIZE = 11  # px, odd
_C.HIGHPASS.SIGMA = 5.0  # px
_C.HIGHPASS.BORDER = "reflect"
# Whether the weights expect filtered input downstream (written to the checkpoint's `preprocess`):
# auto = yes if every view is filtered in pretraining; yes; no. Our choice: auto.
_C.HIGHPASS.AT_TRANSFER = "auto"

_C.MASK = CN()
_C.MASK.RATIO = (0.15,)  # masked share: one number, or a range drawn per image; article: 0.15
_C.MASK.GRID_SIZE = 32  # px, side of a cell; article: 32 (read as pixels at 224)
_C.MASK.RANDOM_PHASE = False  # shift the grid within a cell; our choice: no (third party)
_C.MASK.EXACT_COUNT = True  # the same number of cells in each image; our choice
_C.MASK.FOCAL_PROB = 0.2  # article: 20 % focal, 80 % grid
_C.MASK.FOCAL_SIZE = (200 / 224,)  # side kept, relative to SIZE; our choice (third party)
_C.MASK.FOCAL_ASPECT = (1.0, 1.0)  # width / height of the kept region; our choice
_C.MASK.CHANNEL_PROB = 0.7  # article: three independent masks, one per channel
_C.MASK.CHANNEL_KINDS = "same"  # same, mixed or grid; see MaskRecipe; our choice
# What replaces masked pixels. noise: see NOISE. Fills of other methods: mean (the image's mean
# colour), blur (its own blurred pixels), other (the next image of the batch, as in MixMask).
_C.MASK.FILL = "noise"
_C.MASK.BLUR_SIGMA = 10 / 224  # for FILL blur, relative to SIZE; third party: 10 px at 224
# none, iid (each value), image (a colour per image), cell (a colour per cell of the grid) or patch
# (one patch per batch in every cell, as the third party); our choice
_C.MASK.NOISE = "iid"
_C.MASK.NOISE_STD = 0.18  # in units of the filtered image; our choice (third party)
_C.MASK.NOISE_RELATIVE = False  # NOISE_STD is in units of the view's own standard deviation

_C.SOLVER = CN()
_C.SOLVER.EPOCHS = 100
_C.SOLVER.MAX_STEPS = 0  # > 0: this many steps instead of EPOCHS; the schedule spans them
_C.SOLVER.BATCH_SIZE = 4096  # images, over all processes
# batch size of the recipe's source; a warning says if BATCH_SIZE is different; 0 = none
_C.SOLVER.RECIPE_BATCH_SIZE = 0
# Number of parts in which a process computes its batch, one after the other (GradCache). It keeps
# all negatives, needs the memory of one part and a third more time; BN statistics are those of a
# part. It must be 1 for methods with momentum copies or predictors.
_C.SOLVER.ACCUMULATE = 1
_C.SOLVER.OPTIMIZER = "lars"  # lars, sgd, adamw
_C.SOLVER.LR_PER_256 = 0.3  # rate per 256 images; SimCLR: 4.8 at 4096
_C.SOLVER.BIAS_LR_PER_256 = 0.0  # > 0: the rate of biases and norms (Barlow Twins)
_C.SOLVER.CONSTANT_PREDICTOR_LR = False  # the predictor's rate stays at its start (SimSiam)
_C.SOLVER.SCHEDULE = "cosine"  # cosine, or step: a tenth at each of MILESTONES
_C.SOLVER.MILESTONES = (0.6, 0.8)  # shares of the run; MoCo v1
_C.SOLVER.RATE_PER_EPOCH = False  # the rate changes only between epochs (MoCo v1, v2, SimSiam)
_C.SOLVER.STRETCH = 1.0  # schedules span this many times the run, which ends early (MSN: 1.25)
_C.SOLVER.WARMUP_EPOCHS = 10.0  # linear; SimCLR
_C.SOLVER.WARMUP_STEPS = 0  # > 0: instead of WARMUP_EPOCHS
_C.SOLVER.WARMUP_START = 0.0  # share of the rate at which the warmup starts (MSN: 0.2)
_C.SOLVER.FINAL_LR_FRACTION = 0.0  # the cosine ends at this share of the rate
_C.SOLVER.MOMENTUM = 0.9  # lars, sgd
_C.SOLVER.MOMENTUM_HOLDS_LR = True  # lars: the rate enters the momentum (SimCLR); False: all others
_C.SOLVER.BETAS = (0.9, 0.999)  # adamw
_C.SOLVER.WEIGHT_DECAY = 1e-6  # SimCLR's flag default; its README's command has 1e-4
_C.SOLVER.FINAL_WEIGHT_DECAY = -1.0  # >= 0: a cosine goes from WEIGHT_DECAY to this (MSN)
_C.SOLVER.TRUST_COEFFICIENT = 0.001  # lars; SimCLR's eeta
_C.SOLVER.EXCLUDE_NORM_AND_BIAS = True  # no weight decay, no lars adaptation for them; SimCLR
_C.SOLVER.CLIP_NORM = 0.0  # > 0: largest total norm of the gradient (MSN: 3)
_C.SOLVER.MAX_SKIPPED_STEPS = 5  # steps of non-finite loss or gradient before the run stops
_C.SOLVER.COMPILE = False  # torch.compile of the trunk; without effect, and a line, if it fails
# On CUDA: the views of the next step are made on a separate stream during the backward pass, which
# needs the memory of a second batch of crops and views. Not measured on a GPU yet, therefore off.
_C.SOLVER.SIDE_STREAM = False
# Mixed precision on CUDA: autocast to bfloat16, or to float16 with scaled gradients if the GPU
# has no bfloat16 (before Ampere). A CPU always runs float32.
_C.SOLVER.BF16 = True
# On GPUs since Ampere: float32 matrix products round their factors to TF32 (10 bits of mantissa).
# With BF16 these are only the losses' products (VICReg, Barlow Twins: covariances). False is
# PyTorch's default: full float32 for products, and TF32 for convolutions in float32.
_C.SOLVER.TF32 = False

# After the last step, BN statistics are estimated again on unmasked training images (filtered if
# the weights expect it) and written to checkpoint_precise_bn.pth. checkpoint.pth keeps the
# statistics of training.
_C.PRECISE_BN = CN()
_C.PRECISE_BN.IMAGES = 8192  # 0 = off
_C.PRECISE_BN.BATCH_SIZE = 256

_C.CHECKPOINT = CN()
_C.CHECKPOINT.EVERY_EPOCHS = 1  # writes checkpoint.pth; 0 = only at the end
_C.CHECKPOINT.EVERY_STEPS = 0  # in addition to the epochs; 0 = off
_C.CHECKPOINT.KEEP_EVERY_EPOCHS = 0  # also keeps checkpoint_EPOCH.pth; 0 = none

_C.LOG = CN()
_C.LOG.EVERY_STEPS = 10  # rows of metrics.jsonl and of the loggers
# Who else shows these rows: tensorboard, wandb, trackio, mlflow, with commas; "" = nobody
_C.LOGGER = "tensorboard"

_C.KNN = CN()  # the monitor: weighted kNN on the frozen trunk, feature std, effective rank
_C.KNN.EVERY_EPOCHS = 5  # and at the end
_C.KNN.K = 20  # neighbours; DINO
_C.KNN.TEMPERATURE = 0.07  # DINO
_C.KNN.TRAIN_LIMIT = 2000  # images of KNN_TRAIN, spread evenly over the classes; 0 = all
_C.KNN.TEST_LIMIT = 1000
_C.KNN.BATCH_SIZE = 256

declare_lists(
    _C,
    {
        "METHOD.VICREG.WEIGHTS": Items(float, (3,)),
        "VIEWS.CROP_SCALE": Items(float, (2,)),
        "VIEWS.CROP_RATIO": Items(float, (2,)),
        "VIEWS.JITTER": Items(float, (4,)),
        "VIEWS.BLUR_SIGMA": Items(float, (2,)),
        "VIEWS.FOCAL.CROP_SCALE": Items(float, (2,)),
        "MASK.RATIO": Items(float, (1, 2)),
        "MASK.FOCAL_SIZE": Items(float, (1, 2)),
        "MASK.FOCAL_ASPECT": Items(float, (2,)),
        "SOLVER.MILESTONES": Items(float),
        "SOLVER.BETAS": Items(float, (2,)),
    },
)


def get_defaults() -> CN:
    """Returns a fresh copy of all keys with their defaults."""
    return _C.clone()
