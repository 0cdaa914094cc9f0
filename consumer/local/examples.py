"""What `mlworker local` prints: where everything is, and requests to try."""

from __future__ import annotations

from pathlib import Path

from consumer.local.stack import LocalStack

TENANT = "acme"
SAMPLE = f"{TENANT}/uploads/sample.jpg"
"""A photo to try the requests with."""

_EXAMPLES = """
The worker is ready. Ctrl-C ends it, and removes what it kept.

  results as they arrive   {backend_url}/
  drop photos into         {inbox}/{tenant}/originals/   (any tenant: the folder names it)
  bucket                   gs://{bucket} is the folder {folder}
  sample photo             gs://{bucket}/{sample}

  PUBSUB_EMULATOR_HOST     {pubsub}
  GOOGLE_CLOUD_PROJECT     {project}
  topics                   {requests} {results} {dead_letters}
  subscriptions            {results_subscription} {dead_letter_subscription}
  the worker's own         {worker_subscription}

Publish a request with curl (missing ids are made up):

{curl}

or as your backend will, with Google's client:

{python}
"""

_CURL = """\
curl {backend_url}/publish -H 'Content-Type: application/json' -d '{{
  "tenant_id": "{tenant}", "image_url": "gs://{bucket}/{sample}",
  "pipeline_definition": {{"steps": [
    {{"type": "step", "name": "detection"}}, {{"type": "step", "name": "count"}},
    {{"type": "step", "name": "visualize_detections"}},
    {{"type": "step", "name": "upload_image", "kwargs": {{"source": "processed"}}}}]}}}}'
"""

_PYTHON = """\
PUBSUB_EMULATOR_HOST={pubsub} python - <<'END'
import json, uuid
from google.cloud import pubsub_v1
request = {{
    "tenant_id": "{tenant}", "session_id": str(uuid.uuid4()), "image_id": str(uuid.uuid4()),
    "image_url": "gs://{bucket}/{sample}",
    "pipeline_definition": {{
        "steps": [{{"type": "step", "name": "detection"}}, {{"type": "step", "name": "count"}}]
    }},
}}
publisher = pubsub_v1.PublisherClient()
print(publisher.publish("{requests}", json.dumps(request).encode()).result())
END
"""


def examples(stack: LocalStack, inbox: Path) -> str:
    """Return what to try, with this stack's names and ports in it."""
    names = stack.resources
    known = {
        "backend_url": stack.backend_url,
        "bucket": stack.bucket,
        "dead_letters": names.topic(names.dead_letter_topic),
        "dead_letter_subscription": names.subscription(names.dead_letter_subscription),
        "folder": stack.folder / stack.bucket,
        "inbox": inbox,
        "project": names.project,
        "pubsub": stack.pubsub_address,
        "requests": names.topic(names.requests_topic),
        "results": names.topic(names.results_topic),
        "results_subscription": names.subscription(names.results_subscription),
        "sample": SAMPLE,
        "tenant": TENANT,
        "worker_subscription": names.subscription(names.worker_subscription),
    }
    shown = {"curl": _CURL.format(**known), "python": _PYTHON.format(**known)}
    return _EXAMPLES.format(**known, **shown)
