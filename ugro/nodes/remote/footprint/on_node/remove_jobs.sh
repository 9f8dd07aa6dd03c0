# usage: BASE_DIR [JOB UID]…; follows footprint.sh and remove.sh, whose functions it uses.
# Removes what the node side made of these jobs, each where its folder is marked with that uid and nothing of it runs.
# The mark goes last, so that what was cut short is done again. Says of each job: absent, other (another uid, or none),
# running, left (something could not be removed), link (a link is in the place of a folder of it, and stays), rest (what is not UGRO's stays there) or gone.
remove_job() { # JOB UID
    job=jobs/$1
    if [ ! -d jobs ] || { [ ! -e "$job" ] && [ ! -L "$job" ]; }; then say removal "$1" absent; return; fi
    if is_linked_job "$job" && [ -n "$2" ] && [ "$(uid_of "$job")" = "$2" ]; then say removal "$1" link; return; fi
    if ! is_job "$job" || [ -z "$2" ] || [ "$(uid_of "$job")" != "$2" ]; then say removal "$1" other; return; fi
    if [ -n "$(running "$job")" ]; then say removal "$1" running; return; fi
    drop_job "$job"
    if [ ! -e "$job" ]; then say removal "$1" gone
    elif [ -n "$(each_own "$job" echo)" ]; then say removal "$1" left
    elif [ -n "$(each_link "$job" echo)" ]; then say removal "$1" link
    else say removal "$1" rest; fi
}
shift
if enter; then
    while [ $# -ge 2 ]; do
        seek
        remove_job "$1" "$2"
        shift 2
    done
else
    while [ $# -ge 2 ]; do say removal "$1" absent; shift 2; done
fi
say end
