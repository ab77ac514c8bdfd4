#!/usr/bin/env bash
# The runs of docs/performance.md, half an hour on an idle CPU: measure.sh FILES, where FILES is a
# folder of detectors as `castling-det export` writes them, one a model of the first run. Then
# `python tools/studies/report_speed.py` makes the page anew.
set -euo pipefail
cd "$(dirname "$0")/../../.."
files=$1 out=docs/studies/speed
export OMP_NUM_THREADS=1

picodet=configs/castling_picodet peers=configs/peers mask2former=configs/castling_mask2former
cls=configs/castling_cls mvit=configs/castling_mvit
detectors=(
  $picodet/castling-picodet_levit-128s_8xb32-300e_coco-320x320.py
  $picodet/picodet-s_lcnet_4xb48-300e_coco-416x416.py
  $picodet/picodet-m_lcnet_4xb48-300e_coco-416x416.py
  $peers/yolox-nano_cspdarknet_8xb8-300e_coco-416x416.py
  $peers/yolox-tiny_cspdarknet_8xb8-300e_coco-416x416.py
  $peers/rtmdet-tiny_cspnext_8xb32-300e_coco-640x640.py
)
latency() { # RUN ARGUMENTS...
  python tools/benchmark_latency.py "${@:2}" --memory-limit 20 --warm-up 1 --out $out/$1.json
}

python tests/benchmarks/benchmark_attention.py --rounds 7 --out $out/attention.json
latency detectors "${detectors[@]}" --rounds 7 \
  --shape 160 160 320 320 416 416 640 640 1024 1024 2048 2048
for runtime in onnxruntime openvino; do
  latency files-$runtime --onnx "$files"/*.onnx --modes $runtime --rounds 7 \
    --shape 160 160 320 320 416 416 640 640 1024 1024
done
latency segmentors $mask2former/castling-mask2former-nano_vit-nano_1xb4-1500i_camvid-192x256.py \
  --parts whole backbone --rounds 5 --shape 512 512 640 640 1024 1024
latency segmentors-deit-s \
  $mask2former/castling-mask2former_deit-s-p16-mae-pre_8xb2-160k_ade20k-512x512.py \
  --parts whole backbone --rounds 2 --shape 512 512 640 640
latency classifiers $cls/castling-cls_{deit-t,deit-s,levit-128s,levit-384,mvit-tiny}_*.py \
  $peers/cls_swin-t_*.py --rounds 9 --shape 224 224 448 448
latency detector-backbones $mvit/castling-retinanet_mvit-t-*.py \
  $peers/retinanet_{swin-t,pvtv2-b2}_*.py --parts whole backbone --rounds 2 --shape 640 640
latency segmentor-backbones \
  $mask2former/castling-mask2former_deit-s-p16-mae-pre_8xb2-160k_ade20k-512x512.py \
  $peers/{upernet_swin-t,fpn_pvtv2-b2}_*.py --parts whole backbone --rounds 2 --shape 512 512
