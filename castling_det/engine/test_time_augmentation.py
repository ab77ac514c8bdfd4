"""Test-time augmentation of a model whose config says nothing about it."""

from copy import deepcopy

from mmengine.config import Config, ConfigDict

from castling_det.configs import task_of, unwrap
from castling_det.errors import InputError


def add_test_time_augmentation(cfg: Config) -> None:
    """Let the test predict every image as it is and mirrored, and merge what it finds.

    A config's own ``tta_model`` and ``tta_pipeline`` come first. Without them a detector is in
    mmdet's ``DetTTAModel``, which merges boxes by the detector's NMS, a segmentor in mmseg's
    ``SegTTAModel``, which averages the probabilities of each pixel, and a classifier in
    mmpretrain's ``AverageClsScoreTTA``, which averages those of the image; the last transform of
    the test pipeline is preceded by the flips.

    Args:
        cfg (Config): Of any task, changed in place.

    Raises:
        InputError: If the config has no ``tta_model`` and the detector no NMS to take, or no
            number of boxes to keep.
    """
    tta_model, task = cfg.get('tta_model'), task_of(cfg)
    if tta_model is None and task != 'detection':
        averaged = dict(segmentation='SegTTAModel', classification='AverageClsScoreTTA')
        tta_model = dict(type=averaged[task])
    elif tta_model is None:
        test_cfg = cfg.model.get('test_cfg') or {}
        if 'nms' not in test_cfg:
            raise InputError(
                f'{cfg.filename}: --tta merges boxes by model.test_cfg.nms, which is not there; '
                'write a tta_model as for mmdet'
            )
        if 'max_per_img' not in test_cfg:
            raise InputError(
                f'{cfg.filename}: --tta keeps a number of boxes: pass --cfg-options '
                'model.test_cfg.max_per_img=300'
            )
        merge = dict(nms=test_cfg['nms'], max_per_img=test_cfg['max_per_img'])
        tta_model = dict(type='DetTTAModel', tta_cfg=merge)
    for _, dataset in unwrap(cfg.test_dataloader.dataset):
        dataset.pipeline = cfg.get('tta_pipeline') or _with_flips(dataset.pipeline)
    cfg.model = ConfigDict(**tta_model, module=cfg.model)


def _with_flips(pipeline: list[dict]) -> list[dict]:
    *transforms, pack = deepcopy(pipeline)
    if 'meta_keys' in pack:  # by default they are among them
        pack['meta_keys'] = (*pack['meta_keys'], 'flip', 'flip_direction')
    # The sample that is merged into keeps the ground truth of the first view: the unflipped one.
    flips = [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)]
    return [*transforms, dict(type='TestTimeAug', transforms=[flips, [pack]])]
