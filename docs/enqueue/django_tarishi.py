"""Notifications from Django, over RabbitMQ, without Celery (pip install pika). Copy this file into your project.

    TARISHI_AMQP_URL = os.environ["TARISHI_AMQP_URL"]      # settings.py
    TARISHI_URL = os.environ.get("TARISHI_URL")            # optional: Tarishi's admin listener, for when the broker is down
    TARISHI_TIMEOUT = 5                                    # optional: seconds a request waits at most, for each of the two

    from django_tarishi import notify

    def ship(order):
        with transaction.atomic():
            order.ship()
            notify(f"order-{order.pk}-shipped", "order_shipped", to=order.user, data={"number": order.number})

The job is published when the transaction commits, and never when it is rolled back. The id makes repeats harmless: derive it from what
happened, not from the clock.

What happens when the broker is down at that very moment: the order stays shipped (it is committed), the job is handed to TARISHI_URL
instead, and when that is not set or does not answer either, an error with the whole job is logged to `tarishi` and the notification IS
LOST. The same, without a word, when the process dies between the commit and the publish. Where that is not good enough, keep an outbox: a
row, written in the same transaction, that is deleted once the job is published.

    class Outgoing(models.Model):
        id = models.CharField(primary_key=True, max_length=255)
        body = models.BinaryField()
        created_at = models.DateTimeField(auto_now_add=True)

    with transaction.atomic():
        order.ship()
        job_id = f"order-{order.pk}-shipped"
        Outgoing.objects.create(id=job_id, body=encode(job_id, "order_shipped", to=order.user))

    for row in Outgoing.objects.order_by("created_at"):    # in a management command that runs all the time
        publish(row.id, bytes(row.body))                   # raises: wait a little and go on
        row.delete()
"""

import json
import logging
import os
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pika
from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder
from django.db import transaction
from pika.exceptions import AMQPChannelError, AMQPConnectionError

log = logging.getLogger("tarishi")


def notify(job_id, template, to, data=None, using=None, **more):
    """Tells `to` (users, or recipients as dictionaries) once the transaction commits. `more`: channels, priority, send_at, …"""
    body = encode(job_id, template, to, data, **more)
    transaction.on_commit(lambda: _send(job_id, body), using=using)


def encode(job_id, template, to, data=None, **more):
    """The job as bytes. Made once: a repeat has to be the same document, or it is refused as another job under the same id."""
    recipients = [to] if isinstance(to, dict) or hasattr(to, "pk") else to
    job = {"id": job_id, "template": template, "to": [_recipient(one) for one in recipients], "data": data or {}, **more}
    return json.dumps(job, cls=DjangoJSONEncoder).encode()


def publish(job_id, body):
    """Returns once the broker has the job on disk. When it raises, nobody knows: publish the same again."""
    publishing = _publisher().submit(_publish, job_id, body)
    try:
        publishing.result(timeout=_timeout())
    finally:
        publishing.cancel()  # Not begun, it is not begun any more.


def _recipient(one):
    if isinstance(one, dict):
        return one
    # Whatever is missing is completed from the user's contact, if Tarishi knows one.
    return {"user_id": str(one.pk), **({"email": one.email} if one.email else {})}


def _send(job_id, body):
    try:
        publish(job_id, body)
        return
    except Exception as error:  # The order is shipped, whatever becomes of its notification.
        log.warning("job %s not confirmed by the broker: %r", job_id, error)
    try:
        # Should the broker have it after all: it is the same job, and Tarishi sends it once.
        _post(body)
    except Exception:
        log.exception("job %s is lost: %s", job_id, body.decode())


def _post(body):
    url = getattr(settings, "TARISHI_URL", None)
    if not url:
        raise RuntimeError("TARISHI_URL is not set")
    headers = {"Content-Type": "application/json"}
    if key := getattr(settings, "TARISHI_API_KEY", None):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(f"{url.rstrip('/')}/v1/jobs", body, headers)
    urllib.request.urlopen(request, timeout=_timeout()).close()


def _timeout():
    return getattr(settings, "TARISHI_TIMEOUT", 5)


# One connection and one thread that uses it, in each process: pika's connections know one thread only, a process that was forked
# must not use its parent's, and a caller can stop waiting when the broker hangs.
_state = {"pid": None, "publisher": None, "connection": None, "channel": None}
_starting = threading.Lock()


def _publisher():
    with _starting:
        if _state["pid"] != os.getpid():
            _state.update(pid=os.getpid(), publisher=ThreadPoolExecutor(1, "tarishi"), connection=None, channel=None)
        return _state["publisher"]


def _publish(job_id, body):
    try:
        _publish_once(job_id, body)
    except (AMQPConnectionError, AMQPChannelError):
        # Often just a connection that went stale since the last job.
        _disconnect()
        try:
            _publish_once(job_id, body)
        except (AMQPConnectionError, AMQPChannelError):
            _disconnect()
            raise


def _publish_once(job_id, body):
    if _state["channel"] is None:
        parameters = pika.URLParameters(settings.TARISHI_AMQP_URL)
        parameters.socket_timeout = parameters.stack_timeout = parameters.blocked_connection_timeout = _timeout()
        parameters.heartbeat = 10
        _state["connection"] = pika.BlockingConnection(parameters)
        _state["channel"] = _state["connection"].channel()
        # From here on basic_publish waits until the broker has the message, and raises when it has not.
        _state["channel"].confirm_delivery()
    properties = pika.BasicProperties(message_id=job_id, content_type="application/json", delivery_mode=2)
    # Mandatory: a job that no queue takes raises UnroutableError; one that the queue refuses, NackError.
    _state["channel"].basic_publish("tarishi.jobs", "job", body, properties, mandatory=True)


def _disconnect():
    connection = _state["connection"]
    _state.update(connection=None, channel=None)
    if connection is not None and connection.is_open:
        try:
            connection.close()
        except AMQPConnectionError:
            pass  # It is gone, which is what was wanted.
