"""What a folder is found to be: every layout, and what is wrong with one, in a sentence."""

import json
from pathlib import Path

import numpy as np
import pytest
from mmpretrain.datasets import CustomDataset
from mmseg.datasets import BaseSegDataset
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


def test_coco_that_training_cannot_read(tmp_path):
    categories = [*CATEGORIES, dict(id=11, name=5)]
    content = json.dumps(coco(tmp_path / 'train.json', tmp_path / 'images', 2, categories))
    with pytest.raises(InputError, match='name of an entry of categories is 5: write it as text'):
        find_own_data(tmp_path)
    (tmp_path / 'train.json').write_text(content, encoding='utf-16')
    with pytest.raises(InputError, match=r'/train.json is no UTF-8 \([a-z ]*\): save it so$'):
        find_own_data(tmp_path)
    (tmp_path / 'train.json').write_text(content, encoding='utf-8-sig')
    with pytest.raises(InputError, match='train.json begins with a byte order mark: save it as UT'):
        find_own_data(tmp_path)


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        (dict(annotations=None), 'annotations is no list'),
        (dict(annotations=dict(bbox=[1, 2, 3, 4])), 'annotations is no list'),
        (dict(annotations=[None]), 'an entry of annotations has no image_id'),
        (dict(images=[None]), 'an entry of images has no id'),
        (dict(images=[dict(id=1, file_name=None)]), 'file_name of an entry of images is null: wri'),
        (dict(images=[dict(id=1, file_name=7)]), 'file_name of an entry of images is 7: write it'),
        (
            dict(images=[dict(id=[1], file_name='a.jpg')]),
            r'id of an entry of images is \[1\]: write',
        ),
        (
            dict(images=[dict(id=1, file_name='images\\train_1.jpg')]),
            'in no folder below .*: write file_name as images/train_1.jpg',
        ),
        (
            dict(images=[dict(id=1, file_name='images\\other.jpg')]),
            'in no folder below .*: copy the images there',
        ),
    ],
)
def test_coco_of_odd_contents(tmp_path, changes, said):
    content = coco(tmp_path / 'train.json', tmp_path / 'images', 2)
    text(tmp_path / 'train.json', json.dumps(content | changes))
    with pytest.raises(InputError, match=f'train.json: .*{said}'):
        find_own_data(tmp_path)


@pytest.mark.parametrize(
    ('folders', 'chosen'),
    [
        (('depth', 'images'), 'images/'),
        (('infrared', 'visible'), None),
        (('infrared', 'train/visible'), 'train/visible/'),
        (('annotations', 'infrared'), 'annotations/'),
    ],
)
def test_images_of_a_json_in_several_folders(tmp_path, folders, chosen):
    """Those of its split, those beside it and those in ``images`` are told from the others."""
    for folder in folders:
        coco(tmp_path / 'annotations' / 'train.json', tmp_path / folder, 2)
    if chosen:
        images = find_own_data(tmp_path).splits['train'].keys['data_prefix']
        assert images == dict(img=chosen)
    else:
        with pytest.raises(InputError, match=r'several folders \(infrared, visible\): move away'):
            find_own_data(tmp_path)


def test_val_gets_its_part_of_the_images_with_boxes(tmp_path):
    content = coco(tmp_path / 'train.json', tmp_path / 'images', 30)
    content['annotations'] = content['annotations'][:10]
    text(tmp_path / 'train.json', json.dumps(content))
    data = find_own_data(tmp_path)
    boxed = [[bool(boxes) for boxes in boxes_of(read(data, s)).values()] for s in ('train', 'val')]
    assert [(sum(each), len(each)) for each in boxed] == [(8, 24), (2, 6)]
    text(
        tmp_path / 'train.json', json.dumps(content | dict(annotations=content['annotations'][:1]))
    )
    with pytest.raises(InputError, match=r'too few images with boxes to make one \(1\)'):
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


@pytest.mark.parametrize(
    ('line', 'yaml', 'said'),
    [
        ('0 0.5 0.5 0.2 0.3 0.91', '', "line 1 is '0 0.5 .*, without confidence or key points"),
        ('0 0.5 0.5 0.2 0.3 0.4 0.4 2 0.6 0.6 2', 'kpt_shape: [2, 3]', 'data.yaml has kpt_shape'),
        ('0 0.1 0.1 0.9 0.1 0.5 0.9 0.97', '', "line 1 is '0 0.1 "),
    ],
    ids=['confidence', 'key points', 'polygon with confidence'],
)
def test_yolo_lines_that_are_no_box(tmp_path, line, yaml, said):
    for name in 'ab':
        picture(tmp_path / 'images' / f'{name}.jpg')
        text(tmp_path / 'labels' / f'{name}.txt', line)
    text(tmp_path / 'data.yaml', f'names: [cat]\n{yaml}')
    with pytest.raises(InputError, match=said):
        find_own_data(tmp_path)


@pytest.mark.parametrize(
    ('names', 'expected'),
    [
        ('[0, 1, yes]', ('0', 'yes')),
        ('{"2": c, "0": a, "1": b}', ('a', 'c')),
        ('{0: a, 1: b, 3: c}', None),
        ('helmet', None),
    ],
)
def test_yolo_names_are_found_by_their_numbers(tmp_path, names, expected):
    for name in 'ab':
        picture(tmp_path / 'images' / f'{name}.jpg')
        text(tmp_path / 'labels' / f'{name}.txt', '0 0.5 0.5 0.5 0.5\n2 0.5 0.5 0.5 0.5\n')
    text(tmp_path / 'data.yaml', f'names: {names}')
    if expected:
        assert find_own_data(tmp_path).classes == expected
    else:
        with pytest.raises(
            InputError, match='data.yaml: the names of the classes are to be a list'
        ):
            find_own_data(tmp_path)


def test_the_lowest_folder_says_the_split(tmp_path):
    for split, count in dict(train=3, val=2).items():
        for number in range(count):
            picture(tmp_path / 'training_data' / split / 'images' / f'{number}.jpg')
            text(tmp_path / 'training_data' / split / 'labels' / f'{number}.txt', '0 .5 .5 .5 .5')
    splits = find_own_data(tmp_path, ['cat']).splits
    assert {name: part.num_images for name, part in splits.items()} == dict(train=3, val=2)


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
    assert data.notes == [
        'left out, in no list of ImageSets/Main: 1 of 4 xml files (Annotations/d.xml)'
    ]
    expected = [('dog', 1, 2, 10, 5, 0), ('cat', 0, 0, 4, 20, 1)]
    images = {split: boxes_of(read(data, split)) for split in ('train', 'val')}
    assert images['train'] == dict.fromkeys(['JPEGImages/a.jpg', 'JPEGImages/b.jpg'], expected)
    assert images['val'] == {'JPEGImages/c.jpg': expected}
    (tmp_path / 'JPEGImages' / 'b.jpg').unlink()
    with pytest.raises(InputError, match=r'1 of 4 xml files have no image .*\(Annotations/b.xml\)'):
        find_own_data(tmp_path)


@pytest.mark.parametrize(
    ('declared', 'encoding', 'names'),
    [
        ('utf-16', 'utf-16', ('狗', '猫')),
        ('ISO-8859-1', 'latin-1', ('Bär', 'Bör')),
        ('GBK', 'gbk', None),
        ('nonsense', 'utf-8', None),
        ('UTF-8', 'latin-1', None),
    ],
)
def test_encodings_of_pascal_voc(tmp_path, declared, encoding, names):
    """Names are read as the file declares them, or refused; they never become one."""
    first, second = names or (('狗', '猫') if encoding == 'gbk' else ('Bär', 'Bör'))
    content = VOC.replace('dog', first).replace('cat', second)
    for name in 'ab':
        picture(tmp_path / f'{name}.jpg')
        xml = f'<?xml version="1.0" encoding="{declared}"?>{content}'
        (tmp_path / f'{name}.xml').write_bytes(xml.encode(encoding))
    if names:
        assert find_own_data(tmp_path).classes == names
    else:
        with pytest.raises(InputError, match=r'\.xml is no XML \(.*: mend it, or save it as UTF-8'):
            find_own_data(tmp_path)


def test_names_of_another_encoding(tmp_path):
    for number in range(2):
        picture(tmp_path / 'images' / f'{number}.jpg', (2, 1))
        label_map(tmp_path / 'labels' / f'{number}.png', [0, 1])
    for encoding in ('latin-1', 'utf-16'):
        (tmp_path / 'classes.txt').write_text('Bär\nBör\n', encoding)
        with pytest.raises(InputError, match=r'classes.txt is no UTF-8 \(.*\): save it so'):
            find_own_data(tmp_path)
    (tmp_path / 'classes.txt').write_text('Bär\nBör\n', 'utf-8-sig')
    assert find_own_data(tmp_path).classes == ('Bär', 'Bör')


@pytest.mark.parametrize('in_the_way', ['castling_det', 'castling_det/train.json/file'])
def test_folder_that_takes_no_lists(tmp_path, in_the_way):
    coco(tmp_path / 'result.json', tmp_path / 'images', 2)
    text(tmp_path / in_the_way, '')
    with pytest.raises(InputError, match=r'castling_det/train.json cannot be written') as error:
        find_own_data(tmp_path)
    assert str(error.value).endswith('copy the data set: its lists are written below it')
    assert '--resume' not in str(error.value)


def voc(root: Path, names: list[str], **lists: str) -> None:
    for name in names:
        picture(root / 'JPEGImages' / f'{name}.jpg', (2, 1))
        text(root / 'Annotations' / f'{name}.xml', VOC)
    for name, lines in lists.items():
        text(root / 'ImageSets' / 'Main' / f'{name}.txt', lines)


def test_lists_of_several_pascal_vocs(tmp_path):
    """Each is of its own folder, and images of one name in two of them are two."""
    voc(tmp_path / 'VOC1', ['a', 'b'], train='a\n', val='b\n')
    voc(tmp_path / 'VOC2', ['a', 'b'], train='b\n', val='a\n')
    data = find_own_data(tmp_path)
    assert not data.notes
    for split, files in dict(
        train=('VOC1/{}/a', 'VOC2/{}/b'), val=('VOC1/{}/b', 'VOC2/{}/a')
    ).items():
        expected = [f'{file.format("JPEGImages")}.jpg' for file in files]
        assert list(boxes_of(read(data, split))) == expected


def test_lists_of_pascal_voc_as_they_are_written(tmp_path):
    """Names with spaces, numbers and endings; ``trainval`` for what ``train`` lacks."""
    names = ['a', 'a cat', 'photo 1', 'photo 2', 'z']
    lists = dict(trainval='a.jpg\na cat -1\nphoto 1\nz\n', val='z  1\n', test='photo 2\n')
    voc(tmp_path, names, **lists)
    data = find_own_data(tmp_path)
    listed = {
        split: [Path(name).stem for name in boxes_of(read(data, split))] for split in data.splits
    }
    assert listed == dict(train=['a cat', 'a', 'photo 1'], val=['z'], test=['photo 2'])
    for name in lists:
        text(tmp_path / 'ImageSets' / 'Main' / f'{name}.txt', 'other\n')
    with pytest.raises(InputError, match='ImageSets/Main lists none of the 5 xml files'):
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


@pytest.mark.parametrize(
    ('folders', 'said'),
    [
        (('JPEGImages', 'Visualization'), ''),
        (
            ('left', 'right'),
            r'labels fits the images of several folders \(left, right\): move away',
        ),
    ],
)
def test_label_maps_that_fit_images_of_several_folders(tmp_path, folders, said):
    for number in range(2):
        label_map(tmp_path / 'labels' / f'{number}.png', [0, 1])
        for folder in folders:
            picture(tmp_path / folder / f'{number}.jpg', (2, 1))
    if said:
        with pytest.raises(InputError, match=said):
            find_own_data(tmp_path)
    else:
        data = find_own_data(tmp_path)
        prefix = dict(img_path='JPEGImages', seg_map_path='labels')
        assert data.splits['train'].keys['data_prefix'] == prefix
        said = (
            'images for labels: those in JPEGImages, not those of the same names in Visualization'
        )
        assert said in data.notes


def test_label_maps_below_their_images_are_no_images(tmp_path):
    for split in ('train', 'val'):
        for name in 'ab':
            picture(tmp_path / split / f'{name}.png', (2, 1))
            label_map(tmp_path / split / 'masks' / f'{name}.png', [0, 1])
    data = find_own_data(tmp_path)
    for split in ('train', 'val'):
        dataset = BaseSegDataset(data_root=str(tmp_path), **data.splits[split].keys)
        files = [Path(dataset.get_data_info(n)['img_path']) for n in range(len(dataset))]
        assert files == [tmp_path / split / f'{name}.png' for name in 'ab']


def test_label_maps_with_thumbnails_in_hidden_folders(tmp_path):
    for split in ('train', 'val'):
        for name in 'ab':
            picture(tmp_path / 'images' / split / f'{name}.jpg', (2, 1))
            label_map(tmp_path / 'masks' / split / f'{name}.png', [0, 1])
        picture(tmp_path / 'images' / split / '.@__thumb' / 'a.jpg', (2, 1))
    data = find_own_data(tmp_path)
    for split in ('train', 'val'):
        dataset = BaseSegDataset(data_root=str(tmp_path), **data.splits[split].keys)
        files = [Path(dataset.get_data_info(n)['img_path']) for n in range(len(dataset))]
        assert files == [tmp_path / 'images' / split / f'{name}.jpg' for name in 'ab']


def test_names_in_classes_json(tmp_path):
    for number in range(2):
        picture(tmp_path / 'images' / f'{number}.jpg', (2, 1))
        label_map(tmp_path / 'labels' / f'{number}.png', [0, 1])
    for names in ({'1': 'roof', '0': 'ground'}, dict(classes=['ground', 'roof'])):
        text(tmp_path / 'classes.json', json.dumps(names))
        assert find_own_data(tmp_path).classes == ('ground', 'roof')
    for names in (dict(ground=0, roof=1), [0, 1], dict(classes='roof')):
        text(tmp_path / 'classes.json', json.dumps(names))
        with pytest.raises(
            InputError, match='classes.json: the names of the classes are to be a l'
        ):
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
    for palette in (colours[:1], [[0, 0, 0], [255, 0]], [[0, 0, 0], [300, 0, 0]], None):
        text(tmp_path / 'classes.json', json.dumps(beside | dict(palette=palette)))
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
    assert find_own_data(tmp_path).notes == [
        'left out, in no folder of a class: 1 of 5 images (test/1.jpg)'
    ]
    picture(tmp_path / 'val' / 'tulips' / 'a.jpg')
    with pytest.raises(InputError, match=r'train and val have different classes \(tulips\)'):
        find_own_data(tmp_path)


@pytest.mark.parametrize('hidden', ['train/.thumb', 'train/daisy/.thumb'])
def test_class_folders_with_thumbnails_in_hidden_folders(tmp_path, hidden):
    for split in ('train', 'val'):
        for name in ('roses', 'daisy'):
            picture(tmp_path / split / name / 'a.jpg')
    picture(tmp_path / hidden / 'a.jpg')
    data = find_own_data(tmp_path)
    assert data.splits['val'].keys == dict(data_prefix='val')
    dataset = CustomDataset(data_root=str(tmp_path), **data.splits['train'].keys)
    read = [dataset.get_data_info(n) for n in range(len(dataset))]
    assert [(Path(each['img_path']), each['gt_label']) for each in read] == [
        (tmp_path / 'train' / 'daisy' / 'a.jpg', 0),
        (tmp_path / 'train' / 'roses' / 'a.jpg', 1),
    ]


@pytest.mark.parametrize(
    'parents',
    [
        ('training_data/train', 'training_data/val'),
        ('training_set/training_set', 'valid_set/valid_set'),
    ],
)
def test_class_folders_below_folders_that_are_called_as_splits(tmp_path, parents):
    for parent in parents:
        for name in ('cats', 'dogs'):
            picture(tmp_path / parent / name / 'a.jpg')
    data = find_own_data(tmp_path)
    assert data.classes == ('cats', 'dogs')
    prefixes = [data.splits[split].keys['data_prefix'] for split in ('train', 'val')]
    assert prefixes == list(parents)


@pytest.mark.parametrize(
    'names', [('bus', 'car', 'train'), ('invalid', 'valid'), ('train/car', 'train/train')]
)
def test_a_class_that_is_called_as_a_split(tmp_path, names):
    for name in names:
        for number in range(2):
            picture(tmp_path / name / f'{number}.jpg')
    assert find_own_data(tmp_path).classes == tuple(Path(name).name for name in names)


def test_splits_without_classes(tmp_path):
    for split in ('train', 'val'):
        picture(tmp_path / split / 'a.jpg')
    with pytest.raises(InputError, match='nothing to learn from them'):
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
