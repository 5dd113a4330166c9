"""The replaced system's chat on a real PostgreSQL (PGHOST, PGPORT, PGUSER, PGDATABASE), as small as it can be.

Usage: django_chat.py fill MESSAGES SECRET_KEY MESSAGE_ENCRYPTION_KEY
       django_chat.py dumpdata FORMAT FILE

Message N is in conversation N % 7 + 1, says `text(N)`, and is stored in the form that N % 3 chooses: as Base64 around a token, as a token, or
plainly. The tokens of the first half are from before there was a key, made with the one derived from SECRET_KEY. Every tenth is deleted, and
every eleventh a reply to the one seven before it. Messages 50 and 53 are sealed with a key that nobody has any more.
"""

import base64
import hashlib
import os
import sys
from datetime import datetime, timedelta, timezone

import django
from cryptography.fernet import Fernet
from django.conf import settings
from django.core.management import call_command

settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": os.environ["PGDATABASE"],
            "USER": os.environ["PGUSER"],
            "HOST": os.environ["PGHOST"],
            "PORT": os.environ["PGPORT"],
        }
    },
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "communications"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
    TIME_ZONE="Africa/Dar_es_Salaam",
    LOGGING_CONFIG=None,
)
django.setup()

from communications.models import Conversation, Message, Notification  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402

START = datetime(2024, 1, 15, 10, 30, tzinfo=timezone.utc)
UNREADABLE = (50, 53)


def text(number):
    return f"Ujumbe {number}: \"nyumba\" 'ipo'?\n\t\\N \\. {number * number} 🏠"


def derived(secret_key):
    return base64.urlsafe_b64encode(hashlib.sha256(secret_key.encode()).digest())


def stored(number, fernet):
    if number % 3 == 2 and number not in UNREADABLE:
        return text(number)
    token = fernet.encrypt(text(number).encode())
    return (base64.b64encode(token) if number % 3 == 0 else token).decode()


def fill(count, secret_key, key):
    # Its own tables point at those of the users.
    call_command("migrate", verbosity=0)
    call_command("migrate", run_syncdb=True, verbosity=0)
    users = [User(id=id, username=f"user{id}", password="!") for id in range(1, 9)]
    User.objects.bulk_create(users)
    conversations = [
        Conversation(
            id=id,
            user_id=id,
            agent_id=8,
            property_id=None if id == 3 else 100 + id,
            is_active=id != 2,
            created_at=START,
            updated_at=START,
        )
        for id in range(1, 8)
    ]
    Conversation.objects.bulk_create(conversations)
    old, new, lost = Fernet(derived(secret_key)), Fernet(key), Fernet(Fernet.generate_key())
    messages = []
    for number in range(1, count + 1):
        conversation = number % 7 + 1
        fernet = lost if number in UNREADABLE else old if number * 2 <= count else new
        messages.append(
            Message(
                id=number,
                conversation_id=conversation,
                sender_id=8 if number % 2 else conversation,
                text=stored(number, fernet),
                is_deleted=number % 10 == 0 and number not in UNREADABLE,
                reply_to_id=number - 7 if number % 11 == 0 and number > 7 else None,
                created_at=START + timedelta(seconds=number),
            )
        )
    Message.objects.bulk_create(messages, batch_size=5000)
    now = datetime.now(timezone.utc)
    Notification.objects.bulk_create(
        Notification(
            id=number,
            user_id=number % 7 + 1,
            title="Ujumbe mpya",
            message=f"It's {number}",
            type="success" if number % 2 else "booking",
            is_read=number % 3 == 0,
            created_at=now - timedelta(days=400 if number == 1 else 1),
            related_object_id=str(number),
            related_object_type="conversation",
            data={"number": number},
        )
        for number in range(1, 21)
    )
    # Rows that are changed move to the end of their table.
    Message.objects.filter(id__lte=count // 2).update(is_read=True, read_at=START)


match sys.argv[1:]:
    case ["fill", count, secret_key, key]:
        fill(int(count), secret_key, key)
    case ["dumpdata", format, file]:
        call_command("dumpdata", "communications", "auth.user", format=format, output=file)
    case _:
        sys.exit(__doc__)
