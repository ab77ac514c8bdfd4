"""Bad detection data is named in one sentence; what is kept or dropped is what mmdet does."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations
from mmengine.config import Config
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from castling_det.datasets import image_files
from castling_det.datasets.checks import check_datasets, report_datasets
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


def check(folder: Path, changed: dict | None = None, decode=False, split='train', **changes):
    """Report of `ann.json`; the other keywords are changes of the data set's config."""
    if changed:
        (folder / 'ann.json').write_text(json.dumps(content() | changed))
    data = dict(dataset(folder, test_mode=split != 'train'), **changes)
    cfg = {f'{split}_dataloader': dict(dataset=data)}
    if split != 'train':
        cfg[f'{split}_evaluator'] = dict(type='CocoMetric', ann_file=f'{folder}/ann.json')
    (report,) = report_datasets(Config(dict(default_scope='mmdet', **cfg)), (split,), decode)
    return report


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


def test_classes_that_a_metric_cannot_measure_are_named(folder):
    """Ten dogs are enough, a cat is not; a training may have as few."""
    cat, dog = content()['annotations']
    dogs = [dict(dog, id=number) for number in range(2, 12)]
    report = check(folder, dict(annotations=[cat, *dogs]), split='val')
    assert not report.errors and '\n  fewer than 10 boxes: cat; their AP is luck' in str(report)
    assert 'fewer than' not in str(check(folder))


def test_good_data_is_counted_and_passes(folder):
    report = check(folder, decode=True)
    assert not report.errors and not report.warnings
    assert report.boxes == {'cat': 1, 'dog': 1}
    assert (report.images, report.empty_images, report.crowd) == (2, 0, 0)


def test_missing_annotation_file(folder):
    (folder / 'ann.json').unlink()
    report = check(folder)
    assert isinstance(report.errors[0], InputError)
    assert f'{folder}/ann.json does not exist' in only_error(report)
    assert 'train_dataloader.dataset.ann_file' in only_error(report)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('', 'ann.json is not JSON in UTF-8 (Expecting value'),
        ('<annotation/>', 'ann.json is not JSON in UTF-8 (Expecting value: line 1'),
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
    assert 'ann.json is not JSON in UTF-8 (Unexpected UTF-8 BOM' in only_error(check(folder))


@pytest.mark.parametrize('part', ['images', 'annotations', 'categories'])
@pytest.mark.parametrize('entry', [5, None, 'text', ['id']])
def test_entries_that_are_no_objects(folder, part, entry):
    error = only_error(check(folder, {part: [*content()[part], entry]}))
    assert f'1 of 3 entries of `{part}` lack `id` (positions 2)' in error


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
    error = only_error(check(folder, {part: entries}, split='val'))
    assert f'`{key}` of 1 of 2 entries of `{part}` is not ' in error
    assert f'({json.dumps(value)} at the positions 1): write it so' in error


def test_entries_lack_a_key(folder):
    without = [{k: v for k, v in annotation(n).items() if k != 'area'} for n in (1, 2)]
    error = only_error(check(folder, dict(annotations=without)))
    assert '2 of 2 entries of `annotations` lack `area`' in error
    assert error.endswith('write the width times the height of each `bbox` as its `area`')


def test_iscrowd_is_needed_in_evaluation_alone(folder):
    """pycocotools would stop with a KeyError after the first epoch."""
    without = [{k: v for k, v in annotation(1).items() if k != 'iscrowd'}]
    assert not check(folder, dict(annotations=without)).errors
    error = only_error(check(folder, split='val'))
    assert 'lack `iscrowd`' in error and 'write `"iscrowd": 0` into each' in error


@pytest.mark.parametrize('changes', [dict(), dict(segmentation=[]), dict(iscrowd=1)])
def test_masks_are_needed_where_the_pipeline_loads_them(folder, changes):
    """mmdet's LoadAnnotations stops with a KeyError, of a crowd region too."""
    polygon = dict(segmentation=[[2, 3, 12, 3, 12, 11]])
    dropped = annotation(3, ignore=1)
    whole = dict(annotations=[annotation(1, **polygon), annotation(2, 2, **polygon), dropped])
    loading = dict(pipeline=[dict(type='LoadAnnotations', with_bbox=True, with_mask=True)])
    assert not check(folder, whole, **loading).errors
    lacking = dict(annotations=[annotation(1, **polygon), annotation(2, **changes)])
    assert not check(folder, lacking).errors
    assert 'ann.json: 1 of 2 boxes have no `segmentation` (id 2), which with_mask=True in ' in (
        only_error(check(folder, lacking, **loading))
    )
    transform = LoadAnnotations(with_mask=True)
    with pytest.raises(KeyError, match='mask'):
        transform._process_masks(dict(instances=parsed(folder)))


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (
            dict(bbox=[1, 2, float('nan'), 4]),
            'not four finite numbers, [x, y, width, height] ([1, ',
        ),
        (dict(bbox=[1, 2, 3]), 'not four finite numbers'),
        (dict(bbox=[1, 2, None, 4]), 'not four finite numbers'),
        (dict(bbox='1 2 3 4'), 'not four finite numbers'),
        (dict(area='12'), '`area` of 1 of 2 entries of `annotations` is not a finite number'),
    ],
)
def test_boxes_that_are_no_numbers(folder, changes, words):
    boxes = [annotation(1), {**annotation(2), **changes}]
    assert words in only_error(check(folder, dict(annotations=boxes)))


def test_images_without_a_size(folder):
    images = content()['images']
    images[1]['width'] = 0
    error = only_error(check(folder, dict(images=images)))
    assert '`width` of 1 of 2 entries of `images` is not a positive number (0 at' in error


def test_missing_images_are_counted_and_the_first_five_named(folder):
    images = [dict(id=n, file_name=f'sub/{n}.jpg', width=40, height=30) for n in range(3, 10)]
    report = check(folder, dict(images=content()['images'] + images), decode=True)
    error = only_error(report)
    assert isinstance(report.errors[0], InputError)
    assert '7 of 9 images' in error and 'data_prefix.img' in error
    assert 'sub/3.jpg, sub/4.jpg, sub/5.jpg, sub/6.jpg, sub/7.jpg, ...' in error


@pytest.mark.parametrize(
    ('names', 'words'),
    [
        (['a.png', 'sub\\b.png'], 'are there as sub/b.png and so on: write `file_name` so'),
        (['images\\a.png', 'sub/b.png'], 'are there as a.png and so on'),
        (['C:\\data\\a.png', 'x\\y.png'], 'with `/` for the backslashes'),
        (['images/a.png', 'sub/b.png'], 'are there as a.png and so on'),
    ],
)
def test_missing_images_that_lie_elsewhere(folder, names, words):
    images = content()['images']
    for image, name in zip(images, names, strict=True):
        image['file_name'] = name
    assert words in only_error(check(folder, dict(images=images)))


def test_missing_image_folder(folder):
    report = check(folder, data_prefix=dict(img='nowhere'))
    assert '2 of 2 images' in only_error(report) and 'nowhere' in only_error(report)


def test_unknown_category_id(folder):
    boxes = [annotation(1), annotation(2, category_id=3), annotation(3, category_id=3)]
    error = only_error(check(folder, dict(annotations=boxes)))
    assert '2 annotations have a `category_id` that `categories` lacks (3)' in error


def test_no_class_of_the_config_is_there(folder):
    error = only_error(check(folder, metainfo=dict(classes=('RBC', 'WBC'))))
    assert "['cat', 'dog']" in error and "['RBC', 'WBC']" in error
    assert 'metainfo.classes' in error


@pytest.mark.parametrize('classes', [('dog', 'cat'), ('bird', 'cat', 'dog')])
def test_classes_in_another_order_than_the_file(folder, classes):
    """mmdet numbers them by the file, and shows the names of the config."""
    assert classes[parsed(folder, classes)[0]['bbox_label']] != 'cat'
    assert 'labels would get wrong names' in only_error(
        check(folder, metainfo=dict(classes=classes))
    )


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize(
    ('name', 'classes'), [('cat ', CLASSES), ('Dog', CLASSES), ('zebras', (*CLASSES, 'zebra'))]
)
def test_misspelt_classes(folder, name, classes, split):
    categories = content()['categories']
    categories[0 if name == 'cat ' else 1]['name'] = name
    if name == 'zebras':
        categories = content()['categories'] + [dict(id=11, name=name)]
    report = check(folder, dict(categories=categories), split=split, metainfo=dict(classes=classes))
    error = only_error(report)
    assert f'`categories` has no {name.strip().lower().rstrip("s")!r}, but {name!r}: write' in error


def test_classes_that_the_file_lacks_are_an_error_in_evaluation(folder):
    """The metric would stop with an IndexError where the detector predicts one."""
    metainfo = dict(classes=(*CLASSES, 'zebra'))
    error = only_error(check(folder, split='val', metainfo=metainfo))
    assert "lacks ['zebra'] of val_dataloader.dataset.metainfo.classes" in error


def test_a_class_twice(folder):
    error = only_error(check(folder, metainfo=dict(classes=('cat', 'dog', 'cat'))))
    assert "train_dataloader.dataset.metainfo.classes has 'cat' more than once" in error
    categories = content()['categories'] + [dict(id=11, name='dog')]
    assert "`categories` has 'dog' more than once" in only_error(
        check(folder, dict(categories=categories))
    )


def test_categories_without_the_last_classes_are_no_error(folder):
    report = check(folder, metainfo=dict(classes=(*CLASSES, 'zebra')))
    assert not report.errors
    assert "lacks ['zebra']" in report.warnings[0]


@pytest.mark.parametrize('number', [0, 0.0, '0', '1', 'a-b', 10**400, float('nan'), False])
def test_annotation_ids_that_pycocotools_cannot_match(folder, number):
    """They are kept in a table of floats, where 0 is no match; training does not read them."""
    boxes = dict(annotations=[annotation(number), annotation(2, image_id=2, category_id=9)])
    assert not check(folder, boxes).errors
    error = only_error(check(folder, boxes, split='val'))
    assert 'cannot match 1 annotations' in error and f'({number!r}): number them from 1' in error


@pytest.mark.parametrize('part', ['images', 'categories'])
@pytest.mark.parametrize('numbers', [('x', 2), (2**53 + 1, 0.5), (2**63 + 1, -1), ('1', 1)])
def test_ids_that_pycocotools_cannot_tell_apart(folder, part, numbers):
    changed = content()
    for entry, box, number in zip(changed[part], changed['annotations'], numbers, strict=True):
        box['image_id' if part == 'images' else 'category_id'] = entry['id'] = number
    assert not check(folder, changed).errors
    error = only_error(check(folder, changed, split='val'))
    assert f'cannot tell the values of `id` in `{part}` apart' in error
    assert all(repr(number) in error for number in numbers)


@pytest.mark.parametrize('numbers', [('a', 'b'), (2**70, 2**70 + 1), (-1, 0), (0.5, 1.5)])
def test_ids_that_pycocotools_evaluates_rightly(folder, numbers):
    changed = content()
    for image, box, category, number in zip(*changed.values(), numbers, strict=True):
        image['id'] = category['id'] = box['image_id'] = box['category_id'] = number
    boxes = changed['annotations']
    assert not check(folder, changed, split='val').errors
    truth = COCO(str(folder / 'ann.json'))
    found = [dict(box, score=0.9) for box in boxes]
    evaluation = COCOeval(truth, truth.loadRes(found), 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


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
        (
            dict(images=[], annotations=[]),
            'of 0 images and 0 boxes, 0 of them crowd regions: add objects',
        ),
        (dict(annotations=[]), 'of 2 images and 0 boxes'),
        (
            dict(annotations=[annotation(n, iscrowd=1) for n in (1, 2)]),
            'and 2 boxes, 2 of them crowd',
        ),
        (dict(annotations=[annotation(1, bbox=(1, 1, 0, 5))]), '1 boxes have a width'),
    ],
)
def test_nothing_to_learn(folder, changed, words):
    error = only_error(check(folder, changed))
    assert 'no image with a box is left to learn or evaluate' in error and words in error


ODD = {
    'have a width or height below a pixel': [
        (5, 5, 0, 8),
        (5, 5, 8, 0),
        (20, 5, -8, -8),
        (5, 5, 0.5, 9),
    ],
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


def filtered(min_size: int) -> dict:
    return dict(filter_cfg=dict(filter_empty_gt=True, min_size=min_size))


def test_images_that_the_filter_drops_are_counted(folder):
    images = content()['images'] + [dict(id=3, file_name='a.png', width=40, height=30)]
    images[1]['height'] = 20
    cv2.imwrite(str(folder / 'sub/b.png'), np.zeros((20, 40, 3), np.uint8))
    report = check(folder, dict(images=images), **filtered(30))
    assert not report.errors and '3 images (1 without a box, 1 used), 2 boxes' in str(report)
    (warning,) = report.warnings
    assert '1 of 3 images are not used' in warning and 'min_size=30 px (sub/b.png)' in warning
    assert not check(folder, split='val', **filtered(30)).warnings


def test_the_filter_drops_everything(folder):
    """All are too small, or those that are large enough have no box."""
    error = only_error(check(folder, **filtered(64)))
    assert '2 of 2 images are not used' in error and 'filter_cfg.min_size=64 px' in error
    images = content()['images']
    images[0]['height'] = 20
    cv2.imwrite(str(folder / 'a.png'), np.zeros((20, 40, 3), np.uint8))
    error = only_error(
        check(folder, dict(images=images, annotations=[annotation(1)]), **filtered(30))
    )
    assert 'of 2 images and 1 boxes' in error and '1 of 2 images are not used' in error


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
        folder,
        dict(annotations=boxes[:1] + [annotation(4, category_id=9)]),
        metainfo=dict(classes=('cat',)),
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
    report = check(folder, dict(annotations=boxes), metainfo=dict(classes=('cat',)))
    instances = parsed(folder, ('cat',))
    dropped = sum(int(w.split()[0]) for w in report.warnings if 'drops them' in w)
    assert 0 < len(instances) == len(boxes) - dropped
    assert report.crowd == sum(instance['ignore_flag'] for instance in instances) > 0


@pytest.mark.parametrize('decode', [False, True])
def test_unreadable_images(folder, decode):
    picture = (folder / 'a.png').read_bytes()
    (folder / 'a.png').write_bytes(picture[: len(picture) // 2])
    error = only_error(check(folder, decode=decode))
    assert error.startswith(f'1 of 2 images in {folder} cannot be read') and '(a.png)' in error
    skipping = [dict(type='LoadReadableImage', on_error='skip')]
    report = check(folder, decode=decode, pipeline=skipping)
    assert not report.errors and 'training skips them (a.png)' in report.warnings[0]
    assert 'cannot be read' in only_error(check(folder, split='val', pipeline=skipping))
    (folder / 'sub' / 'b.png').write_text('404: not found')
    error = only_error(check(folder, decode=decode, pipeline=skipping))
    assert error.startswith('2 of 2 images') and '(a.png, sub/b.png)' in error


def test_headers_of_all_images_are_read_and_a_sample_is_decoded(folder, monkeypatch):
    images = [dict(id=n, file_name=f'{n}.png', width=40, height=30) for n in range(1, 6)]
    for image in images:
        Image.new('RGB', (40, 30)).save(folder / image['file_name'])
    Image.new('RGB', (30, 40)).save(folder / '2.png')  # not in the sample of the first and last
    (folder / '4.png').write_text('no image')
    monkeypatch.setattr(image_files, 'SAMPLE', 2)
    turned, unreadable = map(str, check(folder, dict(images=images)).errors)
    assert 'are turned by' not in turned and '(2.png is 30x40, not 40x30)' in turned
    assert '1 of 5 images' in unreadable and '(4.png)' in unreadable


@pytest.mark.parametrize('decode', [False, True])
def test_other_size_than_annotated(folder, decode):
    cv2.imwrite(str(folder / 'a.png'), np.zeros((15, 20, 3), np.uint8))
    error = only_error(check(folder, decode=decode))
    assert '1 of 2 images' in error and '(a.png is 20x15, not 40x30)' in error


def test_exif_orientation_that_no_size_can_confirm(folder):
    """Upside down, or of a square image."""
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new('RGB', (40, 30)).save(folder / 'a.png', exif=exif)
    (warning,) = check(folder).warnings
    assert '1 of 2 images' in warning and 'browse_dataset.py (a.png)' in warning


def test_exif_orientation_that_the_annotations_do_not_follow(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (40, 30)).save(folder / 'a.png', exif=exif)
    error = only_error(check(folder))
    assert error == only_error(check(folder, decode=True))
    assert 'are turned by their EXIF orientation' in error
    assert '(a.png is 30x40, not 40x30)' in error
    as_stored = dict(type='LoadImageFromFile', color_type='color_ignore_orientation')
    check_datasets(config(dataset(folder) | dict(pipeline=[as_stored])), decode=True)
    upright = content()['images']
    upright[0].update(width=30, height=40)
    report = check(folder, dict(images=upright), decode=True)
    assert not report.errors and not report.warnings


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


@pytest.mark.parametrize('annotations', [None, []])
def test_test_images_without_annotations(folder, annotations):
    """They pass where predictions are written and nothing is compared."""
    info = {key: content()[key] for key in ('images', 'categories')}
    info |= {} if annotations is None else dict(annotations=annotations)
    (folder / 'ann.json').write_text(json.dumps(info))
    metric = dict(type='CocoMetric', ann_file=f'{folder}/ann.json')
    loader = dict(dataset=dataset(folder, test_mode=True))
    cfg = Config(dict(default_scope='mmdet', test_dataloader=loader, test_evaluator=metric))
    assert 'set test_evaluator.format_only=True' in only_error(report_datasets(cfg, ['test'])[0])
    cfg.test_evaluator = [dict(metric, format_only=True), dict(type='DumpDetResults')]
    (report,) = check_datasets(cfg, ['test'])
    assert '2 images, 0 boxes: no metric' in str(report)
    assert 'format_only' not in only_error(check(folder, split='val'))


@pytest.mark.parametrize(
    'changes', [dict(ann_file=['ann.json'] * 2), dict(data_prefix=dict(img=['a', 'b']))]
)
def test_lists_of_paths(folder, changes):
    error = only_error(check(folder, **changes))
    assert error.startswith(
        f'train_dataloader.dataset.{"ann_file" if "ann_file" in changes else ""}'
    )
    assert "is ['" in error and "type='ConcatDataset'" in error


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (dict(metainfo=dict(classes='cat')), r"classes is 'cat'.* \('cat',\)"),
        (dict(metainfo=dict(classes=())), r'metainfo has no classes: write metainfo=dict\(cla'),
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
    kinds = 'CocoDataset or CustomDataset or ImageNet or BaseSegDataset or ADE20KDataset'
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


def test_tool_prints_one_report_and_fails_on_errors(folder, call):
    cfg = config(dataset(folder), val_dataloader=dict(dataset=dataset(folder, test_mode=True)))
    cfg.dump(folder / 'config.py')
    (folder / 'a.png').write_text('no image')
    with pytest.raises(SystemExit) as left:
        call('check_dataset', folder / 'config.py', '--splits', 'train')
    assert left.value.code == 1
    printed = left.value.printed
    assert '2 images (0 without a box), 2 boxes (0 crowd)\n  cat 1, dog 1\n' in printed
    assert 'error: 1 of 2 images' in printed and 'val_dataloader' not in printed
    assert '1 data sets, 1 errors, 0 warnings' in printed


@pytest.mark.parametrize('splits', [('train',), ('train', 'val', 'test')])
def test_config_without_data_sets_is_no_success(splits):
    cfg = Config(dict(val_cfg=None, test_dataloader=None))
    with pytest.raises(ValueError, match=r'no train_dataloader\.dataset.*: there is nothing'):
        report_datasets(cfg, splits)
