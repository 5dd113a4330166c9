#!/bin/sh
# Jobs for Tarishi over HTTP: no broker, no client library. The answer comes once the job is committed.
#   TARISHI_URL      the admin listener (http://127.0.0.1:8001)
#   TARISHI_API_KEY  one with the scope `enqueue`, where the daemon wants API keys
set -eu

id=${1:-try-$(cat /proc/sys/kernel/random/uuid)}
url=${TARISHI_URL:-http://127.0.0.1:8001}

# Sends the job on its input. Tried again when nobody answers, or with 408, 429 or 5xx, as soon as Retry-After allows: the id makes
# that safe. What is wrong with a job is in the answer, which is shown.
send() {
    curl --silent --show-error --fail-with-body --max-time 10 --retry 5 --retry-connrefused --retry-max-time 60 \
        --header 'Content-Type: application/json' ${TARISHI_API_KEY:+--header "Authorization: Bearer $TARISHI_API_KEY"} \
        --data-binary @- "$url/v1/jobs"
}

send <<JOB
{
  "id": "$id",
  "template": "new_message",
  "to": [{ "user_id": "42", "email": "asha@example.com", "locale": "sw" }],
  "data": { "sender_name": "Juma", "preview": "Bado ipo?", "conversation_id": 7, "unread_count": 1 }
}
JOB
