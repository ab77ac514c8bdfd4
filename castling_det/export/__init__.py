"""A trained model as one file for other programs: ONNX, or a program of ``torch.export``.

``graph``, with ``detector_graph`` and ``segmentor_graph``, is what goes into a file, ``metadata``
what it says of itself, ``agreement`` how it is held against the model that it comes from;
``box_decoding`` knows mmdet's heads, ``onnx_tail`` what follows their boxes in ONNX;
``onnx_file`` and ``program`` write it. Needs mmdet, and mmseg for segmentors; ONNX needs the extra
``export``. ``vit_file`` needs neither: it writes castlified models of other libraries.
"""
