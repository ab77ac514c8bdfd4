import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from castling_det.datasets import (
    CLASSES,
    PALETTE,
    count_instances,
    render_scene,
    shapes,
    write_shapes,
)
from castling_det.errors import InputError

NUM_TRAIN, NUM_VAL = 60, 12
LAMP, LIT, UNLIT = (CLASSES.index(name) for name in ('lamp', 'lit_gem', 'unlit_gem'))


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'shapes'
    assert write_shapes(root, NUM_TRAIN, NUM_VAL)
    return root


def scene(seed, size=(64, 512)):
    return render_scene(np.random.default_rng(seed), size)


def contents(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob('*') if p.is_file()}


def load(root, split):
    return json.loads((root / 'annotations' / f'{split}.json').read_text())


def center(mask):
    return np.argwhere(mask).mean(0)


def test_same_seed_gives_same_bytes(root, tmp_path):
    write_shapes(tmp_path / 'again', NUM_TRAIN, NUM_VAL)
    assert contents(tmp_path / 'again') == contents(root)


def test_images_do_not_depend_on_their_number(root, tmp_path):
    write_shapes(tmp_path / 'few', 3, 2)
    all_files = contents(root)
    pictures = {k: v for k, v in contents(tmp_path / 'few').items() if not k.endswith('.json')}
    assert len(pictures) == 2 * (3 + 2)
    assert all(all_files[name] == picture for name, picture in pictures.items())


def test_no_two_images_are_alike(root, tmp_path):
    write_shapes(tmp_path / 'other', 5, 0, seed=1)
    pictures = [*root.glob('images/*/*'), *(tmp_path / 'other').glob('images/*/*')]
    assert len({p.read_bytes() for p in pictures}) == NUM_TRAIN + NUM_VAL + 5


def test_scene_has_the_size_asked_for():
    image, instances = scene(0, size=(96, 208))
    assert image.shape == (96, 208, 3) and image.dtype == np.uint8
    assert all(instance.mask.shape == (96, 208) for instance in instances)


def test_visible_parts_are_disjoint_and_not_slivers():
    for seed in range(40):
        masks = np.stack([instance.mask for instance in scene(seed)[1]])
        assert masks.sum(0).max() == 1
        assert masks.sum((1, 2)).min() >= 50


def test_annotations_agree_with_masks(root):
    coco = COCO(root / 'annotations' / 'train.json')
    for image_id in range(NUM_TRAIN):
        _, instances = scene([0, 0, image_id])
        anns = coco.imgToAnns[image_id]
        assert len(anns) == len(instances)
        for ann, instance in zip(anns, instances, strict=True):
            rows, columns = np.nonzero(instance.mask)
            x, y, width, height = ann['bbox']
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
            assert ann['area'] == instance.mask.sum()
            assert ann['category_id'] == instance.label + 1
            assert ann['iscrowd'] == 0
            traced = coco.annToMask(ann).astype(bool)
            iou = (traced & instance.mask).sum() / (traced | instance.mask).sum()
            assert iou > 0.9


def test_label_maps_agree_with_masks(root):
    for image_id in range(NUM_VAL):
        _, instances = scene([0, 1, image_id])
        labels = cv2.imread(root / f'labels/val/{image_id:06d}.png', cv2.IMREAD_UNCHANGED)
        assert labels.dtype == np.uint8 and labels.shape == (64, 512)
        for instance in instances:
            assert (labels[instance.mask] == instance.label + 1).all()
        assert (labels > 0).sum() == sum(instance.mask.sum() for instance in instances)


@pytest.mark.parametrize('iou_type', ['bbox', 'segm'])
def test_ground_truth_as_detections_is_perfect(root, iou_type):
    coco = COCO(root / 'annotations' / 'val.json')
    detections = [
        dict(
            image_id=ann['image_id'],
            category_id=ann['category_id'],
            score=1.0,
            **(
                {'bbox': ann['bbox']}
                if iou_type == 'bbox'
                else {'segmentation': coco.annToRLE(ann)}
            ),
        )
        for ann in coco.dataset['annotations']
    ]
    evaluation = COCOeval(coco, coco.loadRes(detections), iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_gems_are_lit_where_a_lamp_burns():
    for seed in range(60):
        labels = {instance.label for instance in scene(seed)[1]}
        assert (LIT in labels, UNLIT in labels) == (LAMP in labels, LAMP not in labels)


def test_lamps_burn_at_the_end_without_gems():
    gaps = []
    for seed in range(60):
        instances = scene(seed)[1]
        lamps, gems = (
            [center(i.mask)[1] / 512 for i in instances if i.label in labels]
            for labels in ([LAMP], [LIT, UNLIT])
        )
        gaps += [abs(lamp - gem) for lamp in lamps for gem in gems]
    # Centres are 0.52 apart at least; those of what is visible move where something covers a part.
    assert len(gaps) > 60 and min(gaps) > 0.5


def test_lit_and_unlit_gems_are_distributed_alike():
    """Nothing but the lamps tells the classes: neither a gem, nor its half, nor how full it is."""
    features = {LIT: [], UNLIT: []}
    for seed in range(500):
        image, instances = scene(seed, size=(32, 256))
        for gem in (i for i in instances if i.label in features):
            at_left = center(gem.mask)[1] < 128
            half = image[:, :128] if at_left else image[:, 128:]
            own = [gem.mask.sum(), *center(gem.mask), *image[gem.mask].mean(0)]
            features[gem.label].append([*own, len(instances), *half.mean((0, 1))])
    lit, unlit = (np.array(features[label], float) for label in (LIT, UNLIT))
    assert min(len(lit), len(unlit)) > 400
    error = np.sqrt(lit.var(0) / len(lit) + unlit.var(0) / len(unlit))
    assert (abs(lit.mean(0) - unlit.mean(0)) <= 4 * error).all()


def test_class_names_and_counts(root):
    coco = load(root, 'train')
    assert [(c['id'], c['name']) for c in coco['categories']] == list(enumerate(CLASSES, start=1))
    assert len(PALETTE) == len(set(PALETTE)) == len(CLASSES)
    counts = count_instances(root / 'annotations' / 'train.json')
    assert list(counts) == list(CLASSES)
    assert sum(counts.values()) == len(coco['annotations'])
    assert NUM_TRAIN / 2 < counts['lit_gem'] + counts['unlit_gem'] <= 3 * NUM_TRAIN


def test_existing_data_is_kept(root):
    before = contents(root)
    assert not write_shapes(root, NUM_TRAIN, NUM_VAL)
    assert contents(root) == before


def test_other_parameters_need_overwrite(tmp_path):
    root = tmp_path / 'shapes'
    write_shapes(root, 2, 1)
    before = contents(root)
    with pytest.raises(InputError, match='other parameters'):
        write_shapes(root, 3, 1)
    assert contents(root) == before
    assert write_shapes(root, 3, 1, overwrite=True)
    assert len(list(root.glob('images/train/*'))) == 3
    assert [p.name for p in tmp_path.iterdir()] == ['shapes']


def test_foreign_folders_are_never_replaced(tmp_path):
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'photos' / 'holiday.jpg').write_bytes(b'precious')
    with pytest.raises(InputError, match='not a shapes data set'):
        write_shapes(tmp_path / 'photos', 2, 1, overwrite=True)
    assert contents(tmp_path / 'photos') == {'holiday.jpg': b'precious'}


@pytest.mark.parametrize('has_old', [False, True])
def test_interruption_leaves_nothing_half_written(tmp_path, monkeypatch, has_old):
    root = tmp_path / 'shapes'
    if has_old:
        write_shapes(root, 2, 1)
    before = contents(tmp_path)
    num_calls = 0

    def interrupted(rng, size):
        nonlocal num_calls
        num_calls += 1
        if num_calls == 3:
            raise KeyboardInterrupt
        return render_scene(rng, size)

    monkeypatch.setattr(shapes, 'render_scene', interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_shapes(root, 5, 1, overwrite=True)
    assert num_calls == 3
    assert contents(tmp_path) == before
    assert root.exists() == has_old
