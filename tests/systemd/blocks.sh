# shellcheck shell=sh
# The ```sh blocks of a page: `blocks FILE` lists them as "HEADING: N", and `text_of FILE HEADING N` prints one.
_walk='
    /^```/ { if (code) { code = on = 0 } else { code = 1; if ($0 == "```sh") { n++; on = 1; if (!wanted) print heading ": " n } } next }
    !code && /^#+ / { heading = $0; sub(/^#+ /, "", heading); gsub(/`/, "", heading); n = 0; next }
    on && wanted == heading ": " n { print }'
blocks() { awk "$_walk" "$1"; }
text_of() { awk -v wanted="$2: $3" "$_walk" "$1"; }
