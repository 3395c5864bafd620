#!/usr/bin/env bash
# bash train.sh COMMAND [further options of train.py]; without a command it lists them
set -euo pipefail
[ "$PWD" -ef "$(dirname "$0")" ] || echo "train.sh: paths are relative to $(dirname "$0")" >&2
cd "$(dirname "$0")"

# exec: a signal to the script is one to the run, which saves itself.
teacher() {
    exec "$PYTHON" train.py --version teacher --seed 214 --lr 1e-6 --optimizer Adam --epochs 10 --batch-size 64 \
        --weight-decay 0.2 --loss-weight True "$@"
}

student() {
    exec "$PYTHON" train.py --version student --seed 214 --lr 1e-3 --min-lr 4e-5 --cos-gamma 0.9 --warmup-epoch 5 \
        --decay-epoch 30 --optimizer AdamW --epochs 10 --batch-size 128 --weight-decay 0.01 --loss CE --ls 0.1 \
        --kd-learning True --teacher teacher/model_5.pt --distillation-type soft --distillation-tau 4 \
        --distillation-alpha 0.9 --loss-weight True --scheduler True "$@"
}

# A pretrained network learns one's own labels, without a teacher. Plain probabilities, so that --prior balanced is possible.
program=(train.py)
own() {
    exec "$PYTHON" "${program[@]}" --version own --seed 214 --lr 5e-4 --min-lr 1e-6 --optimizer AdamW --epochs auto --batch-size auto \
        --weight-decay 0.05 --kd-learning True --views epochs --scheduler True --schedule-by step --warmup-epoch 1 \
        --decay-epoch epochs --best top1 --keep 1 "$@"
}

# That, then evaluate.py, export.py and the page.
all() {
    program=(-m utils.tools.pipeline)
    own "$@"
}

# Not the published procedure (docs/accuracy.md): a view of its own for each epoch, classes that count alike, and a rate
# that ends at nothing with the last epoch, so that a finished run cannot go on with more of them. A student from random
# weights, --student-weights none, learns faster with --optimizer Muon --lr 3e-3 --batch-size 32. 60 epochs want smaller
# crops, --crop-scale 0.4, by which 10 lose.
best-teacher() {
    exec "$PYTHON" train.py --version best-teacher --seed 214 --lr 1e-5 --min-lr 1e-7 --optimizer AdamW --epochs 10 \
        --batch-size 64 --weight-decay 0.2 --logit-adjustment 1 --views epochs --scheduler True --schedule-by step \
        --warmup-epoch 1 --decay-epoch epochs --best acsa "$@"
}

best() {
    exec "$PYTHON" train.py --version best --seed 214 --lr 1e-3 --min-lr 1e-6 --optimizer AdamW --epochs 30 --batch-size 64 \
        --weight-decay 0.05 --ls 0.1 --logit-adjustment 1 --kd-learning True --teacher best-teacher/best.pt \
        --distillation-type soft --distillation-tau 2 --distillation-alpha 0.7 --distillation-reduction batch \
        --views epochs --scheduler True --schedule-by step --warmup-epoch 1 --decay-epoch epochs --best acsa "$@"
}

# Both, small, on drawn garments: a teacher from random weights, then a student from random weights.
sample() {
    local data="${XDG_CACHE_HOME:-$HOME/.cache}/fashion-attributes/sample"
    "$PYTHON" -m utils.tools.sample "$data"
    "$PYTHON" train.py --version sample-teacher --overwrite True --data-dir "$data" --clip-model random \
        --epochs 10 --batch-size 16 --lr 5e-4 --optimizer Adam --loss-weight True "$@"
    "$PYTHON" train.py --version sample-student --overwrite True --data-dir "$data" \
        --student mobilenetv4_conv_small --student-weights none --epochs 6 --batch-size 16 --lr 1e-3 --min-lr 4e-5 \
        --scheduler True --warmup-epoch 1 --decay-epoch 7 --optimizer AdamW --weight-decay 0.01 \
        --kd-learning True --teacher sample-teacher/best.pt \
        --distillation-type soft --distillation-tau 2 --distillation-alpha 0.5 --loss-weight True "$@"
    echo "sample photos: $data"
}

commands() {
    cat <<'END'
bash train.sh COMMAND [options of train.py]

  all           own, and then scores, an .onnx and a page for the browser: --attributes FILE.json --data-dir DIR
  own           a pretrained network learns your labels: the same options; --folds 5 trains five, a fifth held out each
  best-teacher  a teacher, FashionCLIP, learns them: the better recipe
  best          a student learns them, and from the teacher: --teacher VERSION/best.pt; alone with --teacher none
  teacher       the published teacher
  student       the published student, which learns from it
  sample        draws garments, and trains a small teacher and a student: nothing is needed

More: python train.py --help, and README.md.
END
}

# A hint for a command that is none.
near() {
    python3 - "$1" 2>/dev/null <<'END' || true
import difflib, sys

commands = "all own best-teacher best teacher student sample".split()
print(*(f"; did you mean {name}?" for name in difflib.get_close_matches(sys.argv[1], commands, 1)))
END
}

case "${1:-}" in
all | own | teacher | student | best-teacher | best | sample)
    source utils/environment.sh
    "$@"
    ;;
-h | --help)
    commands
    ;;
*)
    commands >&2
    [ -z "${1:-}" ] || echo "error: there is no command $1$(near "$1")" >&2
    exit 2
    ;;
esac
