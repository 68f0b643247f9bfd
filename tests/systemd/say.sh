# shellcheck shell=sh
# What the scenes say: a line for each thing that is tried. `failed` becomes 1 when one goes wrong.
failed=0
said=$(mktemp) # what the last command printed

good() { echo "ok    $*"; }
bad() {
    echo "FAIL  $*"
    failed=1
}
try() { # WHAT COMMAND...: the command must succeed
    what=$1
    shift
    if "$@" >"$said" 2>&1; then good "$what: $(head -n 1 "$said")"; else
        bad "$what (exit status $?)"
        sed 's/^/      /' "$said"
    fi
}
equal() { # WHAT FOUND EXPECTED
    if [ "$2" = "$3" ]; then good "$1: $2"; else bad "$1: $2, not $3"; fi
}
holds() { # WHAT TEXT PART: the text must contain the part
    case $2 in
    *"$3"*) good "$1: $(echo "$2" | grep -F -e "$3" | head -n 1)" ;;
    *) bad "$1: no \"$3\" in: $2" ;;
    esac
}
within() { # SECONDS COMMAND...: wait until the command succeeds
    limit=$1 until=$(($(date +%s) + $1))
    shift
    while [ "$(date +%s)" -le "$until" ]; do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.2
    done
    echo "not within $limit s: $*"
    return 1
}
