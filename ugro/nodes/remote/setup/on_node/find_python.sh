# usage: KIND NAME, with KIND one of path, command and conda
# Prints the path of the Python that is meant. Else it prints where it was looked for, and ends with 3.
looked=
try() { # PATH [REST]: prints it, with what comes below it, and ends where that can be run
    shown=$1; case $shown in "$HOME"/*) shown="~${shown#"$HOME"}" ;; esac
    case $looked in '' | *" in") looked="$looked${looked:+ }$shown" ;; *) looked="$looked, $shown" ;; esac
    found=$1${2:+/$2}
    if [ -f "$found" ] && [ -x "$found" ]; then printf 'python %s\n' "$found"; exit 0; fi
}
case $1 in
    path)
        path=$2; case $path in "~/"*) path=$HOME/${path#"~/"} ;; esac
        try "$path"
        ;;
    command)
        found=$(command -v -- "$2" 2>/dev/null)
        case $found in /*) try "$found" ;; *) looked="PATH=$PATH" ;; esac
        ;;
    conda)
        rest=envs/$2/bin/python; [ "$2" != base ] || rest=bin/python
        looked="$rest in"
        for root in "$HOME/miniconda3" "$HOME/anaconda3" "$HOME/miniforge3" "$HOME/mambaforge" "$HOME/micromamba" \
            "$HOME/.conda" "$MAMBA_ROOT_PREFIX" /opt/conda /opt/miniconda3 /opt/anaconda3 /opt/miniforge3; do
            [ -n "$root" ] || continue
            try "$root" "$rest"
        done
        if [ -f "$HOME/.conda/environments.txt" ]; then # conda lists there what it made elsewhere
            while read -r folder; do
                case $folder in */"$2") try "$folder/bin/python" ;; esac
            done < "$HOME/.conda/environments.txt"
        fi
        ;;
esac
printf 'looked %s\n' "$looked"
exit 3
