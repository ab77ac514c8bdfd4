"""mmseg's Mask2Former head, for sliding windows and for maps alone, and quicker in training."""

import torch
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from mmseg.models.decode_heads import Mask2FormerHead
from mmseg.structures import SegDataSample
from torch import Tensor


@MODELS.register_module()
class SlidingMask2FormerHead(Mask2FormerHead):
    """``Mask2FormerHead`` of mmseg with three methods that differ.

    ``predict``: mmseg tells its heads the size of a sliding window by ``img_shape``, as a
    ``torch.Size``; the parent takes the padded size of the whole image then and fails. ``forward``:
    the samples, which the parent asks for and ignores, may be left out, so that a segmentor runs
    with ``mode='tensor'``. ``_seg_data_to_instance_data``: masks in float32, once, where the parent
    makes int64 ones that each layer of the decoder casts anew. The arguments are the parent's.
    """

    def forward(
        self, x: tuple[Tensor, ...], batch_data_samples: list | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Class logits ``(B, Q, K + 1)`` and mask logits ``(B, Q, H / 4, W / 4)`` of each layer."""
        return super().forward(x, batch_data_samples)

    def predict(self, x: tuple[Tensor, ...], batch_img_metas: list[dict], test_cfg: dict) -> Tensor:
        """Class scores ``(B, K, H, W)`` of the window, or of the padded image."""
        if isinstance(batch_img_metas[0]['img_shape'], torch.Size):
            window = batch_img_metas[0]['img_shape']
            batch_img_metas = [dict(meta, pad_shape=window) for meta in batch_img_metas]
        return super().predict(x, batch_img_metas, test_cfg)

    def _seg_data_to_instance_data(
        self, batch_data_samples: list[SegDataSample]
    ) -> tuple[list[InstanceData], list[dict]]:
        instances, metas = super()._seg_data_to_instance_data(batch_data_samples)
        for each in instances:
            each.masks = each.masks.float()
        return instances, metas
