"""What follows a detector's cells in an ONNX file: which scores are left out, and NMS.

It comes behind what is compared with torch, because a score next to a threshold is there or not.
"""

import re
from typing import Any

from castling_det.export.box_decoding import by_cell
from castling_det.export.detector_graph import DetectorGraph
from castling_det.export.onnx_model import OPSET, onnx


def append_tail(
    model: onnx.ModelProto, graph: DetectorGraph, metadata: dict[str, Any]
) -> onnx.ModelProto:
    """Append, in standard operators, what mmdet does with boxes and scores of all cells.

    Args:
        model (onnx.ModelProto): Its outputs are named ``all_boxes``, ``all_scores`` and, where the
            graph has them, ``all_factors``.
        graph (DetectorGraph): What ``model`` computes.
        metadata (dict[str, Any]): As :func:`~castling_det.export.metadata.describe` gives them.

    Returns:
        onnx.ModelProto: With outputs ``boxes`` and ``scores``, and ``labels`` after NMS.
    """
    classes = len(metadata['classes'])
    selecting, scores = _selection(graph)
    if metadata['decode'] == 'nms':
        most = metadata['max_per_img']
        ending = _suppression(scores, most, metadata['iou_threshold'], metadata['score_thr'])
        outputs = f"""float[batch, {most}, 4] boxes, float[batch, {most}] scores,
            int64[batch, {most}] labels"""
    else:
        ending = f'boxes = Identity (all_boxes) scores = Identity ({scores})'
        outputs = f'float[batch, cells, 4] boxes, float[batch, cells, {classes}] scores'
    inputs = f'float[batch, cells, 4] all_boxes, float[batch, cells, {classes}] all_scores'
    if graph.has_factors:
        inputs += ', float[batch, cells, 1] all_factors'
    tail = onnx.parser.parse_model(f"""
        <ir_version: {model.ir_version}, opset_import: ["" : {OPSET}]>
        tail ({inputs}) => ({outputs}) {{
            {_constants(selecting + ending)}
            {selecting}
            {ending}
        }}
    """)
    names = [(output.name, output.name) for output in model.graph.output]
    merged = onnx.compose.merge_models(model, tail, io_map=names)
    del merged.opset_import[1:]  # the same once more
    return merged


def _constants(operators: str) -> str:
    """Those that operators name: onnxruntime warns of others whenever a file is opened."""
    known = dict(zero='float[1] {0}', last='int64[1] {-1}')
    named = (name for name in known if re.search(rf'\b{name}\b', operators))
    return ''.join(f'{name} = Constant <value = {known[name]}> ()\n' for name in named)


def _selection(graph: DetectorGraph) -> tuple[str, str]:
    """Operators that set scores to 0 which mmdet leaves out, and the name of what comes out."""
    lines, scores = [], 'all_scores'
    if graph.decoder is by_cell:  # a cell of YOLOX has one class
        lines.append(f"""
            best = ReduceMax <keepdims = 1> ({scores}, last)
            is_best = Equal ({scores}, best)
            of_best = Where (is_best, {scores}, zero)
        """)
        return ''.join(lines), 'of_best'
    if graph.has_factors:
        lines.append(f"""
            threshold = Constant <value = float[1] {{{graph.model.test_cfg.score_thr}}}> ()
            is_over = Greater ({scores}, threshold)
            over = Where (is_over, {scores}, zero)
            multiplied = Mul (over, all_factors)
        """)
        scores = 'multiplied'
    if graph.model.test_cfg.get('min_bbox_size', -1) >= 0:
        lines.append(f"""
            starts, ends = Split <axis = 2, num_outputs = 2> (all_boxes)
            sides = Sub (ends, starts)
            side = ReduceMin <keepdims = 1> (sides, last)
            has_area = Greater (side, zero)
            of_area = Where (has_area, {scores}, zero)
        """)
        scores = 'of_area'
    return ''.join(lines), scores


def _suppression(scores: str, most: int, iou_threshold: float, score_thr: float) -> str:
    """Operators of class-wise NMS, and the best of each image."""
    return f"""
        most = Constant <value = int64[1] {{{most}}}> ()
        iou_threshold = Constant <value = float[1] {{{iou_threshold}}}> ()
        score_thr = Constant <value = float[1] {{{score_thr}}}> ()
        by_class = Transpose <perm = [0, 2, 1]> ({scores})
        kept = NonMaxSuppression (all_boxes, by_class, most, iou_threshold, score_thr)
        kept_scores = GatherND (by_class, kept)
        shape = Shape (by_class)
        nothing = ConstantOfShape (shape)
        sparse = ScatterND (nothing, kept, kept_scores)
        per_image = Constant <value = int64[2] {{0, -1}}> ()
        flat = Reshape (sparse, per_image)
        room = Constant <value = int64[4] {{0, 0, 0, {most}}}> ()
        roomy = Pad (flat, room)
        scores, places = TopK (roomy, most)
        cells = Shape <start = 1, end = 2> (all_boxes)
        cell = Mod (places, cells)
        pointers = Unsqueeze (cell, last)
        boxes = GatherND <batch_dims = 1> (all_boxes, pointers)
        class = Div (places, cells)
        found = Greater (scores, zero)
        labels = Where (found, class, last)
    """
