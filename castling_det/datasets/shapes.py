"""The embedded demo data: procedural scenes with boxes, polygons and label maps.

Disks, triangles, stars, lamps and gems lie scattered, turned, overlapping and shaded on textured
ground. Every object wears one of a few hues, drawn alike for all kinds, so colour alone tells no
class. What makes attention matter is one rule:

    a gem is *lit* if a lamp of its own hue burns anywhere in the scene, otherwise *unlit*.

Both gems look exactly alike, so their class is a lookup by content: take the gem's hue, search the
lamps for it. Nothing else helps. In each scene half of the hues, picked at random, burn as lamps and
each of the other hues is worn by a plain shape; gems draw their hue independently of all that. So
lit and unlit are equally likely whatever the hue, the place, the size, or the colours present, and
the lamps keep their distance from the gems, out of reach of small receptive fields. With all gem
boxes found, a perfect reader of the rule has AP50 1.0 on the two gem classes, and one who sees
everything except which hue belongs to a lamp has 0.5.
"""

import colorsys
import json
import os
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

CLASSES = ('disk', 'triangle', 'star', 'lamp', 'lit_gem', 'unlit_gem')
PALETTE = (
    (66, 135, 245),
    (240, 101, 67),
    (247, 201, 72),
    (255, 255, 255),
    (64, 224, 150),
    (96, 96, 128),
)

FORMAT_VERSION = 1
SPLITS = ('train', 'val')
PLAIN = ('disk', 'triangle', 'star')
NUM_GEMS = 2
MAX_EXTRAS = 3
PLACING_TRIES = 40
HUE_JITTER = 0.12  # of the step between two hues, to either side
MIN_VISIBLE = {**dict.fromkeys(PLAIN, 0.4), 'lamp': 0.7, 'gem': 0.7}  # of the full area
DIAMETERS = {  # of the shorter image side
    **dict.fromkeys(PLAIN, (0.11, 0.42)),
    'lamp': (0.17, 0.26),
    'gem': (0.16, 0.26),
}


@dataclass(frozen=True)
class Instance:
    """What is annotated about one object.

    Attributes:
        label: Index into ``CLASSES``.
        hue: Index of its hue, 0 to ``num_hues - 1``.
        mask: The visible part, (H, W) bool.
    """

    label: int
    hue: int
    mask: np.ndarray


@dataclass(frozen=True)
class Sprite:
    """One object put into a scene: what it is, where it lies, and what it covers.

    Attributes:
        kind: A key of ``FACETS``.
        hue: Index of its hue.
        pose: (2, 3) affine map from the kind's unit square to pixels.
        alpha: (H, W) uint8 coverage, ignoring whatever lies in front.
        area: Full area in pixels, including what lies outside of the image.
    """

    kind: str
    hue: int
    pose: np.ndarray
    alpha: np.ndarray
    area: float

    @property
    def mask(self):
        return self.alpha >= 128

    @property
    def center(self):
        return self.pose[:, 2]


def _arc(radius, start, stop, num_points, center_y=0.0):
    angle = np.radians(np.linspace(start, stop, num_points, endpoint=False))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle) + center_y], 1)


def _star():
    points = _arc(1, -90, 270, 10)
    points[1::2] *= 0.45
    return points


def _bevelled(outline):
    return [(outline, 0.7), (outline * 0.76, 1.0)]


# Each kind is a stack of (polygon in [-1, 1]^2, shade); the first polygon is the outline. Shade 0 is
# black, 1 the object's own colour, 2 white.
FACETS = {
    'disk': _bevelled(_arc(1, 0, 360, 36)),
    'triangle': _bevelled(_arc(1, -90, 270, 3)),
    'star': _bevelled(_star()),
    'lamp': [
        (np.concatenate([_arc(0.72, 125, 415, 30, -0.28), [[0.36, 1], [-0.36, 1]]]), 1.0),
        (np.array([[-0.36, 0.5], [0.36, 0.5], [0.36, 1], [-0.36, 1]]), 0.3),
        (_arc(0.46, 0, 360, 24, -0.28), 1.35),
        (_arc(0.22, 0, 360, 16, -0.28), 1.8),
    ],
    'gem': [
        (np.array([[-0.6, -0.8], [0.6, -0.8], [1, -0.2], [0, 1], [-1, -0.2]]), 0.8),
        (np.array([[-0.4, -0.2], [0.4, -0.2], [0, 1]]), 1.0),
        (np.array([[0.4, -0.2], [1, -0.2], [0, 1]]), 0.55),
        (np.array([[-0.6, -0.8], [0.6, -0.8], [0.4, -0.2], [-0.4, -0.2]]), 1.4),
        (np.array([[0.6, -0.8], [1, -0.2], [0.4, -0.2]]), 0.7),
    ],
}


def write_shapes(
    root,
    num_train=1600,
    num_val=200,
    size=(160, 160),
    seed=0,
    num_hues=3,
    num_lamps=1,
    lamp_distance=0.4,
    overwrite=False,
):
    """Write the demo data set, or keep the one that is already there.

    The result is ``root/shapes.json`` (the parameters) and, for the splits train and val,

    - ``annotations/{split}.json``: COCO instances; boxes, polygons and areas are those of the visible
      parts, category ids are 1 to 6 in the order of ``CLASSES``; each annotation also tells its hue.
    - ``images/{split}/000000.jpg``
    - ``labels/{split}/000000.png``: ADE20K-style uint8 label maps, whose values are category ids, and
      0 for everything else. With ``reduce_zero_label=True`` these become 0 to 5, and ground is ignored.

    Image ``i`` of a split depends on ``seed``, the split and ``i`` alone, so a larger data set starts
    with the smaller one. The folder appears complete or not at all.

    Args:
        root (str | Path): Target folder.
        num_train (int): Number of training images.
        num_val (int): Number of validation images.
        size (tuple[int, int]): Image height and width in pixels.
        seed (int): Seed of the whole data set.
        num_hues (int): Even number of hues, half of which burn as lamps. More hues make the rule harder.
        lamp_distance (float): Least distance between the centres of any lamp and any gem, in shorter
            image sides, 0 to 0.5.
        overwrite (bool): Replace a data set that is already there, whatever its parameters.

    Returns:
        bool: True if the data set was written, False if the same one was there and is kept.

    Raises:
        FileExistsError: If ``root`` holds a data set with other parameters and ``overwrite`` is False,
            or if it holds anything else.
        ValueError: If ``num_hues`` or ``lamp_distance`` is out of range.
    """
    root = Path(root)
    rule = dict(num_hues=num_hues, num_lamps=num_lamps, lamp_distance=lamp_distance)
    _check_rule(**rule)
    num_images = dict(zip(SPLITS, (num_train, num_val), strict=True))
    parameters = dict(
        format_version=FORMAT_VERSION, num_images=num_images, size=list(size), seed=seed, **rule
    )
    if _is_there(root, parameters, overwrite):
        return False

    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{root.name}-', dir=root.parent) as workshop:
        fresh = Path(workshop, 'fresh')
        for split_index, split in enumerate(SPLITS):
            rngs = (np.random.default_rng([seed, split_index, i]) for i in range(num_images[split]))
            _write_split(fresh, split, (render_scene(rng, size, **rule) for rng in rngs))
        _write_json(fresh / 'shapes.json', parameters)
        if root.exists():
            os.rename(root, Path(workshop, 'replaced'))
        os.rename(fresh, root)
    return True


def count_instances(ann_file):
    """Count the annotations of each class in a COCO file, as a dict in the order of its categories."""
    coco = json.loads(Path(ann_file).read_text())
    counts = Counter(ann['category_id'] for ann in coco['annotations'])
    return {category['name']: counts[category['id']] for category in coco['categories']}


def render_scene(rng, size, num_hues=3, num_lamps=1, lamp_distance=0.4):
    """Draw one scene.

    Args:
        rng (np.random.Generator): The only source of chance.
        size (tuple[int, int]): Image height and width in pixels.
        num_hues (int): See ``write_shapes``.
        lamp_distance (float): See ``write_shapes``.

    Returns:
        tuple[np.ndarray, list[Instance]]: The image, (H, W, 3) uint8 BGR, and its objects from back to
        front.
    """
    sprites = []
    for kind, hue in _cast(rng, num_hues, num_lamps):
        sprites = _place(rng, sprites, kind, hue, size, lamp_distance)
    burning = {sprite.hue for sprite in sprites if sprite.kind == 'lamp'}
    instances = [
        Instance(CLASSES.index(_class_name(sprite, burning)), sprite.hue, visible)
        for sprite, visible in zip(sprites, _visible_masks(sprites), strict=True)
    ]

    image = _ground(rng, size)
    for sprite in sprites:
        image = _paint(rng, image, sprite, num_hues)
    return _expose(rng, image), instances


def _class_name(sprite, burning):
    if sprite.kind != 'gem':
        return sprite.kind
    return 'lit_gem' if sprite.hue in burning else 'unlit_gem'


def _cast(rng, num_hues, num_lamps):
    """Pick the (kind, hue) of every object: each hue goes to one lamp or to one plain shape."""
    burning, dark = np.split(rng.permutation(num_hues), [num_lamps])
    lamps = [('lamp', hue) for hue in burning]
    gems = [('gem', rng.choice(burning if lit else dark)) for lit in rng.integers(2, size=NUM_GEMS)]
    extras = rng.integers(num_hues, size=rng.integers(MAX_EXTRAS + 1))
    plain = [(str(rng.choice(PLAIN)), hue) for hue in (*dark, *extras)]
    return [(kind, int(hue)) for kind, hue in lamps + gems + plain]


def _place(rng, sprites, kind, hue, size, lamp_distance):
    """Put one more object among the sprites (back to front); leave it out if there is no room."""
    for _ in range(PLACING_TRIES):
        newcomer = _sprite(rng, kind, hue, size)
        depth = rng.integers(len(sprites) + 1)
        candidate = [*sprites[:depth], newcomer, *sprites[depth:]]
        if _keeps_distance(candidate, lamp_distance * min(size)) and _all_detectable(candidate):
            return candidate
    return sprites


def _sprite(rng, kind, hue, size):
    height, width = size
    radius = np.exp(rng.uniform(*np.log(DIAMETERS[kind]))) * min(size) / 2
    turn = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    stretch = np.diag([1, rng.uniform(0.8, 1)])
    center = rng.uniform(0.08, 0.92, 2) * (width, height)
    pose = np.column_stack([radius * rotation @ stretch, center])

    outline = FACETS[kind][0][0]
    alpha = np.zeros(size, np.uint8)
    _fill(alpha, outline, pose, 255)
    area = radius**2 * stretch[1, 1] * cv2.contourArea(outline.astype(np.float32))
    return Sprite(kind, hue, pose, alpha, area)


def _fill(image, polygon, pose, color):
    """Fill a unit polygon in place, with smooth edges; pixel (0, 0) has its centre at (0.5, 0.5)."""
    fraction_bits = 6
    points = polygon @ pose[:, :2].T + pose[:, 2] - 0.5
    fixed = np.round(points * 2**fraction_bits).astype(np.int32)
    cv2.fillPoly(image, [fixed], color, cv2.LINE_AA, fraction_bits)


def _keeps_distance(sprites, distance):
    lamps = [sprite.center for sprite in sprites if sprite.kind == 'lamp']
    gems = [sprite.center for sprite in sprites if sprite.kind == 'gem']
    return all(np.linalg.norm(lamp - gem) >= distance for lamp in lamps for gem in gems)


def _all_detectable(sprites):
    """Enough of each object is seen, and no object has a hole, which polygons could not tell."""
    visible_masks = _visible_masks(sprites)
    return all(
        visible.sum() >= MIN_VISIBLE[sprite.kind] * sprite.area and not _has_hole(visible)
        for sprite, visible in zip(sprites, visible_masks, strict=True)
    )


def _visible_masks(sprites):
    """Masks of what is seen of each sprite, given back to front."""
    masks = []
    uncovered = True
    for sprite in reversed(sprites):
        masks.append(sprite.mask & uncovered)
        uncovered = uncovered & ~sprite.mask
    return masks[::-1]


def _has_hole(mask):
    _, hierarchy = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return bool((hierarchy[0, :, 3] >= 0).any())


def _ground(rng, size):
    """Two muted colours, mixed by a texture: (H, W, 3) uint8."""
    texture = rng.choice([_clouds, _stripes, _checks])(rng, size)
    mix = 0.7 * texture + 0.3 * _clouds(rng, size)
    dark, light = (_bgr(rng.uniform(), rng.uniform(0, 0.25), value) for value in _two_values(rng))
    return (dark + mix[..., None] * (light - dark)).astype(np.uint8)


def _two_values(rng):
    low = rng.uniform(0.2, 0.6)
    return low, low + rng.uniform(0.1, 0.3)


def _clouds(rng, size):
    """Smooth noise of three octaves, (H, W) in [0, 1]."""
    height, width = size
    octaves = [
        cv2.resize(rng.uniform(0, 1, (cells, cells)), (width, height), interpolation=cv2.INTER_CUBIC) / cells
        for cells in (4, 10, 25)
    ]
    return cv2.normalize(sum(octaves), None, 0, 1, cv2.NORM_MINMAX)


def _wave(rng, size):
    """A sine of random direction, phase and length, (H, W) in [-1, 1]."""
    y, x = np.mgrid[: size[0], : size[1]] / min(size)
    turn, phase = rng.uniform(0, 2 * np.pi, 2)
    return np.sin(2 * np.pi * rng.uniform(2, 9) * (x * np.cos(turn) + y * np.sin(turn)) + phase)


def _stripes(rng, size):
    return 0.5 + 0.5 * np.tanh(3 * _wave(rng, size))


def _checks(rng, size):
    return 0.5 + 0.5 * np.tanh(6 * _wave(rng, size) * _wave(rng, size))


def _bgr(hue, saturation, value):
    """Colour with components in [0, 255] from hue, saturation and value in [0, 1]."""
    return 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value)[::-1])


def _paint(rng, image, sprite, num_hues):
    """Lay one object, with its shadow, over the image."""
    hue = (sprite.hue + rng.uniform(-HUE_JITTER, HUE_JITTER)) / num_hues
    color = _bgr(hue % 1, rng.uniform(0.6, 0.95), rng.uniform(0.65, 1))
    image = _cast_shadow(rng, image, sprite.alpha)
    if sprite.kind == 'lamp':
        image = _glow(image, sprite.alpha, color)
    for polygon, shade in FACETS[sprite.kind]:
        toward_white = max(shade - 1, 0)
        shaded = color * min(shade, 1) * (1 - toward_white) + 255 * toward_white
        _fill(image, polygon, sprite.pose, shaded.tolist())
    return image


def _cast_shadow(rng, image, alpha):
    shift = np.array([[1, 0, 0], [0, 1, 0]], float)
    shift[:, 2] = rng.uniform(0.01, 0.03, 2) * min(alpha.shape)
    shadow = cv2.GaussianBlur(cv2.warpAffine(alpha, shift, alpha.shape[::-1]), (0, 0), 2)
    transmitted = 1 - np.float32(rng.uniform(0.2, 0.5) / 255) * shadow
    return (image * transmitted[..., None]).astype(np.uint8)


def _glow(image, alpha, color):
    reach = 0.04 * min(alpha.shape)
    halo = cv2.GaussianBlur(alpha, (0, 0), reach)[..., None] * np.float32(0.8 / 255)
    return (image + halo * (np.float32(color) - image)).astype(np.uint8)


def _expose(rng, image):
    """Light the scene from one side and add sensor noise."""
    height, width = image.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    turn = rng.uniform(0, 2 * np.pi)
    light = rng.uniform(0.75, 1.05) + rng.uniform(0, 0.2) * (x * np.cos(turn) + y * np.sin(turn))
    noise = rng.normal(0, rng.uniform(2, 8), image.shape)
    return np.clip(image * light[..., None] + noise, 0, 255).astype(np.uint8)


def _check_rule(num_hues, num_lamps, lamp_distance):
    if not 1 <= num_lamps < num_hues:
        raise ValueError(f'num_lamps must be 1 to num_hues - 1 = {num_hues - 1}, got {num_lamps}')
    if not 0 <= lamp_distance <= 0.5:
        raise ValueError(f'lamp_distance must lie in 0 to 0.5 image sides, got {lamp_distance}')


def _is_there(root, parameters, overwrite):
    """Whether the wanted data set exists and is to be kept; raise if something else is in its place."""
    if not root.exists():
        return False
    record = root / 'shapes.json'
    if not record.is_file():
        raise FileExistsError(f'{root} exists and is not a shapes data set: choose another folder')
    if overwrite:
        return False
    found = json.loads(record.read_text())
    if found != parameters:
        raise FileExistsError(
            f'{root} holds a shapes data set with other parameters: found {found}, wanted {parameters}. '
            'Choose another folder or overwrite it.'
        )
    return True


def _write_split(root, split, scenes):
    images_dir, labels_dir = root / 'images' / split, root / 'labels' / split
    for folder in (images_dir, labels_dir, root / 'annotations'):
        folder.mkdir(parents=True, exist_ok=True)

    images, annotations = [], []
    for image_id, (image, instances) in enumerate(scenes):
        height, width = image.shape[:2]
        file_name = f'{image_id:06d}.jpg'
        images.append(dict(id=image_id, file_name=file_name, height=height, width=width))
        for instance in instances:
            ids = dict(id=len(annotations) + 1, image_id=image_id)
            annotations.append(ids | _annotation(instance))
        _write_picture(images_dir / file_name, image)
        _write_picture(labels_dir / f'{image_id:06d}.png', _label_map(instances, (height, width)))

    categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES, start=1)]
    coco = dict(images=images, annotations=annotations, categories=categories)
    _write_json(root / 'annotations' / f'{split}.json', coco)


def _annotation(instance):
    x, y, width, height = box = cv2.boundingRect(instance.mask.view(np.uint8))
    crop = instance.mask[y : y + height, x : x + width]
    return dict(
        category_id=instance.label + 1,
        bbox=list(box),
        area=int(crop.sum()),
        segmentation=[(polygon + (x, y)).round(1).ravel().tolist() for polygon in _trace(crop)],
        iscrowd=0,
        hue=instance.hue,
    )


def _trace(mask):
    """Outlines of the parts of a mask, each (N, 2) in pixels; holes are not expected.

    OpenCV's contours run through pixel centres, half a pixel inside of the true border; on an enlarged
    mask that loss is small.
    """
    zoom = 8
    enlarged = cv2.resize(mask.view(np.uint8), None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(enlarged, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outlines = (cv2.approxPolyDP(contour, 0.6 * zoom, closed=True)[:, 0] for contour in contours)
    return [(outline + 0.5) / zoom for outline in outlines if len(outline) >= 3]


def _label_map(instances, size):
    labels = np.zeros(size, np.uint8)
    for instance in instances:
        labels[instance.mask] = instance.label + 1
    return labels


def _write_picture(path, picture):
    _, encoded = cv2.imencode(path.suffix, picture)
    path.write_bytes(encoded)


def _write_json(path, content):
    path.write_text(json.dumps(content))
