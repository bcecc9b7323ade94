#!/usr/bin/env bash
# The whole main job on the generated shapes world: data, SFT, GRQO at the same number of iterations, evaluation with
# visual prompts from other images, pictures. Interrupted, it continues where it stopped. Used by `make demo`.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
out=${DEMO_DIR:-work_dirs/demo}
sft=configs/vis_gdino/vis-gdino_nano_1xb8_6e_shapes.py
grqo=configs/dino_r1/dino-r1_nano_1xb8_6e_shapes.py
# Threads that wait spin for a moment only: the loader's workers need the cores too (0.21 against 0.24 s per iteration).
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-20000}

say() { printf '\n=== %s\n' "$*"; }

say "1/5 Generating the shapes world"
"$python" tools/dataset_converters/make_shapes.py

say "2/5 VIS-GDINO: supervised fine-tuning (6 epochs; pictures in $out/sft/vis after each)"
[ -f "$out/sft/epoch_6.pth" ] || "$python" tools/train.py $sft --work-dir "$out/sft" --resume

say "3/5 DINO-R1: its first epoch is the one above, then 5 epochs of GRQO"
if [ ! -f "$out/grqo/epoch_6.pth" ]; then
  if [ -f "$out/grqo/last_checkpoint" ]; then from=; else from="$out/sft/epoch_1.pth"; fi
  "$python" tools/train.py $grqo --work-dir "$out/grqo" --resume $from
fi

say "4/5 Testing both with visual prompts from other images, on known and on novel categories"
for arm in sft grqo; do
  for split in base novel; do
    if [ $split = base ]; then config=$sft; else config=configs/vis_gdino/vis-gdino_nano_1xb8_6e_shapes-novel.py; fi
    "$python" tools/test.py $config "$out/$arm/epoch_6.pth" --work-dir "$out/test/${arm}_$split"
  done
done

say "5/5 Finding objects by example: one box in one picture, everything like it in others"
"$python" tools/image_demo.py data/shapes/images/val_base --config $grqo --checkpoint "$out/grqo/epoch_6.pth" \
  --out-dir "$out/image_demo" \
  --prompt "data/shapes/images/train/000003.png:58,87,120,149:striped square" \
  --prompt "data/shapes/images/train/000005.png:19,32,79,92:solid cross" \
  --prompt "data/shapes/images/train/000018.png:98,32,158,96:outlined triangle"

"$python" tools/analysis_tools/collect_results.py "$out"/test/*
echo "Prompts and detections after each epoch: $out/sft/vis $out/grqo/vis"
echo "Test pictures: $out/test/*/vis/test.png   Single prompt: $out/image_demo"
