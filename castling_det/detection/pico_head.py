"""The head of PicoDet as of 2022.03 (PaddleDetection release/2.6, `picodet_v2.yml`)."""

from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from mmdet.models.dense_heads import TOODHead
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures.bbox import bbox2distance, bbox_overlaps, distance2bbox
from mmdet.utils import reduce_mean
from mmengine import MessageHub
from mmengine.config import ConfigDict
from mmengine.model import bias_init_with_prob, normal_init
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor, nn

from .lc_pan import ACT_CFG, NORM_CFG, depthwise_unit


class PicoLevel(nn.Module):
    """Scores and box distributions of one level; no weights are shared between levels.

    A tower of depthwise units is gated by its own spatial mean; the gated feature gives classes
    and boxes, the ungated one how far both can be trusted together (alignment).

    Args:
        channels (int): Channels of the input and of all hidden maps.
        num_classes (int): Number of foreground classes.
        reg_channels (int): Channels of the box map.
        stacked_convs (int): Depthwise units in the tower.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        reg_channels: int,
        stacked_convs: int,
    ) -> None:
        super().__init__()
        self.tower = nn.Sequential(
            *(depthwise_unit(channels, channels) for _ in range(stacked_convs))
        )
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1), nn.Sigmoid()
        )
        self.mix = ConvModule(channels, channels, 1, norm_cfg=NORM_CFG, act_cfg=ACT_CFG)
        self.cls = nn.Conv2d(channels, num_classes, 1)
        self.reg = nn.Conv2d(channels, reg_channels, 1)
        # One output channel makes PicoDet's depthwise 5x5 (groups = outputs) a dense one.
        self.align = nn.Sequential(
            ConvModule(channels, 1, 5, padding=2, norm_cfg=NORM_CFG, act_cfg=ACT_CFG),
            ConvModule(1, 1, 1, norm_cfg=NORM_CFG, act_cfg=None),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, channels, H, W) -> scores (B, num_classes, H, W), boxes (B, reg_channels, H, W)."""
        x = self.tower(x)
        gated = self.mix(x * self.gate(x))
        cls_prob = self.cls(gated).float().sigmoid()
        align_prob = self.align(x).float().sigmoid()
        return (cls_prob * align_prob + 1e-9).sqrt(), self.reg(gated)


@MODELS.register_module()
class PicoHead(TOODHead):
    """Anchor-free head with a joint score and distributions over box distances.

    The score of a class is the geometric mean of its probability and of the alignment
    probability. A box is four distances from the point ((i + 0.5) * stride, (j + 0.5) * stride) to
    its sides, each the mean of a distribution over the bins 0, 1, ..., ``reg_max`` strides.

    Assignment and post-processing are TOOD's: ATSS while the epoch is below
    ``train_cfg.initial_epoch``, task-aligned assignment from then on. The epoch is the one that the
    Runner keeps in the MessageHub (iteration-based loops leave it at 0); without a Runner it is 0.
    What differs: the layers, the decoding, and the losses.

    Args:
        num_classes (int): Number of foreground classes.
        in_channels (int): Channels of every input and hidden map: 96 in PicoDet-XS and -S, 128 in
            -M, 160 in -L.
        stacked_convs (int): Depthwise units in each tower: 2 in -XS and -S, 4 in -M and -L.
        anchor_generator (dict): One square prior per cell. Its centre is the point above; its size
            matters to ATSS only.
        loss_cls (dict): Loss of the scores against the quality of the assigned boxes, with
            ``use_sigmoid=True``. It receives logits, as mmdet's losses do.
        loss_bbox (dict): Loss of the decoded boxes in px.
        loss_dfl (dict): Loss of the distributions.
        reg_max (int): Largest distance in strides. Default: 7.
        train_cfg (dict, optional): ``initial_epoch``, ``initial_assigner``, ``assigner``,
            ``alpha``, ``beta``, ``allowed_border`` and ``pos_weight``, as for TOOD.
        test_cfg (dict, optional): ``score_thr``, ``nms_pre``, ``nms`` and ``max_per_img``.

    Source: Yu et al., PP-PicoDet, arXiv:2111.00902, and the release named above.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        stacked_convs: int,
        anchor_generator: dict,
        loss_cls: dict,
        loss_bbox: dict,
        loss_dfl: dict,
        reg_max: int = 7,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
    ) -> None:
        self.reg_max = reg_max
        super().__init__(
            num_classes,
            in_channels,
            feat_channels=in_channels,
            stacked_convs=stacked_convs,
            norm_cfg=NORM_CFG,
            anchor_generator=anchor_generator,
            loss_cls=loss_cls,
            loss_bbox=loss_bbox,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
        )
        self.loss_dfl = MMDET_MODELS.build(loss_dfl)

    def _init_layers(self) -> None:
        self.levels = nn.ModuleList(
            PicoLevel(
                self.in_channels,
                self.num_classes,
                4 * (self.reg_max + 1),
                self.stacked_convs,
            )
            for _ in self.prior_generator.strides
        )

    def init_weights(self) -> None:
        """Draw convolutions from N(0, 0.01^2); every class starts at a probability of 0.01."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                normal_init(module, std=0.01)
        for level in self.levels:
            nn.init.constant_(level.cls.bias, bias_init_with_prob(0.01))

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Score every cell and every class, and describe one box per cell.

        Args:
            feats (Sequence[Tensor]): One (B, in_channels, H_i, W_i) map per stride.

        Returns:
            tuple: Scores, float32 probabilities (B, num_classes, H_i, W_i), and the logits of the
            four distributions (left, top, right, bottom), (B, 4 * (reg_max + 1), H_i, W_i), both
            as lists over the levels.
        """
        outs = [level(x) for level, x in zip(self.levels, feats, strict=True)]
        return [scores for scores, _ in outs], [logits for _, logits in outs]

    def decode(
        self,
        logits: Tensor,
        centers: Tensor,
        strides: Tensor | int,
        max_shape: tuple[int, int] | None = None,
    ) -> Tensor:
        """Turn distributions into boxes, in float32 under autocast too.

        Args:
            logits (Tensor): (..., N, 4 * (reg_max + 1)).
            centers (Tensor): (N, 2), x and y in px.
            strides (Tensor | int): (N, 1), or one for all, in px.
            max_shape (tuple[int, int], optional): Height and width of the image in px, to which
                boxes are clipped.

        Returns:
            Tensor: Boxes (..., N, 4) as x1, y1, x2, y2 in px.
        """
        bins = torch.arange(self.reg_max + 1, dtype=torch.float32, device=logits.device)
        probs = logits.float().unflatten(-1, (4, self.reg_max + 1)).softmax(dim=-1)
        return distance2bbox(centers, (probs * bins).sum(dim=-1) * strides, max_shape)

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """Compute the losses from what :meth:`forward` returned.

        The quality of a positive is its IoU with the ground truth (ATSS) or its normalised
        alignment metric (task-aligned). It is the target of the score and the weight of both box
        losses; its sum, averaged over the ranks, normalises all three losses.

        Args:
            cls_scores (list[Tensor]): Scores, as returned by :meth:`forward`.
            bbox_preds (list[Tensor]): Distribution logits, as returned by :meth:`forward`.
            batch_gt_instances (list[InstanceData]): ``bboxes`` (n, 4) in px and ``labels`` (n,).
            batch_img_metas (list[dict]): With ``img_shape`` and ``pad_shape``.
            batch_gt_instances_ignore (list[InstanceData], optional): ``bboxes`` to be ignored.

        Returns:
            dict[str, Tensor]: Scalars ``loss_cls``, ``loss_bbox`` and ``loss_dfl``.
        """
        scores, logits = (
            torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)
            for maps in (cls_scores, bbox_preds)
        )
        anchors, valid_flags = self.get_anchors(
            [x.shape[-2:] for x in cls_scores], batch_img_metas, device=scores.device
        )
        centers = self.anchor_center(torch.cat(anchors[0]))
        strides = torch.cat(
            [
                level.new_full((len(level), 1), stride)
                for level, (stride, _) in zip(anchors[0], self.prior_generator.strides, strict=True)
            ]
        )
        boxes = self.decode(logits, centers, strides)

        MessageHub.get_current_instance().runtime_info.setdefault('epoch', 0)
        _, *targets = self.get_targets(
            scores.detach(),
            boxes.detach(),
            anchors,
            valid_flags,
            batch_gt_instances,
            batch_img_metas,
            batch_gt_instances_ignore,
        )
        labels, label_weights, gt_boxes, quality = (torch.cat(x, dim=1) for x in targets)

        img, cell = pos = (labels < self.num_classes).nonzero(as_tuple=True)
        gt_boxes, quality = gt_boxes[pos], quality[pos]
        if self.epoch < self.initial_epoch:
            quality = bbox_overlaps(boxes[pos].detach(), gt_boxes, is_aligned=True)
        avg_factor = reduce_mean(quality.sum()).clamp(min=1)

        score_targets = torch.zeros_like(scores)
        score_targets[img, cell, labels[pos]] = quality
        side_targets = bbox2distance(
            centers[cell] / strides[cell], gt_boxes / strides[cell], max_dis=self.reg_max
        )
        return dict(
            loss_cls=self.loss_cls(
                scores.logit(eps=torch.finfo(scores.dtype).eps),
                score_targets,
                label_weights[..., None],
                avg_factor=avg_factor,
            ),
            loss_bbox=self.loss_bbox(boxes[pos], gt_boxes, quality, avg_factor=avg_factor),
            loss_dfl=self.loss_dfl(
                logits[pos].float().reshape(-1, self.reg_max + 1),
                side_targets.flatten(),
                quality.repeat_interleave(4),
                avg_factor=4 * avg_factor,
            ),
        )

    def _predict_by_feat_single(
        self,
        cls_score_list: list[Tensor],
        bbox_pred_list: list[Tensor],
        score_factor_list: list[None],
        mlvl_priors: list[Tensor],
        img_meta: dict,
        cfg: ConfigDict | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> InstanceData:
        """Hand TOOD the boxes that it expects, (4, H, W) in strides, clipped to the image."""
        boxes = []
        for logits, priors, (stride, _) in zip(
            bbox_pred_list, mlvl_priors, self.prior_generator.strides, strict=True
        ):
            centers = self.anchor_center(priors)
            level = self.decode(logits.flatten(1).T, centers, stride, img_meta['img_shape'])
            level = level / stride
            boxes.append(level.T.unflatten(1, logits.shape[-2:]))
        return super()._predict_by_feat_single(
            cls_score_list,
            boxes,
            score_factor_list,
            mlvl_priors,
            img_meta,
            cfg=cfg,
            rescale=rescale,
            with_nms=with_nms,
        )
