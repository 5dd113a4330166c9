"""The smallest Django project there is, around docs/enqueue/django_tarishi.py: django_project.py ID

Ends with 1 when the helper logged that a job is lost.
"""

import logging
import os
import sys
from contextlib import suppress

import django
from django.conf import settings
from django.db import transaction

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"],
    TARISHI_AMQP_URL=os.environ["TARISHI_AMQP_URL"],
    TARISHI_URL=os.environ.get("TARISHI_URL"),
    TARISHI_TIMEOUT=30,
    LOGGING_CONFIG=None,
)
django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django_tarishi import notify  # noqa: E402


class Undone(Exception):
    pass


def main():
    logging.basicConfig(format="%(levelname)s %(name)s %(message)s")
    errors = []
    logging.getLogger("tarishi").addFilter(lambda record: record.levelno < logging.ERROR or errors.append(record) or True)
    user = User(pk=42, email="asha@example.com")
    data = {"sender_name": "Juma", "preview": "Bado ipo?", "conversation_id": 7, "unread_count": 1}
    with suppress(Undone), transaction.atomic():
        notify(f"{sys.argv[1]}-undone", "new_message", to=user, data=data)
        raise Undone
    with transaction.atomic():
        notify(sys.argv[1], "new_message", to=[user], data=data, priority="high")
        print("not committed yet", flush=True)
    print(sys.argv[1])
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
