"""The notifications half of a Django Channels deployment, as small as it can be: who you are, your group, and one for everyone.

Kinder than what is replaced: no database, no session, no middleware, no JSON made per socket.
"""

import os
from urllib.parse import parse_qs

import django
import jwt
from django.conf import settings

settings.configure(
    SECRET_KEY="of the bench",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            # The default of 100 drops most of a burst without a word.
            "CONFIG": {"hosts": [os.environ["BENCH_REDIS"]], "capacity": 1000},
        }
    },
)
django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.layers import get_channel_layer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.http import HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402

JWT_SECRET = os.environ["BENCH_JWT_SECRET"]
EVERYONE = "all"


class Notifications(AsyncWebsocketConsumer):
    async def connect(self):
        token = parse_qs(self.scope["query_string"].decode()).get("token", [""])[0]
        try:
            claims = jwt.decode(token, JWT_SECRET, algorithms=["HS256"], options={"require": ["exp"]})
        except jwt.InvalidTokenError:
            await self.close()
            return
        # One group each, since each costs a call to Redis.
        self.group = EVERYONE if b"all=1" in self.scope["query_string"] else f"user.{claims['user_id']}"
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()

    async def disconnect(self, code):
        if hasattr(self, "group"):
            await self.channel_layer.group_discard(self.group, self.channel_name)

    async def notify(self, event):
        await self.send(text_data=event["text"])


async def publish(request, group):
    await get_channel_layer().group_send(group, {"type": "notify", "text": request.body.decode()})
    return HttpResponse(status=202, headers={"Content-Length": "0"})


urlpatterns = [path("publish/<str:group>", publish)]

application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter([path("ws/notifications/", Notifications.as_asgi())]),
    }
)
