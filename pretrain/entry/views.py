"""What a network sees of one's own images under a pretraining config.

Legend: V views of an image, N images, S side of a view in pixels.
"""

from __future__ import annotations

from fvcore.common.config import CfgNode
from PIL import Image
from torch import Generator, Tensor

from pretrain.common.errors import InputError
from pretrain.data.build import build_view_maker, first_batch
from pretrain.data.pictures import Pictures, open_pictures
from pretrain.data.views_picture import draw_columns
from pretrain.visual.gallery import LEGEND, PAGE, view_columns


class Views:
    """Makes the views of images as the training of a config does; see `build_views`."""

    def __init__(self, cfg: CfgNode) -> None:
        self._cfg = cfg
        self._maker = build_view_maker(cfg)

    def __call__(self, images: Pictures) -> list[Tensor]:
        """The views of N images: V tensors float32 (N, 3, S, S), the network's input: augmented,
        normalised, filtered and masked. Row i of each is of image i."""
        return self._maker(self.crops(images), Generator().manual_seed(self._cfg.SEED))

    def crops(self, images: Pictures) -> list[Tensor]:
        """Returns what the views are made of: V random crops of each image, uint8 (N, 3, S, S) RGB.

        Raises:
            InputError: an image cannot be read.
        """
        opened = open_pictures(images)
        try:
            batch = first_batch(self._cfg, opened, len(opened))
        except OSError as error:
            raise InputError(str(error)) from error
        order = batch.index.argsort()
        return [crop[order] for crop in batch.crops]

    def draw(self, images: Pictures) -> Image.Image:
        """Returns a picture with one row for each image: crop, view and mask of each of its views.

        In a filtered view grey is 0, "no information". In a mask black is kept, white is masked.
        """
        columns = view_columns(self._maker, self.crops(images), self._cfg.SEED)
        return draw_columns(columns, LEGEND, None, PAGE)


def build_views(cfg: CfgNode) -> Views:
    """Returns what makes the views of images under a config: crops, augmentation, filter and masks.

    All draws come from the config's SEED alone: the same images have the same views.

    Args:
        cfg: what `pretrain.load_config` returns.

    Raises:
        InputError: a mask's grid or a filter does not fit VIEWS.SIZE.

    Example:
        >>> import pretrain
        >>> from PIL import Image
        >>> views = pretrain.build_views(pretrain.load_config("mscn_demo.yaml"))
        >>> photos = [Image.new("RGB", (60, 40), "teal"), Image.new("RGB", (50, 50), "gold")]
        >>> [tuple(view.shape) for view in views(photos)]
        [(2, 3, 32, 32), (2, 3, 32, 32), (2, 3, 32, 32)]
        >>> views.draw(photos).size  # a PIL image; in pixels
        (904, 244)
    """
    return Views(cfg)
