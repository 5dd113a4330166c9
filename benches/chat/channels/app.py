"""The chat of a Django Channels deployment, as small as it can be: who you are, the conversation's group, and each message stored.

Kinder than what is replaced: no membership looked up, nothing sealed, no session, no middleware, one row a message.
"""

import json
import os
from urllib.parse import parse_qs

import django
import jwt
from django.conf import settings

settings.configure(
    SECRET_KEY="of the bench",
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["channels"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ["BENCH_DATABASE"],
            "OPTIONS": {"init_command": "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL"},
        }
    },
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            # The default of 100 drops most of a burst without a word.
            "CONFIG": {"hosts": [os.environ["BENCH_REDIS"]], "capacity": 1000},
        }
    },
    USE_TZ=True,
)
django.setup()

from channels.db import database_sync_to_async  # noqa: E402
from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.db import connection, models  # noqa: E402
from django.urls import path  # noqa: E402

JWT_SECRET = os.environ["BENCH_JWT_SECRET"]


class Message(models.Model):
    conversation_id = models.IntegerField()
    sender_id = models.IntegerField()
    text = models.TextField()
    is_read = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        app_label = "chat"


with connection.schema_editor() as editor:
    editor.create_model(Message)


class Chat(AsyncWebsocketConsumer):
    async def connect(self):
        token = parse_qs(self.scope["query_string"].decode()).get("token", [""])[0]
        try:
            claims = jwt.decode(token, JWT_SECRET, algorithms=["HS256"], options={"require": ["exp"]})
        except jwt.InvalidTokenError:
            await self.close()
            return
        self.user = int(claims["user_id"])
        self.conversation = self.scope["url_route"]["kwargs"]["conversation"]
        self.group = f"chat.{self.conversation}"
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()

    async def disconnect(self, code):
        if hasattr(self, "group"):
            await self.channel_layer.group_discard(self.group, self.channel_name)

    async def receive(self, text_data=None, bytes_data=None):
        text = json.loads(text_data)["content"]
        message = await self.store(text)
        shown = {
            "id": message.id,
            "sender_id": self.user,
            "content": text,
            "is_read": False,
            "created_at": message.created_at.isoformat(),
        }
        await self.channel_layer.group_send(self.group, {"type": "chat.message", "message": shown})

    @database_sync_to_async
    def store(self, text):
        return Message.objects.create(conversation_id=self.conversation, sender_id=self.user, text=text)

    async def chat_message(self, event):
        await self.send(text_data=json.dumps({"type": "message", "message": event["message"]}))


application = ProtocolTypeRouter({"websocket": URLRouter([path("ws/chat/<int:conversation>/", Chat.as_asgi())])})
