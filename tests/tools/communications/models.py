"""Named and typed as there."""

from django.conf import settings
from django.db import models

CASCADE = models.CASCADE


class Conversation(models.Model):
    user = models.ForeignKey(settings.AUTH_USER_MODEL, CASCADE, related_name="as_user")
    agent = models.ForeignKey(settings.AUTH_USER_MODEL, CASCADE, related_name="as_agent")
    property_id = models.BigIntegerField(null=True)
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()


class Message(models.Model):
    conversation = models.ForeignKey(Conversation, CASCADE)
    sender = models.ForeignKey(settings.AUTH_USER_MODEL, CASCADE)
    text = models.TextField()
    is_read = models.BooleanField(default=False)
    read_at = models.DateTimeField(null=True)
    reply_to = models.ForeignKey("self", models.SET_NULL, null=True)
    is_deleted = models.BooleanField(default=False)
    created_at = models.DateTimeField()
    spam_score = models.FloatField(default=0)


class Notification(models.Model):
    user = models.ForeignKey(settings.AUTH_USER_MODEL, CASCADE)
    title = models.CharField(max_length=255)
    message = models.TextField()
    type = models.CharField(max_length=50)
    is_read = models.BooleanField(default=False)
    created_at = models.DateTimeField()
    related_object_id = models.CharField(max_length=50, null=True)
    related_object_type = models.CharField(max_length=50, null=True)
    data = models.JSONField(default=dict)
