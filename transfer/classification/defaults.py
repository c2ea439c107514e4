"""Every key of a classification config with its default, and which protocols read it."""

from __future__ import annotations

from collections.abc import Callable

from fvcore.common.config import CfgNode

from pretrain.common.config_values import Items, declare_lists
from pretrain.common.roles import Hashed, KeyRole, Role, Roles, only

# By PROTOCOL.NAME: the nodes that this protocol reads, of those that only some protocols read. A
# protocol with FEATURES works on cached features, one with SOLVER takes gradient steps, one with
# TRAIN trains on random crops.
READS = {
    "knn": ("FEATURES",),
    "linear": ("FEATURES", "SOLVER"),
    "logistic": ("FEATURES", "LOGISTIC"),
    "kshot": ("FEATURES", "KSHOT"),
    "svm": ("FEATURES", "SVM"),
    "svm_lowshot": ("FEATURES", "SVM"),
    "robustness": ("FEATURES", "HEAD"),
    "linear_crops": ("SOLVER", "TRAIN"),
    "finetune": ("SOLVER", "TRAIN"),
}

# The types of the items in keys that are lists
LISTS = {
    "PROTOCOL.K": Items(int),
    "KNN.MORE_TEMPERATURES": Items(float),
    "SVM.COSTS": Items(float),
    "SVM.SHOTS": Items(int),
    "KSHOT.SHOTS": Items(int),
    "TRAIN.CROP_SCALE": Items(float, (2,)),
    "TRAIN.MILESTONES": Items(float),
    "SOLVER.LR_PER_256": Items(float),
}


def reads(cfg: CfgNode, node: str) -> bool:
    """Returns whether the config's protocol reads the keys of a node of READS."""
    return node in READS.get(cfg.PROTOCOL.NAME, ())


def get_defaults() -> CfgNode:
    """Returns a fresh config with the defaults; a config may set only keys that are here."""
    cfg = CfgNode()

    cfg.DATASETS = CfgNode()
    # folder:FOLDER:SPLIT, folder:FOLDER, or a built-in set such as cifar10:train, imagenet:train or
    # food101:train (pretrain/data/datasets.py lists them); svm, svm_lowshot, and logistic with
    # LOGISTIC.METRIC mAP_11point: a detection set such as voc_2007_trainval
    cfg.DATASETS.TRAIN = ""
    cfg.DATASETS.TEST = ""
    # Use only the first images of each class, the same for all checkpoints and trials; 0: all
    cfg.DATASETS.LIMIT_PER_CLASS = 0
    cfg.DATASETS.TEST_LIMIT_PER_CLASS = 0

    cfg.DATALOADER = CfgNode()
    # Worker processes that decode images, per GPU; 0: the main process decodes them
    cfg.DATALOADER.NUM_WORKERS = 2
    # Images per forward pass of the frozen backbone, per GPU
    cfg.DATALOADER.BATCH_SIZE = 256
    # linear_crops, finetune: decode every image once before training. A broken image is then
    # reported before hours of training and not after them
    cfg.DATALOADER.CHECK_IMAGES = True

    cfg.BACKBONE = CfgNode()
    # Architecture of `--weights random`. For a weights file, the file decides the architecture
    cfg.BACKBONE.NAME = ""

    cfg.PROTOCOL = CfgNode()
    # knn, linear, logistic, svm, svm_lowshot and kshot work on features of one centre crop.
    # linear_crops and finetune train on random crops: a probe of the frozen backbone, or the full
    # network
    cfg.PROTOCOL.NAME = "knn"
    # Shorter side after resizing, then the side of the centre crop, in pixels
    cfg.PROTOCOL.RESIZE = 256
    cfg.PROTOCOL.IMAGE_SIZE = 224
    # bilinear or bicubic
    cfg.PROTOCOL.INTERPOLATION = "bilinear"
    # A grey probe: training and test images are converted to grey before they are resized (ITU-R
    # 601, as PIL's mode L, in all three channels). Only for protocols on frozen features
    cfg.PROTOCOL.GRAY = False
    # kNN: neighbourhood sizes and temperature (DINO's eval_knn.py)
    cfg.PROTOCOL.K = (10, 20, 100, 200)
    cfg.PROTOCOL.TEMPERATURE = 0.07
    # linear: scale every feature to zero mean and unit variance over the training set. MAE's
    # BatchNorm1d(affine=False) before the head converges to the same
    cfg.PROTOCOL.STANDARDIZE = True
    # linear, linear_crops, finetune: share of the training images of each class that is held out to
    # choose the learning rate, if SOLVER.LR_PER_256 lists several
    cfg.PROTOCOL.HOLDOUT = 0.1

    cfg.KNN, cfg.QUALITY = _extras()
    cfg.SVM, cfg.KSHOT, cfg.TRAIN = _svm(), _kshot(), _train()
    cfg.LOGISTIC, cfg.HEAD = _logistic(), _head()
    cfg.FEATURES = _features()

    cfg.SOLVER = _solver()

    # Trial t uses SEED + t
    cfg.SEED = 0
    cfg.REPLICATES = 200  # bootstrap draws of the test images, for error bars; 0: none
    # linear_crops, finetune: loggers that get a row for each epoch, next to curves.json:
    # tensorboard, wandb, trackio, mlflow, with commas between them; "": none
    cfg.LOGGER = "tensorboard"
    # Set by --output
    cfg.OUTPUT_DIR = ""
    # Folder in which extracted features are kept for the next run; "": they are not kept
    cfg.CACHE_DIR = ""
    declare_lists(cfg, LISTS)
    return cfg


def _extras() -> tuple[CfgNode, CfgNode]:
    """Returns the nodes KNN and QUALITY. Their keys add metrics and change no other metric."""
    knn, quality = CfgNode(), CfgNode()
    # More temperatures for the votes of the same neighbours, recorded as knnK_T0.1_top1 in addition
    # to knnK_top1 (0.1: Wu et al. 2018, lightly; VISSL calls it sigma)
    knn.MORE_TEMPERATURES = (0.1,)
    # Number of test images whose two random crops give features/alignment and /uniformity; 0: the
    # run computes no features/*
    quality.IMAGES = 1000
    return knn, quality


def _solver() -> CfgNode:
    """Returns the solver keys of `linear`, and of the protocols that read TRAIN."""
    node = CfgNode()
    # linear: momentum SGD with a cosine schedule to 0; for other protocols see TRAIN.SCHEDULE
    node.EPOCHS = 100
    # Images per step, over all GPUs together
    node.BATCH_SIZE = 256
    # Learning rates of the head for a batch of 256, scaled linearly with the batch size. linear
    # tries them all at once, linear_crops and finetune one after the other
    node.LR_PER_256 = (0.01, 0.03, 0.1, 0.3, 1.0)
    node.MOMENTUM = 0.9
    # L2 penalty. linear: on the weights but not on the bias; other protocols: on all parameters
    # except those of normalisation layers
    node.WEIGHT_DECAY = 0.0
    return node


def _features() -> CfgNode:
    """Returns the number formats of frozen features; `choose_formats` explains auto."""
    node = CfgNode()
    # Format of the backbone's forward pass: fp32, bf16 or fp16 (autocast), or auto: bf16 on CUDA
    # (fp16 if the GPU has no bf16), fp32 elsewhere (on CUDA torch's fp32 convolutions are TF32)
    node.PRECISION = "auto"
    # Format in which features are kept in memory and in CACHE_DIR: fp32, fp16 (half the size: 5 GB
    # for ImageNet and 2048 dimensions), or auto: fp16 after a bf16 or fp16 pass, otherwise fp32
    node.STORAGE = "auto"
    return node


def _svm() -> CfgNode:
    """Returns the keys of svm and svm_lowshot, VISSL's VOC07 protocol."""
    node = CfgNode()
    # Resize the full image to a square instead of taking a centre crop
    node.SQUASH = True
    # Side of the windows over which the last feature map is averaged before it is flattened; 0: the
    # map is averaged over all its places
    node.WINDOW = 6
    node.COSTS = (0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0)
    # Folds of the cross-validation that chooses a class's cost
    node.FOLDS = 3
    node.MAX_ITER = 2000
    # svm_lowshot: positive images per class; trial t draws them with seed SEED + t
    node.SHOTS = (1, 2, 4, 8, 16, 32, 64, 96)
    return node


def _kshot() -> CfgNode:
    """Returns the keys of kshot: logistic regression on few labels.

    Source: facebookresearch/msn, logistic_eval.py.
    """
    node = CfgNode()
    # Labelled images per class; trial t draws them with seed SEED + t
    node.SHOTS = (1, 2, 5)
    # L2 penalty on the weights, added to the sum of the images' losses (MSN's --lambd)
    node.PENALTY = 0.00025
    return node


def _logistic() -> CfgNode:
    """Returns the keys of logistic: logistic regression whose penalty is chosen on validation.

    Source: Chen et al. 2020 (SimCLR), B.8; Grill et al. 2020 (BYOL), D.
    """
    node = CfgNode()
    # What chooses the penalty and is recorded: top1, mean_per_class (the mean over classes of their
    # accuracies) or mAP_11point (VOC2007's, of images with several labels)
    node.METRIC = "top1"
    # The part of DATASETS.TRAIN that chooses the penalty, such as flowers102:val of
    # flowers102:trainval; "": HOLDOUT of each class's images, the same for all trials
    node.VAL = ""
    node.HOLDOUT = 0.2
    # Penalties that are tried: STEPS, evenly spaced in their logarithm. Half of it times the sum of
    # the squared weights is added to the sum of the images' losses (scikit-learn's C is 1 over it)
    node.LEAST = 1.0e-6
    node.MOST = 1.0e5
    node.STEPS = 45
    # A fit has converged if the norm of the gradient of the mean loss is at most this
    node.TOLERANCE = 1.0e-5
    node.MAX_ITER = 5000  # evaluations by L-BFGS; a fit that reaches it causes a warning
    return node


def _head() -> CfgNode:
    """Returns the keys of robustness: the trained head, and the classes that it may predict."""
    node = CfgNode()
    # Output folder of a finished run with PROTOCOL.NAME linear on the same weights and
    # DATASETS.TRAIN; trial t takes the head of its trial t
    node.RUN = ""
    # all: the test set has images of all classes. present: only the classes of which it has images
    # can be predicted (ImageNet-R and -A: 200 of 1,000)
    node.CLASSES = "all"
    return node


def _train() -> CfgNode:
    """Returns the keys of linear_crops and finetune, which train on random crops."""
    node = CfgNode()
    # Share of the image's area that a crop covers (torchvision's RandomResizedCrop)
    node.CROP_SCALE = (0.08, 1.0)
    node.FLIP_PROB = 0.5
    # Leave out the last batch of an epoch if it is not full
    node.DROP_LAST = False
    # Train only on the images of a list: a file, a URL, simclr_1pct or simclr_10pct; "": on all
    node.SPLIT_LIST = ""
    # How many images the list must name; 0: any number
    node.SPLIT_LINES = 0
    # sgd or lars. Variants of LARS: matrices (MAE), all (apex's LARC), backbone (SimCLR)
    node.OPTIMIZER = "sgd"
    node.LARS = "matrices"
    node.NESTEROV = False
    # finetune: the backbone's learning rate divided by the head's
    node.BACKBONE_LR_RATIO = 1.0
    # cosine: to 0. step: the rate is multiplied by GAMMA at each of the MILESTONES, in epochs
    node.SCHEDULE = "cosine"
    node.MILESTONES = ()
    node.GAMMA = 0.1
    # The rate changes at the start of each epoch instead of at each step
    node.PER_EPOCH = False
    node.WARMUP_EPOCHS = 0
    # linear, batchnorm_linear (MAE), layers (VISSL: one on each of conv1, res2 ... res5, res5avg)
    node.HEAD = "linear"
    # normal (std 0.01, bias 0), zero, or uniform (torch's own)
    node.HEAD_INIT = "normal"
    # Feature of a ViT. token: its class token; patches: the mean of them (MAE's --global_pool)
    node.VIT_POOL = "token"
    # Number of images over which a batch norm in training computes its statistics: a process splits
    # its images into parts of this size and adds up the gradients; 0: all images at once
    node.NORM_BATCH = 0
    # Batch norms in training compute their statistics over the images of all processes
    node.SYNC_BN = False
    # bfloat16 on a GPU (weights, head and loss in float32)
    node.AMP = True
    # On GPUs from Ampere on: float32 matrix products round their factors to TF32 (10 bits of
    # mantissa): all of them without AMP, with it those of head and loss. False: PyTorch's default
    node.TF32 = False
    # Epochs between tests on DATASETS.TEST; the best is reported as top1_best. 0: test only after
    # the last epoch
    node.EVAL_PERIOD = 1
    # Which of top1 (last epoch) and top1_best the recipe's source printed; "": not known
    node.SOURCE_PRINTS = ""
    return node


def _if_read(node: str) -> Callable[[CfgNode], bool]:
    return lambda cfg: reads(cfg, node)


def uses_tf32(cfg: CfgNode) -> bool:
    """Returns whether training on random crops may round factors of float32 products to TF32."""
    return reads(cfg, "TRAIN") and cfg.TRAIN.TF32


def _rounds(cfg: CfgNode) -> bool:
    """Returns whether features are rounded.

    If everything is in fp32, FEATURES is left out of the hash. Records from before this node
    existed then have the same identity. `auto` has been replaced before this is called.
    """
    return reads(cfg, "FEATURES") and set(cfg.FEATURES.values()) != {"fp32"}


# The role of each key: this is the only list. A key that is not in it belongs to the protocol.
ROLES = Roles(
    get_defaults,
    {
        "OUTPUT_DIR": KeyRole(Role.MACHINE, Hashed.NOTHING),
        "CACHE_DIR": KeyRole(Role.MACHINE, Hashed.NOTHING),
        "DATALOADER": KeyRole(Role.MACHINE, Hashed.NOTHING),
        "LOGGER": KeyRole(Role.WATCHING, Hashed.NOTHING),
        "SEED": KeyRole(Role.TRIAL, Hashed.NOTHING),
        "BACKBONE": KeyRole(Role.WEIGHTS, Hashed.NOTHING),
        # They add metrics and an artifact to those of the protocol; the metrics' names say which.
        "KNN": KeyRole(Role.WATCHING, Hashed.NOTHING),
        "QUALITY": KeyRole(Role.WATCHING, Hashed.NOTHING),
        "REPLICATES": KeyRole(Role.WATCHING, Hashed.NOTHING),
        # A grey probe is a different protocol; False gives the hash from before the key existed
        "PROTOCOL.GRAY": only(lambda cfg: cfg.PROTOCOL.GRAY),
        "FEATURES": only(_rounds),
        "SVM": only(_if_read("SVM")),
        "LOGISTIC": only(_if_read("LOGISTIC")),
        # The identity has the sha256 of the head's protocol in place of its folder
        "HEAD": only(_if_read("HEAD")),
        "KSHOT": only(_if_read("KSHOT")),
        # TRAIN.SOURCE_PRINTS changes no number but has to stay in the hash: shipped configs have
        # four different values of it, and no single fixed value would give all their hashes.
        "TRAIN": only(_if_read("TRAIN")),
        "TRAIN.TF32": only(uses_tf32),
        "SOLVER": only(_if_read("SOLVER"), hashed=Hashed.DEFAULT),
    },
)
