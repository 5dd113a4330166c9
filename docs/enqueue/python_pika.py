#!/usr/bin/env python3
"""Jobs for Tarishi over RabbitMQ, with pika (pip install pika).

    tarishi = Tarishi(os.environ["TARISHI_AMQP_URL"])
    tarishi.send({"id": "order-8841-shipped", "template": "new_message", "to": [{"user_id": "42"}], "data": {…}})

`send` returns once the broker has the job on disk. When it raises, nobody knows: send the same job, with the same id, again.
One Tarishi belongs to one thread, as pika's connections do.
"""

import json
import os
import sys
import uuid

import pika
from pika.exceptions import AMQPChannelError, AMQPConnectionError, NackError, UnroutableError


class NotTaken(Exception):
    """The broker did not confirm the job."""


class Tarishi:
    def __init__(self, url):
        self._parameters = pika.URLParameters(url)
        self._parameters.socket_timeout = 5  # Seconds: to connect,
        self._parameters.stack_timeout = 10  # to connect and log in,
        self._parameters.blocked_connection_timeout = 10  # for a broker that is out of memory or disk,
        self._parameters.heartbeat = 10  # and half of what it takes to notice one that is gone.
        self._connection = None
        self._channel = None

    def send(self, job):
        # Made once: a repeat has to be the same document, or it is refused as another job under the same id.
        body = json.dumps(job).encode()
        properties = pika.BasicProperties(
            message_id=job["id"],
            content_type="application/json",
            delivery_mode=pika.DeliveryMode.Persistent.value,
        )
        try:
            self._publish(body, properties)
        except (AMQPConnectionError, AMQPChannelError):
            # Often just a connection that went stale since the last job.
            self.close()
            try:
                self._publish(body, properties)
            except (AMQPConnectionError, AMQPChannelError) as error:
                self.close()
                raise NotTaken(f"{job['id']}: {error!r}") from error

    def _publish(self, body, properties):
        if self._channel is None:
            self._connection = pika.BlockingConnection(self._parameters)
            self._channel = self._connection.channel()
            # From here on basic_publish waits until the broker has the message, and raises when it has not.
            self._channel.confirm_delivery()
        try:
            self._channel.basic_publish("tarishi.jobs", "job", body, properties, mandatory=True)
        except UnroutableError as error:
            raise NotTaken(f"{properties.message_id}: no queue takes it; has this broker ever had a Tarishi?") from error
        except NackError as error:
            raise NotTaken(f"{properties.message_id}: the queue is full") from error

    def close(self):
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None and connection.is_open:
            try:
                connection.close()
            except AMQPConnectionError:
                pass  # It is gone, which is what was wanted.


def main():
    tarishi = Tarishi(os.environ["TARISHI_AMQP_URL"])
    # An id that means something in your system makes repeats harmless. This one is for trying out.
    job_id = sys.argv[1] if len(sys.argv) > 1 else f"try-{uuid.uuid4()}"
    tarishi.send(
        {
            "id": job_id,
            "template": "new_message",
            "to": [{"user_id": "42", "email": "asha@example.com", "locale": "sw"}],
            "data": {"sender_name": "Juma", "preview": "Bado ipo?", "conversation_id": 7, "unread_count": 1},
        }
    )
    tarishi.close()
    print(job_id)


if __name__ == "__main__":
    main()
