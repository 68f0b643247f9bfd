#!/bin/sh
# Plays the scene $1 as root inside the container that boot.sh boots. A line for each thing that is tried; exit status 1
# if one went wrong. A scene is a file of scenes/; the words after the first hyphen of its name are its arguments.
. /mnt/source/tests/systemd/lib.sh
cd /mnt/pieces/new || exit 1
began=$(date +%s)
file=$(echo "$1" | cut -d- -f1)
set -- "$1" $(echo "$1" | cut -s -d- -f2- | tr - ' ')
name=$1
shift
[ -e /mnt/out/again ] || echo "scene $name"
. "/mnt/source/tests/systemd/scenes/$file.sh"
end_of_scene
