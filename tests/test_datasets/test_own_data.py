"""What a folder is found to be: every layout, and what is wrong with one, in a sentence."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from castling_det.datasets.own_data import find_own_data
from castling_det.errors import InputError

CATEGORIES = [dict(id=3, name='cat'), dict(id=7, name='dog'), dict(id=9, name='cow')]


def picture(path: Path, size: tuple[int, int] = (40, 20)) -> None:
    """An RGB image of a width and a height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size).save(path)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def coco(file: Path, folder: Path, count: int, categories: list[dict] = CATEGORIES) -> dict:
    """Images with one box each, of categories 3 and 7 in turn."""
    images, boxes = [], []
    for number in range(1, count + 1):
        name = f'{file.stem}_{number}.jpg'
        picture(folder / name)
        images.append(dict(id=number, file_name=name, width=40, height=20))
        box = dict(id=number, image_id=number, category_id=(3, 7)[number % 2], iscrowd=0)
        boxes.append(dict(box, bbox=[1, 2, 10, 5], area=50))
    content = dict(images=images, annotations=boxes, categories=categories)
    text(file, json.dumps(content))
    return content


def read(data, split: str) -> dict:
    return json.loads((data.root / data.splits[split].keys['ann_file']).read_text())


def boxes_of(content: dict) -> dict[str, list[tuple]]:
    """By file: name of the category, box and whether it is ignored."""
    files = {image['id']: image['file_name'] for image in content['images']}
    names = {category['id']: category['name'] for category in content['categories']}
    found = {name: [] for name in files.values()}
    for each in content['annotations']:
        assert each['area'] == pytest.approx(each['bbox'][2] * each['bbox'][3])
        entry = names[each['category_id']], *each['bbox'], each['iscrowd']
        found[files[each['image_id']]].append(entry)
    return found


@pytest.mark.parametrize(
    ('files', 'folders'),
    [
        (('train.json', 'val.json'), ('train/', 'val/')),
        (
            ('annotations/instances_train2017.json', 'annotations/instances_val2017.json'),
            ('train2017/', 'val2017/'),
        ),
        (('train/_annotations.coco.json', 'valid/_annotations.coco.json'), ('train/', 'valid/')),
        (('annotations/train.json', 'annotations/val.json'), ('images/', 'images/')),
    ],
    ids=['ours', 'coco', 'roboflow', 'one folder'],
)
def test_coco_json(tmp_path, files, folders):
    for file, folder in zip(files, folders, strict=True):
        coco(tmp_path / file, tmp_path / folder, 3)
    text(tmp_path / 'annotations' / 'captions_train2017.json', '{"images": [], "annotations": []}')
    data = find_own_data(tmp_path)
    assert data.task == 'detection' and data.classes == ('cat', 'dog')
    assert data.notes == [f'left out, without a box in {files[0]}: cow']
    for split, file, folder in zip(('train', 'val'), files, folders, strict=True):
        assert data.splits[split].keys == dict(ann_file=file, data_prefix=dict(img=folder))
        assert data.splits[split].num_images == 3


def test_classes_to_learn_keep_the_order_of_the_json(tmp_path):
    for split in ('train', 'val', 'test'):
        coco(tmp_path / f'{split}.json', tmp_path / split, 2)
    data = find_own_data(tmp_path, ['dog', 'cat'])
    assert data.classes == ('cat', 'dog') and list(data.splits) == ['train', 'val', 'test']
    assert find_own_data(tmp_path, ['dog']).classes == ('dog',)
    with pytest.raises(InputError, match='--classes bird: .*train.json has cat, dog, cow'):
        find_own_data(tmp_path, ['dog', 'bird'])
    with pytest.raises(InputError, match='train.json has no box of cow'):
        find_own_data(tmp_path, ['cow'])


def test_without_val_a_fifth_validates_and_always_the_same(tmp_path):
    whole = coco(tmp_path / 'result.json', tmp_path / 'images', 11)
    data = find_own_data(tmp_path)
    parts = [read(data, split) for split in ('train', 'val')]
    assert [len(part['images']) for part in parts] == [9, 2]
    assert data.splits['val'].keys['data_prefix'] == dict(img='images/')
    assert boxes_of(parts[0]) | boxes_of(parts[1]) == boxes_of(whole)
    assert any('no val split' in note for note in data.notes)
    again = find_own_data(tmp_path)
    assert read(again, 'val') == parts[1] and again.splits == data.splits


@pytest.mark.parametrize(
    ('names', 'train', 'said'),
    [
        (('a.json', 'b.json'), CATEGORIES, 'is of no split'),
        (('train.json', 'training.json'), CATEGORIES, 'is of train split, as train.json'),
        (('val.json', 'test.json'), CATEGORIES, 'has test, val and no training split'),
        (
            ('train.json', 'val.json'),
            [*CATEGORIES[:1], dict(id=7, name='dogs')],
            "no category 'dogs'",
        ),
    ],
)
def test_splits_that_do_not_fit(tmp_path, names, train, said):
    for name, categories in zip(names, (train, CATEGORIES), strict=True):
        coco(tmp_path / name, tmp_path / 'images', 2, categories)
    with pytest.raises(InputError, match=said):
        find_own_data(tmp_path)


def test_entries_that_lack_something(tmp_path):
    content = coco(tmp_path / 'train.json', tmp_path / 'images', 2)
    del content['annotations'][1]['category_id']
    text(tmp_path / 'train.json', json.dumps(content))
    with pytest.raises(InputError, match='train.json: an entry of annotations has no category_id'):
        find_own_data(tmp_path)
    text(tmp_path / 'train.json', '{')
    with pytest.raises(InputError, match='train.json is no JSON'):
        find_own_data(tmp_path)


def test_images_that_are_elsewhere(tmp_path):
    coco(tmp_path / 'data' / 'train.json', tmp_path / 'elsewhere', 2)
    picture(tmp_path / 'data' / 'other.jpg')
    with pytest.raises(InputError, match='its first image, train_1.jpg, is in no folder below'):
        find_own_data(tmp_path / 'data')


@pytest.mark.parametrize('layout', ['{kind}/{split}/', '{split}/{kind}/'])
def test_yolo(tmp_path, layout):
    """A box, a polygon, an image without either; the names are those of the yaml."""
    for split in ('train', 'val'):
        images, labels = (
            tmp_path / layout.format(kind=k, split=split) for k in ('images', 'labels')
        )
        for name in 'abc':
            picture(images / f'{name}.jpg')
        text(labels / 'a.txt', '1 0.5 0.5 0.25 0.5\n0 0.1 0.1 0.2 0.2\n')
        text(labels / 'b.txt', '1 0.25 0.1 0.75 0.1 0.5 0.9\n')
    text(tmp_path / 'data.yaml', 'train: images/train\nnames: {1: dog, 0: cat}\n')
    data = find_own_data(tmp_path)
    assert data.task == 'detection' and data.classes == ('cat', 'dog')
    assert data.splits['val'].keys['ann_file'] == 'castling_det/val.json'
    found = boxes_of(read(data, 'train'))
    prefix = layout.format(kind='images', split='train')
    assert found == {
        f'{prefix}a.jpg': [('dog', 15, 5, 10, 10, 0), ('cat', 0, 0, 8, 4, 0)],
        f'{prefix}b.jpg': [('dog', 10, 2, 20, 16, 0)],
        f'{prefix}c.jpg': [],
    }
    assert find_own_data(tmp_path).splits == data.splits  # what was written is not read as COCO's


def test_yolo_without_names_or_with_other_numbers(tmp_path):
    for name in 'ab':
        picture(tmp_path / 'images' / f'{name}.jpg')
        text(tmp_path / 'labels' / f'{name}.txt', '1 0.5 0.5 0.5 0.5\n')
    with pytest.raises(InputError, match='no names of the classes'):
        find_own_data(tmp_path)
    data = find_own_data(tmp_path, ['cat', 'dog'])
    assert data.classes == ('dog',) and len(read(data, 'val')['images']) == 1
    with pytest.raises(InputError, match="a.txt, line 1 is '1 0.5 .*: write a class from 0 to 0"):
        find_own_data(tmp_path, ['cat'])
    text(tmp_path / 'data.yaml', 'train: train.txt\nnames: [cat, dog]\n')
    with pytest.raises(InputError, match='train is a list of files'):
        find_own_data(tmp_path)


VOC = """<annotation><size><width>40</width><height>20</height></size>
<object><name>dog</name><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>11</xmax><ymax>7</ymax></bndbox></object>
<object><name>cat</name><difficult>1</difficult>
<bndbox><xmin>0</xmin><ymin>0</ymin><xmax>4</xmax><ymax>20</ymax></bndbox></object></annotation>"""


def test_pascal_voc(tmp_path):
    for name in 'abcd':
        picture(tmp_path / 'JPEGImages' / f'{name}.jpg')
        text(tmp_path / 'Annotations' / f'{name}.xml', VOC)
    text(tmp_path / 'ImageSets' / 'Main' / 'train.txt', 'a\nb 1\n')
    text(tmp_path / 'ImageSets' / 'Main' / 'val.txt', 'c\n')
    data = find_own_data(tmp_path)
    assert data.classes == ('cat', 'dog')
    assert data.notes == ['left out, in no list of ImageSets/Main: Annotations/d.xml']
    expected = [('dog', 1, 2, 10, 5, 0), ('cat', 0, 0, 4, 20, 1)]
    images = {split: boxes_of(read(data, split)) for split in ('train', 'val')}
    assert images['train'] == dict.fromkeys(['JPEGImages/a.jpg', 'JPEGImages/b.jpg'], expected)
    assert images['val'] == {'JPEGImages/c.jpg': expected}
    (tmp_path / 'JPEGImages' / 'b.jpg').unlink()
    with pytest.raises(InputError, match=r'1 of 4 xml files have no image .*\(Annotations/b.xml\)'):
        find_own_data(tmp_path)


def test_pascal_voc_beside_the_images(tmp_path):
    for split in ('train', 'valid'):
        picture(tmp_path / split / 'a.jpg', (2, 1))
        text(tmp_path / split / 'a.xml', VOC)
    data = find_own_data(tmp_path)
    assert [list(boxes_of(read(data, split))) for split in ('train', 'val')] == [
        ['train/a.jpg'],
        ['valid/a.jpg'],
    ]


def label_map(path: Path, numbers: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array([numbers], dtype=np.uint8)).save(path)


def test_label_maps(tmp_path):
    for split in ('training', 'validation'):
        for name in ('a', 'b'):
            picture(tmp_path / 'images' / split / f'{name}.png', (3, 1))
            label_map(tmp_path / 'masks' / split / f'{name}_mask.png', [0, 2, 255])
    data = find_own_data(tmp_path)
    assert data.task == 'segmentation' and data.classes == ('class_0', 'class_1', 'class_2')
    assert data.splits['val'].keys == dict(
        data_prefix=dict(img_path='images/validation', seg_map_path='masks/validation'),
        img_suffix='.png',
        seg_map_suffix='_mask.png',
    )
    assert find_own_data(tmp_path, ['sky', 'road', 'car']).classes == ('sky', 'road', 'car')
    text(tmp_path / 'classes.txt', 'sky\nroad\n')
    with pytest.raises(InputError, match=r'0 to 2, for which 2 names are not enough \(sky, road\)'):
        find_own_data(tmp_path)


def test_colours_of_label_maps(tmp_path):
    for split in ('train', 'val'):
        picture(tmp_path / 'images' / split / 'a.jpg', (2, 1))
        label_map(tmp_path / 'masks' / split / 'a.png', [0, 1])
    colours = [[128, 64, 128], [0, 0, 142]]
    beside = dict(classes=['road', 'car'], palette=colours)
    text(tmp_path / 'classes.json', json.dumps(beside))
    data = find_own_data(tmp_path)
    assert (data.classes, data.palette, data.notes) == (('road', 'car'), colours, [])
    text(tmp_path / 'classes.json', json.dumps(beside | dict(palette=colours[:1])))
    data = find_own_data(tmp_path)
    assert not data.palette and 'is to be a list of 2 colours' in data.notes[-1]


def test_label_maps_without_val(tmp_path):
    for number in range(5):
        picture(tmp_path / 'images' / f'{number}.jpg', (2, 1))
        label_map(tmp_path / 'labels' / f'{number}.png', [0, 1])
    data = find_own_data(tmp_path)
    lists = [
        (tmp_path / data.splits[split].keys['ann_file']).read_text().split()
        for split in ('train', 'val')
    ]
    assert sorted(lists[0] + lists[1]) == list('01234') and len(lists[1]) == 1
    for number in range(5):
        label_map(tmp_path / 'labels' / f'{number}.png', [0, 255])
    with pytest.raises(InputError, match='write the background as 0 and the object as 1'):
        find_own_data(tmp_path)


def test_masks_of_one_bit(tmp_path):
    for number in range(2):
        picture(tmp_path / 'images' / f'{number}.jpg', (2, 1))
        (tmp_path / 'masks').mkdir(exist_ok=True)
        mask = Image.new('1', (2, 1))
        mask.putpixel((0, 0), 1)
        mask.save(tmp_path / 'masks' / f'{number}.png')
    assert find_own_data(tmp_path, ['ground', 'roof']).classes == ('ground', 'roof')


def test_class_folders(tmp_path):
    for split in ('train', 'val'):
        for name in ('roses', 'daisy'):
            picture(tmp_path / split / name / 'a.jpg')
    data = find_own_data(tmp_path)
    assert data.task == 'classification' and data.classes == ('daisy', 'roses')
    assert data.splits['val'].keys == dict(data_prefix='val')
    with pytest.raises(InputError, match='--classes tulips: the folders are the classes'):
        find_own_data(tmp_path, ['tulips'])
    picture(tmp_path / 'test' / '1.jpg')
    assert find_own_data(tmp_path).notes == ['left out, in no folder of a class: test/1.jpg']
    picture(tmp_path / 'val' / 'tulips' / 'a.jpg')
    with pytest.raises(InputError, match=r'train and val have different classes \(tulips\)'):
        find_own_data(tmp_path)


@pytest.mark.parametrize('parent', ['', 'train/'])
def test_class_folders_without_val_are_divided_class_by_class(tmp_path, parent):
    for name, count in dict(roses=10, daisy=2).items():
        for number in range(count):
            picture(tmp_path / parent / name / f'{number} {name}.jpg')
    data = find_own_data(tmp_path)
    lines = {
        split: (tmp_path / data.splits[split].keys['ann_file']).read_text().splitlines()
        for split in ('train', 'val')
    }
    labels = {split: [line.rpartition(' ')[2] for line in each] for split, each in lines.items()}
    assert labels == dict(train=['0'] + 8 * ['1'], val=['0'] + 2 * ['1'])
    for line in lines['train'] + lines['val']:
        file, _, label = line.rpartition(' ')
        assert (tmp_path / parent / file).is_file() and (label == '1') == file.startswith('roses')


def test_what_is_no_data_set(tmp_path):
    with pytest.raises(InputError, match='is no folder'):
        find_own_data(tmp_path / 'no')
    with pytest.raises(InputError, match='holds no image'):
        find_own_data(tmp_path)
    picture(tmp_path / 'images' / 'a.jpg')
    picture(tmp_path / 'masks' / 'a.png')  # in colours
    with pytest.raises(InputError, match='nothing to learn from them: expected are boxes as COCO'):
        find_own_data(tmp_path)


def test_mixed_layouts(tmp_path):
    coco(tmp_path / 'train.json', tmp_path / 'images', 2)
    text(tmp_path / 'labels' / 'train_1.txt', '0 0.5 0.5 0.5 0.5\n')
    with pytest.raises(
        InputError, match=r'COCO json \(train.json\) and YOLO labels \(images/train_1'
    ):
        find_own_data(tmp_path)
