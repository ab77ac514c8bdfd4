from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmseg.evaluation import IoUMetric
from mmseg.structures import SegDataSample

import castling_det  # noqa: F401  mmcv.ops can be imported from here on, compiled or not
from castling_det.engine.test_time_augmentation import add_test_time_augmentation
from castling_det.errors import InputError

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs'
DEMO = CONFIGS / 'castling_picodet/castling-picodet_levit-nano_1xb16-8e_shapes-64x512.py'
HEADS = ['segformer_vit-nano', 'mask2former-nano_vit-nano']


@pytest.fixture
def cfg() -> Config:
    return Config.fromfile(DEMO)


def test_flips_stand_between_the_pipeline_and_its_last_transform(cfg):
    before = deepcopy(cfg)
    add_test_time_augmentation(cfg)
    *transforms, last = cfg.test_dataloader.dataset.pipeline
    *expected, pack = before.test_dataloader.dataset.pipeline
    assert transforms == expected and last.type == 'TestTimeAug'
    assert [flip.prob for flip in last.transforms[0]] == [0, 1]
    meta_keys = last.transforms[1][0].meta_keys
    assert meta_keys == (*pack.meta_keys, 'flip', 'flip_direction')
    assert cfg.model.module == before.model
    assert cfg.model.tta_cfg == dict(nms=before.model.test_cfg.nms, max_per_img=100)
    assert cfg.val_dataloader == before.val_dataloader


def test_what_the_config_says_comes_first(cfg):
    cfg.tta_model = dict(type='Other')
    cfg.tta_pipeline = [dict(type='Only')]
    add_test_time_augmentation(cfg)
    assert cfg.model.type == 'Other' and cfg.test_dataloader.dataset.pipeline == cfg.tta_pipeline


def test_detector_that_keeps_any_number_of_boxes(cfg):
    """As mmdet's YOLOX."""
    del cfg.model.test_cfg['max_per_img']
    with pytest.raises(InputError, match='pass --cfg-options model.test_cfg.max_per_img=300'):
        add_test_time_augmentation(cfg)


def test_detector_without_nms(cfg):
    del cfg.model.test_cfg['nms']
    with pytest.raises(ValueError, match='tta_model'):
        add_test_time_augmentation(cfg)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images as CamVid has them, and their label maps, one of which is random."""
    generator = np.random.default_rng(0)
    for name in ('a', 'b'):
        noise = generator.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        image = cv2.resize(noise, (60, 45), interpolation=cv2.INTER_CUBIC)
        labels = generator.integers(0, 11, (45, 60), dtype=np.uint8)
        for kind, array in (('images', image), ('annotations', labels)):
            (tmp_path / kind).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / kind / f'{name}.png'), array)
    return tmp_path


def segmentor(folder: Path, head: str, slides: bool) -> tuple[Path, torch.nn.Module]:
    """A leaf for the images, and its model with weights that tell left from right."""
    window = "dict(mode='slide', crop_size=(64, 64), stride=(64, 32))"
    (config,) = CONFIGS.glob(f'*/castling-{head}_1xb4-1500i_camvid-192x256.py')
    leaf = folder / 'leaf.py'
    leaf.write_text(
        f"_base_ = '{config}'\n"
        f'model = dict(test_cfg={window if slides else dict(mode="whole")})\n'
        'resize = dict(type="Resize", scale=(96, 64), keep_ratio=False)\n'
        'load, pack = dict(type="LoadImageFromFile"), dict(type="PackSegInputs")\n'
        'test_dataloader = dict(batch_size=1, num_workers=0, persistent_workers=False,\n'
        '    dataset=dict(\n'
        f'        data_root="{folder}", img_suffix=".png",\n'
        '        data_prefix=dict(img_path="images", seg_map_path="annotations"),\n'
        '        pipeline=[load, resize, dict(type="LoadAnnotations"), pack]))\n'
    )
    cfg = Config.fromfile(leaf)
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0  # its statistics let images through
        if isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight)  # queries that differ
    with torch.no_grad():
        model.train()(torch.randn(2, 3, 64, 96))
    torch.save(model.state_dict(), folder / 'random.pth')
    return leaf, model.eval()


def merged(model: torch.nn.Module, image: np.ndarray) -> torch.Tensor:
    """Mean of the probabilities of an image and its mirror image, at the size of the image."""
    resized = cv2.resize(image, (96, 64), interpolation=cv2.INTER_LINEAR)
    scores = []
    for view in (resized, resized[:, ::-1]):
        seen = torch.from_numpy(view.transpose(2, 0, 1).copy())
        size = dict.fromkeys(('ori_shape', 'img_shape', 'pad_shape'), (64, 96))
        data = dict(inputs=[seen], data_samples=[SegDataSample(metainfo=size)])
        inputs = model.data_preprocessor(data)['inputs']
        with torch.no_grad():
            scores.append(model.inference(inputs, [size]))
    straight, mirrored = (
        torch.nn.functional.interpolate(view, image.shape[:2], mode='bilinear').softmax(1)
        for view in (scores[0], scores[1].flip(-1))
    )
    return ((straight + mirrored) / 2).argmax(1)


@pytest.mark.parametrize('own_pipeline', [True, False])
@pytest.mark.parametrize('head', HEADS)
def test_segmentor_averages_both_views(folder, monkeypatch, call, head, own_pipeline):
    """By the tool; sliding too; without the config's word on it as with it."""
    slides = head == HEADS[0]
    leaf, model = segmentor(folder, head, slides)
    text = leaf.read_text()
    if own_pipeline:
        flips = '[dict(type="RandomFlip", prob=0.0), dict(type="RandomFlip", prob=1.0)]'
        text += (
            f'flips = dict(type="TestTimeAug", transforms=[[resize], {flips},\n'
            '    [dict(type="LoadAnnotations")], [pack]])\n'
            'tta_pipeline = [load, flips]\n'
        )
    else:
        text += 'tta_model = None\ntta_pipeline = None\n'
    leaf.write_text(text)
    samples, process = [], IoUMetric.process
    monkeypatch.setattr(
        IoUMetric, 'process', lambda self, *args: samples.extend(args[1]) or process(self, *args)
    )
    out = folder / 'out'
    words = [leaf, folder / 'random.pth', '--work-dir', folder / 'work', '--tta', '--out', out]
    call('test', *words)
    for sample, name in zip(samples, ('a', 'b'), strict=True):
        found = sample['pred_sem_seg']['data'].squeeze()
        written = cv2.imread(str(out / f'{name}.png'), cv2.IMREAD_UNCHANGED)
        assert (found.numpy() == written).all()
        expected = merged(model, cv2.imread(str(folder / 'images' / f'{name}.png')))[0]
        assert (found == expected).float().mean() > 0.998
        labels = cv2.imread(str(folder / 'annotations' / f'{name}.png'), cv2.IMREAD_UNCHANGED)
        assert (sample['gt_sem_seg']['data'].squeeze().numpy() == labels).all()
        assert len(expected.unique()) > 1
