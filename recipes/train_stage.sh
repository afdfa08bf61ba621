# The run.sh of every line of training stages sources this file. Arguments: STAGE, then options of `mindsora train`.
# The caller sets $recipe, the folder of its recipes.

# Without a stage, print the comment at the head of the caller as its usage.
[ $# -ge 1 ] || { sed -n '2,/^[^#]/s/^# //p' "$0" >&2; exit 2; }
stage=$1
shift
if [ ! -f "$recipe/$stage.yaml" ]; then
    echo "$0: no stage $stage; stages: $(cd "$recipe" && ls -- *_[0-9]*.yaml | sed 's/\.yaml//' | tr '\n' ' ')" >&2
    exit 2
fi
# CARDS=8 starts a process per card; give --parallel dp=8 too.
exec bash "$recipe/../../cards.sh" train "$recipe/$stage.yaml" --device "${DEVICE:-Ascend}" "$@"
