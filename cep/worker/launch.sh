# Which Python runs the tasks of a block, and the start of its workers. One rule:
#
# 1. worker_python in the endpoint's configuration, when it is not `auto`;
# 2. the environment that worker_init activated: VIRTUAL_ENV or CONDA_PREFIX is not what the job
#    began with;
# 3. the python3 that worker_init put first on PATH, when it has the worker of this endpoint;
# 4. the endpoint's own Python.
#
# `launch.sh choose BLOCK VIRTUAL_ENV CONDA_PREFIX PYTHON3` decides, in the job's script after
# worker_init; the values are those that the job began with. `launch.sh start BLOCK ARGUMENT...`
# starts the workers on a node. `launch.sh inside BLOCK ARGUMENT...` does so in a container, where
# the python3 of the image takes the place of 2 to 4. POSIX sh; run it, do not source it.
set -u
here=${0%/*}
block=$2
block_dir=${here%/*}/block-$block
host=$(uname -n)

# Say why no task can run here, on the error output and where the endpoint reads it: in the file
# `refused` when every other node would say the same, else in `failed`.
give_up() {
    printf 'cep: block %s cannot run tasks: %s\n' "$block" "$2" >&2
    (umask 077; mkdir -p "$block_dir" && printf '%s\n' "$2" >"$block_dir/$1.$host.part" &&
        mv -f "$block_dir/$1.$host.part" "$block_dir/$1") 2>/dev/null
    exit 78
}

# Set `version` of an interpreter, or `broken` to what is wrong with it and `kind` to whose fault it
# is: the interpreter's, wherever it is run (refused), or perhaps this node's (failed).
ask_version() {
    broken=
    kind=failed
    if [ ! -f "$1" ] || [ ! -x "$1" ]; then
        broken="it cannot be seen on host $host; what is to run there has to be installed where \
all nodes see it"
        return 1
    fi
    version=$("$1" -E -S -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || {
        broken="it cannot be run on host $host: $("$1" -E -S -c '' 2>&1)"
        return 1
    }
    case " $supported " in
    *" $version "*) ;;
    *)
        broken="it is Python $version, and workers need one of $supported"
        kind=refused
        return 1
        ;;
    esac
}

# `python PROGRAM VERB ...`: without the directory of the job in front of all packages.
runner='import sys, runpy
sys.path[:1] = []
sys.argv[:] = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")'

has_worker() {
    ask_version "$1" && "$1" -c "$runner" "$here/cep_lend.py" ask >/dev/null 2>&1
}

# Set `found` to the interpreter of an environment.
python_of() {
    for found in "$1/bin/python3" "$1/bin/python"; do
        if [ -x "$found" ]; then return 0; fi
    done
    return 1
}

choose() {
    began_env=$1
    began_conda=$2
    began_python=$3
    case $wanted in
    auto) ;;
    endpoint)
        python=$own
        why='worker_python is endpoint'
        return
        ;;
    *)
        python=$wanted
        why='worker_python names it'
        return
        ;;
    esac
    now=$(command -v python3) || now=
    case $now in /*) ;; *) now= ;; esac
    env=${VIRTUAL_ENV-}
    if [ "$env" = "$began_env" ]; then env=; fi
    conda=${CONDA_PREFIX-}
    if [ "$conda" = "$began_conda" ]; then conda=; fi
    # Of two, the one that was activated last stands first on PATH.
    if [ -n "$conda" ]; then
        case $now in "$conda"/*) env=$conda ;; esac
        env=${env:-$conda}
    fi
    note=
    if [ -n "$env" ]; then
        if python_of "$env"; then
            python=$found
            why="worker_init activated $env"
            return
        fi
        note="worker_init activated $env, which has no Python; "
    fi
    python=$own
    if [ -z "$now" ] || [ "$now" = "$began_python" ]; then
        why="${note}worker_init put no Python in front, so it is the endpoint's own"
    elif has_worker "$now"; then
        python=$now
        why="${note}worker_init put it on PATH, and it has the worker"
    else
        why="${note}the python3 that worker_init put on PATH, $now, lacks the worker${broken:+ ($broken)}, \
so it is the endpoint's own"
    fi
}

choose_inside() {
    case $wanted in
    auto)
        python=$(command -v python3) || give_up refused "the container's image has no python3 on its PATH. \
Take an image with Python, or name its interpreter with worker_python."
        why="it is the python3 of the container's image"
        ;;
    endpoint)
        python=$own
        why='worker_python is endpoint'
        ;;
    *)
        python=$wanted
        why='worker_python names it'
        ;;
    esac
}

# The choice is for all nodes of the block, and not every launcher takes the environment along.
keep() {
    # Twice, for the endpoint may just clear away the empty directory of an older block.
    write_choice 2>/dev/null || write_choice ||
        give_up failed "$block_dir cannot be written on host $host. \
The nodes must see and write the endpoint's run_dir."
}

write_choice() {
    (umask 077; mkdir -p "$block_dir" &&
        printf '%s\n%s\n' "$(printf %s "$why" | tr '\n' ' ')" "$python" >"$block_dir/choice")
}

recall() {
    if [ ! -r "$block_dir/choice" ]; then
        give_up failed "$block_dir/choice cannot be read on host $host, \
and it says which Python to take. The nodes must see the endpoint's run_dir."
    fi
    why=$(sed -n 1p "$block_dir/choice")
    python=$(sed 1d "$block_dir/choice")
}

start() {
    ask_version "$python" || give_up "$kind" "$python (chosen because $why): $broken."
    exec "$python" -c "$runner" "$here/cep_lend.py" run "$block" "$python" "$why" "$@"
}

verb=$1
shift 2
case $verb in
choose)
    choose "$@"
    keep
    ;;
start)
    recall
    start "$@"
    ;;
inside)
    choose_inside
    start "$@"
    ;;
*)
    give_up failed "launch.sh does not know $verb"
    ;;
esac
