# usage: FOLDER NAME TEXT
# Writes a file that only its owner reads, and prints the folder's path.
umask 077
folder=$1; case $folder in "~/"*) folder=$HOME/${folder#"~/"} ;; esac
cd "$folder" && printf '%s' "$3" > "$2.tmp" && mv "$2.tmp" "$2" && pwd
