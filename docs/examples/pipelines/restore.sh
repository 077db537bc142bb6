#!/bin/sh
# Denoise all TIFFs below a folder, then make a PNG of each result: restore.sh SCANS OUT [OPTION...]
set -eu
scans=$1 out=$2
shift 2

# One batch, its names by way of stdin. NUL between them: spaces and line ends in names are safe.
code=0
find "$scans" -type f -name '*.tif' -print0 |
    knit denoise - -o "$out" --jobs 2 --quiet "$@" || code=$?
# 1: some files failed, and the report says why; anything else: the run did not get to its end
[ "$code" -le 1 ] || exit "$code"

# Each result on to another command as soon as it is there, two at a time
find "$out" -type f -name '*_denoised.tif' -print0 |
    xargs -0 -n 1 -P 2 sh -c \
        'knit super-resolve "$0" --scale 2 --passes 1 --format png -o - >"${0%.tif}_x2.png"'

# What failed, one line a file
python3 - "$out/knit-report.jsonl" <<'END'
import json, sys

last = {line["file"]: line for line in map(json.loads, open(sys.argv[1]))}
for line in last.values():
    if line["state"] == "failed":
        print(line["file"], line["reason"], sep="\t")
END
exit "$code"
