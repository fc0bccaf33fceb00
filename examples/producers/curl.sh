#!/bin/sh
# Sends API calls over HTTP with curl: sh curl.sh [events.ndjson], one Orb event a line.
set -eu
: "${INGEST_URL:=http://127.0.0.1:6068/v1}" "${INGEST_KEY:?a key of scope ingest}"
events=${1:-$(dirname "$0")/events.ndjson}

# 500 events a request at the most. `--retry` sends the very same body again, so every id stays the same; it heeds
# `Retry-After`, and tries again only where that helps: 429, 5xx, time-outs. A 400 names the events that were not taken,
# and of each what is wrong, or to send it again; the others were taken.
failed=0
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
split -l 500 "$events" "$work/batch-"
for batch in "$work"/batch-*; do
    { printf '{"events":['; paste -s -d , "$batch"; printf ']}'; } |
        curl --silent --show-error --fail-with-body --retry 8 --retry-connrefused --max-time 30 \
            --header "Authorization: Bearer $INGEST_KEY" --header 'Content-Type: application/json' \
            --data-binary @- "$INGEST_URL/ingest" || failed=1
    echo
done
exit "$failed"
