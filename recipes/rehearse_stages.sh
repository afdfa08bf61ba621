# The rehearse.sh of every line of training stages sources this file: it writes small clips of real videos to the
# working folder, $folder, and defines `stage`. The caller sets $recipe, the folder of its recipes, and $folder.

mkdir -p "$folder"
cd "$folder"
python "$recipe/../../rehearsal_files.py" data

stage() {
    echo "== $1"
    DEVICE=CPU "$recipe/run.sh" "$@" --overlay "$recipe/rehearsal.yaml"
}
