"""Bad detection data is named in one sentence; what is kept or dropped is what mmdet does."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from PIL import Image

from castling_det.datasets.checks import check_datasets, report_datasets
from castling_det.datasets.coco_checks import check_coco
from castling_det.errors import InputError

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs' / 'castling_picodet'
CLASSES = ('cat', 'dog')


def annotation(number: int, image_id: int = 1, bbox=(2, 3, 10, 8), **changes) -> dict:
    fields = dict(id=number, image_id=image_id, category_id=7, bbox=list(bbox), iscrowd=0)
    return {**fields, 'area': bbox[2] * bbox[3], **changes}


def content() -> dict:
    """Two images of 40x30 with a cat and a dog."""
    names = ['a.png', 'sub/b.png']
    return dict(
        images=[dict(id=n, file_name=f, width=40, height=30) for n, f in enumerate(names, 1)],
        annotations=[annotation(1), annotation(2, image_id=2, category_id=9)],
        categories=[dict(id=7, name='cat'), dict(id=9, name='dog')],
    )


@pytest.fixture
def folder(tmp_path):
    """Folder with the images, and `ann.json` that a test may replace."""
    (tmp_path / 'sub').mkdir()
    for name in ('a.png', 'sub/b.png'):
        cv2.imwrite(str(tmp_path / name), np.full((30, 40, 3), 90, np.uint8))
    (tmp_path / 'ann.json').write_text(json.dumps(content()))
    return tmp_path


def check(folder: Path, changed: dict | None = None, **options):
    if changed:
        (folder / 'ann.json').write_text(json.dumps(content() | changed))
    return check_coco(folder / 'ann.json', folder, options.pop('classes', CLASSES), **options)


def only_error(report) -> str:
    (error,) = report.errors
    assert '\n' not in str(error)
    return str(error)


def parsed(folder: Path, classes: tuple[str, ...] = CLASSES) -> list[dict]:
    """Instances of the first image as mmdet reads them."""
    coco = CocoDataset(
        ann_file=str(folder / 'ann.json'),
        data_prefix=dict(img=str(folder)),
        metainfo=dict(classes=classes),
    )
    return coco.get_data_info(0)['instances']


def dataset(folder: Path, **changes) -> dict:
    return dict(
        type='CocoDataset',
        data_root=f'{folder}/',
        ann_file='ann.json',
        data_prefix=dict(img=''),
        metainfo=dict(classes=CLASSES),
        pipeline=[],
        **changes,
    )


def config(train: dict, **others) -> Config:
    return Config(dict(default_scope='mmdet', train_dataloader=dict(dataset=train), **others))


def test_good_data_is_counted_and_passes(folder):
    report = check(folder, decode=True)
    assert not report.errors and not report.warnings
    assert report.boxes == {'cat': 1, 'dog': 1}
    assert (report.images, report.empty_images, report.crowd) == (2, 0, 0)


def test_missing_annotation_file(folder):
    (folder / 'ann.json').unlink()
    report = check(folder, key='train_dataloader.dataset')
    assert isinstance(report.errors[0], InputError)
    assert f'{folder}/ann.json does not exist' in only_error(report)
    assert 'train_dataloader.dataset.ann_file' in only_error(report)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('', 'ann.json is empty (0 bytes)'),
        ('<annotation/>', 'ann.json is not JSON (Expecting value: line 1'),
        ('{"images": [', 'ann.json is not JSON'),
        ('[]', 'ann.json holds a list'),
        ('{"images": []}', 'lacks the list `annotations`, `categories`'),
        ('{"annotations": [], "categories": []}', 'lacks the list `images`'),
    ],
)
def test_file_that_is_no_coco_format(folder, text, words):
    (folder / 'ann.json').write_text(text)
    assert words in only_error(check(folder))


def test_binary_annotation_file(folder):
    (folder / 'ann.json').write_bytes(b'\xff\xfe\x00\xd8')
    assert 'ann.json is not JSON' in only_error(check(folder))


def test_byte_order_mark(folder):
    """Python's json forgives it in bytes, pycocotools reads text and stops."""
    (folder / 'ann.json').write_bytes(b'\xef\xbb\xbf' + json.dumps(content()).encode())
    with pytest.raises(ValueError, match='BOM'):
        parsed(folder)
    assert 'ann.json begins with a byte order mark' in only_error(check(folder))


@pytest.mark.parametrize('part', ['images', 'annotations', 'categories'])
@pytest.mark.parametrize('entry', [5, None, 'text', ['id']])
def test_entries_that_are_no_objects(folder, part, entry):
    error = only_error(check(folder, {part: [*content()[part], entry]}))
    assert f'1 of 3 entries of `{part}` are no objects {{...}} (positions 2)' in error


@pytest.mark.parametrize(
    ('part', 'key', 'value'),
    [
        ('images', 'file_name', None),
        ('images', 'id', {}),
        ('annotations', 'id', None),
        ('annotations', 'image_id', [1]),
        ('annotations', 'category_id', [1]),
        ('annotations', 'iscrowd', None),
        ('categories', 'name', 7),
        ('categories', 'id', [7]),
    ],
)
def test_values_of_another_kind(folder, part, key, value):
    entries = content()[part]
    entries[1][key] = value
    error = only_error(check(folder, {part: entries}, test_mode=True))
    assert f'`{key}` of 1 of 2 entries of `{part}` is not ' in error
    assert f'({json.dumps(value)})' in error


def test_entries_lack_a_key(folder):
    without = [{k: v for k, v in annotation(n).items() if k != 'area'} for n in (1, 2)]
    error = only_error(check(folder, dict(annotations=without)))
    assert '2 of 2 entries of `annotations` lack `area`' in error


def test_iscrowd_is_needed_in_evaluation_alone(folder):
    """pycocotools would stop with a KeyError after the first epoch."""
    without = [{k: v for k, v in annotation(1).items() if k != 'iscrowd'}]
    assert not check(folder, dict(annotations=without)).errors
    assert 'lack `iscrowd`' in only_error(check(folder, test_mode=True))


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (dict(bbox=[1, 2, float('nan'), 4]), '`bbox` and `area` of 1 annotations'),
        (dict(bbox=[1, 2, 3]), '`bbox` and `area` of 1 annotations'),
        (dict(bbox=[1, 2, None, 4]), '`bbox` and `area` of 1 annotations'),
        (dict(area='12'), '`bbox` and `area` of 1 annotations'),
    ],
)
def test_boxes_that_are_no_numbers(folder, changes, words):
    boxes = [annotation(1), {**annotation(2), **changes}]
    assert words in only_error(check(folder, dict(annotations=boxes)))


def test_images_without_a_size(folder):
    images = content()['images']
    images[1]['width'] = 0
    error = only_error(check(folder, dict(images=images)))
    assert '`width` and `height` of 1 images are not positive' in error and 'id 2' in error


def test_missing_images_are_counted_and_the_first_five_named(folder):
    images = [dict(id=n, file_name=f'sub/{n}.jpg', width=40, height=30) for n in range(3, 10)]
    report = check(folder, dict(images=content()['images'] + images), decode=True)
    error = only_error(report)
    assert isinstance(report.errors[0], InputError)
    assert '7 of 9 images' in error and 'data_prefix.img' in error
    assert 'sub/3.jpg, sub/4.jpg, sub/5.jpg, sub/6.jpg, sub/7.jpg, ...' in error


def test_missing_image_folder(folder):
    report = check_coco(folder / 'ann.json', folder / 'nowhere', CLASSES)
    assert '2 of 2 images' in only_error(report) and 'nowhere' in only_error(report)


def test_unknown_category_id(folder):
    boxes = [annotation(1), annotation(2, category_id=3), annotation(3, category_id=3)]
    error = only_error(check(folder, dict(annotations=boxes)))
    assert '2 annotations have a `category_id` that `categories` lacks (3)' in error


def test_no_class_of_the_config_is_there(folder):
    error = only_error(check(folder, classes=('RBC', 'WBC')))
    assert "['cat', 'dog']" in error and "['RBC', 'WBC']" in error
    assert 'metainfo.classes' in error


@pytest.mark.parametrize('classes', [('dog', 'cat'), ('bird', 'cat', 'dog')])
def test_classes_in_another_order_than_the_file(folder, classes):
    """mmdet numbers them by the file, and shows the names of the config."""
    assert classes[parsed(folder, classes)[0]['bbox_label']] != 'cat'
    assert 'labels would get wrong names' in only_error(check(folder, classes=classes))


def test_categories_without_the_last_classes_are_no_error(folder):
    report = check(folder, classes=(*CLASSES, 'zebra'))
    assert not report.errors
    assert "lacks ['zebra']" in report.warnings[0]


def test_duplicate_ids(folder):
    images = content()['images'] + content()['images'][:1]
    error = only_error(check(folder, dict(images=images)))
    assert '1 values of `id` in `images` occur more than once (1)' in error
    boxes = [annotation(1), annotation(5), annotation(5), annotation(6), annotation(6)]
    error = only_error(check(folder, dict(annotations=boxes)))
    assert '2 values of `id` in `annotations` occur more than once (5, 6)' in error


@pytest.mark.parametrize(
    ('changed', 'words'),
    [
        (dict(images=[], annotations=[]), '`images` is empty'),
        (dict(annotations=[]), '`annotations` has no box of any class'),
        (dict(annotations=[annotation(n, iscrowd=1) for n in (1, 2)]), 'all 2 boxes are crowd'),
        (dict(annotations=[annotation(1, bbox=(1, 1, 0, 5))]), 'none of 1 boxes is left'),
    ],
)
def test_nothing_to_learn(folder, changed, words):
    assert words in only_error(check(folder, changed))


ODD = {
    'have no area': [(5, 5, 0, 8), (5, 5, 8, 0)],
    'have a negative width or height': [(20, 5, -8, 8), (20, 5, 8, -8), (20, 5, -8, -8)],
    'are less than a pixel': [(5, 5, 0.5, 9)],
    'lie outside of their image': [(40, 3, 5, 5), (3, 31, 5, 5), (-9, 3, 9, 5)],
}


@pytest.mark.parametrize(('words', 'boxes'), ODD.items())
def test_dropped_boxes_are_counted(folder, words, boxes):
    odd = [annotation(n, bbox=box) for n, box in enumerate(boxes, 10)]
    report = check(folder, dict(annotations=[annotation(1), *odd]))
    (warning,) = report.warnings
    assert not report.errors
    assert warning.startswith(f'{len(boxes)} boxes {words}') and 'drops them' in warning
    assert report.boxes['cat'] == 1 + len(boxes)


def test_boxes_over_the_edge_are_said_to_be_kept(folder):
    over = [annotation(2, bbox=(30, 3, 20, 5)), annotation(3, bbox=(35, 3, 5.5, 5))]
    report = check(folder, dict(annotations=[annotation(1), *over]))
    assert report.warnings[0].startswith('1 boxes reach over the edge of their image (id 2)')
    assert parsed(folder)[1]['bbox'] == [30, 3, 50, 8]


def test_boxes_that_count_for_nothing(folder):
    boxes = [annotation(1), annotation(2, image_id=77), annotation(3, ignore=1)]
    report = check(folder, dict(annotations=boxes + [annotation(4, category_id=9)]))
    orphan, ignored = report.warnings
    assert '1 boxes have an `image_id` that `images` lacks (id 2)' in orphan
    assert '1 boxes are marked `ignore` (id 3)' in ignored
    (other,) = check(
        folder, dict(annotations=boxes[:1] + [annotation(4, category_id=9)]), classes=('cat',)
    ).warnings
    assert '1 boxes are of categories that are not in metainfo.classes (id 4)' in other


def test_what_is_dropped_is_what_mmdet_drops(folder):
    rng = np.random.default_rng(0)
    corners, sizes = rng.integers(-20, 50, (400, 2)), rng.choice([-6, 0, 0.5, 1, 7, 30], (400, 2))
    boxes = [
        annotation(
            n,
            bbox=(*map(float, corner), *size),
            iscrowd=int(rng.integers(2)),
            category_id=int(rng.choice([7, 9])),
            ignore=int(rng.random() < 0.1),
        )
        for n, (corner, size) in enumerate(zip(corners, sizes.tolist(), strict=True))
    ]
    report = check(folder, dict(annotations=boxes), classes=('cat',))
    instances = parsed(folder, ('cat',))
    dropped = sum(int(w.split()[0]) for w in report.warnings if 'drops them' in w)
    assert 0 < len(instances) == len(boxes) - dropped
    assert report.crowd == sum(instance['ignore_flag'] for instance in instances) > 0


def test_unreadable_images(folder):
    picture = (folder / 'a.png').read_bytes()
    (folder / 'a.png').write_bytes(picture[: len(picture) // 2])
    (folder / 'sub' / 'b.png').write_text('404: not found')
    assert not check(folder).errors
    error = only_error(check(folder, decode=True))
    assert error.startswith(f'2 of 2 images in {folder} cannot be read')
    assert '(a.png, sub/b.png)' in error


def test_other_size_than_annotated(folder):
    cv2.imwrite(str(folder / 'a.png'), np.zeros((15, 20, 3), np.uint8))
    assert not check(folder).errors
    error = only_error(check(folder, decode=True))
    assert '1 of 2 images' in error and '(a.png is 20x15, not 40x30)' in error


def test_exif_orientation_that_the_annotations_do_not_follow(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (40, 30)).save(folder / 'a.png', exif=exif)
    error = only_error(check(folder, decode=True))
    assert 'are turned by their EXIF orientation' in error
    assert '(a.png is 30x40, not 40x30)' in error
    as_stored = dict(type='LoadImageFromFile', color_type='color_ignore_orientation')
    check_datasets(config(dataset(folder) | dict(pipeline=[as_stored])), decode=True)
    upright = content()['images']
    upright[0].update(width=30, height=40)
    assert not check(folder, dict(images=upright), decode=True).errors


def test_first_error_of_a_config_is_raised_and_the_others_are_counted(folder):
    boxes = [annotation(1), annotation(1), annotation(2, category_id=3)]
    (folder / 'ann.json').write_text(json.dumps(content() | dict(annotations=boxes)))
    with pytest.raises(ValueError, match=r'ann.json: 1 values of `id`.* \(and 1 more: see tools'):
        check_datasets(config(dataset(folder)))
    with pytest.raises(InputError, match='train_dataloader.dataset.ann_file'):
        check_datasets(config(dataset(folder) | dict(ann_file='no.json')))


def test_data_sets_inside_of_wrappers_are_checked(folder):
    good, bad = dataset(folder), dataset(folder) | dict(ann_file='no.json')
    train = dict(
        type='MultiImageMixDataset',
        dataset=dict(
            type='RepeatDataset',
            times=2,
            dataset=dict(type='ConcatDataset', datasets=[good, good, bad]),
        ),
        pipeline=[],
    )
    reports = report_datasets(config(train), ('train',))
    inner = 'train_dataloader.dataset.dataset.dataset.datasets'
    assert [report.keys for report in reports] == [[f'{inner}.0', f'{inner}.1'], [f'{inner}.2']]
    assert f'{inner}.2.ann_file' in only_error(reports[1])


def test_number_of_classes_of_a_head(folder):
    head = dict(type='PicoHead', num_classes=80)
    roi_head = dict(bbox_head=dict(num_classes=2), mask_head=dict(num_classes=3))
    model = dict(bbox_head=head, rpn_head=dict(num_classes=1), roi_head=roi_head)
    errors = report_datasets(config(dataset(folder), model=model))[0].errors
    assert [str(error) for error in errors] == [
        f'model.{key}.num_classes is {number}, but train_dataloader.dataset has 2 classes, '
        "('cat', 'dog'): set num_classes, or metainfo.classes, to match"
        for key, number in (('bbox_head', 80), ('roi_head.mask_head', 3))
    ]


def test_splits_are_those_asked_for_and_equal_ones_are_read_once(folder):
    cfg = config(
        dict(dataset(folder), ann_file='no.json'),
        val_dataloader=dict(dataset=dataset(folder, test_mode=True)),
        test_dataloader=dict(dataset=dataset(folder, test_mode=True)),
    )
    (report,) = check_datasets(cfg, ('val', 'test'))
    assert report.keys == ['val_dataloader.dataset', 'test_dataloader.dataset']
    (report,) = check_datasets(config(dataset(folder)), ('train', 'val'))
    assert report.keys == ['train_dataloader.dataset']


def test_evaluator_of_other_annotations(folder):
    cfg = config(
        dataset(folder),
        val_dataloader=dict(dataset=dataset(folder, test_mode=True)),
        val_evaluator=dict(type='CocoMetric', ann_file=f'{folder}/ann.json'),
    )
    check_datasets(cfg)
    cfg.val_evaluator.ann_file = f'{folder}/other.json'
    with pytest.raises(ValueError, match='val_evaluator.ann_file is .*other.json, but val_data'):
        check_datasets(cfg)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (dict(metainfo=dict(classes='cat')), r"classes is 'cat'.* \('cat',\)"),
        (dict(data_prefix=dict(img_path='')), 'data_prefix has no img'),
    ],
)
def test_slips_of_a_config(folder, changes, words):
    with pytest.raises(ValueError, match=words):
        check_datasets(config(dataset(folder) | changes))


@pytest.mark.parametrize(
    'elsewhere',
    [
        dict(type='LVISV1Dataset', ann_file='lvis.json'),
        dict(type='CocoDataset', ann_file='s3://a/b.json', backend_args=dict(backend='petrel')),
    ],
)
def test_what_is_not_checked_is_said(elsewhere):
    (report,) = check_datasets(config(elsewhere))
    kinds = 'CocoDataset or BaseSegDataset or ADE20KDataset'
    assert report.warnings == [
        f'a {elsewhere["type"]} is not checked: only a {kinds} on a local disk is'
    ]


def load(name: str) -> Config:
    return Config.fromfile(CONFIGS / name)


@pytest.mark.data('det/bccd')
def test_blood_cells(data_root):
    train, val = check_datasets(load('castling-picodet_levit-128s_1xb8-60e_bccd-320x320.py'))
    assert (train.images, train.boxes.total(), train.crowd) == (205, 2804, 0)
    assert (val.images, val.boxes.total(), val.crowd) == (87, 1137, 0)
    assert list(train.boxes) == list(val.boxes) == ['RBC', 'WBC', 'Platelets']
    assert not train.warnings + val.warnings


@pytest.mark.data('det/coco_small')
@pytest.mark.parametrize(
    ('split', 'images', 'boxes', 'crowd', 'present'),
    [('train', 166, 1580, 15, 80), ('val', 117, 1094, 12, 76)],
)
def test_coco(data_root, split, images, boxes, crowd, present):
    cfg = load('castling-picodet_levit-128s_1xb8-100e_coco32-320x320.py')
    cfg.train_dataloader.dataset.update(
        ann_file=f'annotations/instances_{split}.json', data_prefix=dict(img=f'images/{split}/')
    )
    (report,) = check_datasets(cfg, ('train',), decode=True)
    assert (report.images, report.boxes.total(), report.crowd) == (images, boxes, crowd)
    assert sum(count > 0 for count in report.boxes.values()) == present


def test_tool_prints_one_report_and_fails_on_errors(folder):
    cfg = config(dataset(folder), val_dataloader=dict(dataset=dataset(folder, test_mode=True)))
    cfg.dump(folder / 'config.py')
    (folder / 'a.png').write_text('no image')
    done = subprocess.run(
        [sys.executable, 'tools/check_dataset.py', folder / 'config.py', '--splits', 'train'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert '2 images (0 without a box), 2 boxes (0 crowd)\n  cat 1, dog 1\n' in done.stdout
    assert 'error: 1 of 2 images' in done.stdout and 'val_dataloader' not in done.stdout
    assert '1 data sets, 1 errors, 0 warnings' in done.stdout
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('splits', [('train',), ('train', 'val', 'test')])
def test_config_without_data_sets_is_no_success(splits):
    cfg = Config(dict(val_cfg=None, test_dataloader=None))
    with pytest.raises(ValueError, match=r'no train_dataloader\.dataset.*: there is nothing'):
        report_datasets(cfg, splits)
