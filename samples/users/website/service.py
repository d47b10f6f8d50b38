"""The service: its handlers, and the interceptor that lets in who has logged in."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from users.v1 import users_pb2 as pb
from users.v1.users_connect import UserService

from connect_sync import Code, ConnectError, RequestContext
from wsgi_adapters.django import current_request

_FOR_STAFF = {"CreateUser", "ImportUsers"}
_IMPORT_MAX = 1000


class Users(UserService):
    """Handles calls with Django's models, under Django's middleware."""

    def who_am_i(self, request: pb.WhoAmIRequest, ctx: RequestContext) -> pb.User:
        """Return the user of the session."""
        return to_message(current_user())

    def create_user(self, request: pb.User, ctx: RequestContext) -> pb.User:
        """Create one user."""
        return to_message(create(request))

    def list_users(self, request: pb.ListUsersRequest, ctx: RequestContext) -> Iterator[pb.User]:
        """Yield the users while they come from the database."""
        for user in User.objects.order_by("username").iterator(chunk_size=100):
            yield to_message(user)

    def import_users(self, request: Iterator[pb.User], ctx: RequestContext) -> pb.ImportUsersResponse:
        """Create users in one transaction, once all of them have come.

        A client may take its time. With SQLite nobody else could write while a transaction waits for it.
        """
        messages = list(islice(request, _IMPORT_MAX + 1))
        if len(messages) > _IMPORT_MAX:
            raise ConnectError(Code.RESOURCE_EXHAUSTED, f"{_IMPORT_MAX} users may be imported at a time")
        with transaction.atomic():
            for message in messages:
                create(message)
        return pb.ImportUsersResponse(count=len(messages))


class Authentication:
    """Refuses calls of every kind to those who have not logged in, and some to those who are not staff."""

    def on_start(self, ctx: RequestContext) -> None:
        """Look at the user of the session; what is raised is the answer to the call."""
        user = current_user()
        if ctx.method().name in _FOR_STAFF and not user.is_staff:
            raise ConnectError(Code.PERMISSION_DENIED, f"{ctx.method().name} is for staff")


def current_user() -> User:
    """Return the user of the session; refuse the call where there is none."""
    user = current_request().user
    if not isinstance(user, User):
        raise ConnectError(Code.UNAUTHENTICATED, "log in first")
    return user


def create(message: pb.User) -> User:
    """Create a user who cannot log in before somebody sets a password."""
    user = User(username=message.name, email=message.email, is_staff=message.is_staff)
    user.set_unusable_password()
    try:
        user.full_clean(validate_unique=False)
        # A transaction of its own, or the one around it could not go on when this fails.
        with transaction.atomic():
            user.save()
    except ValidationError as error:
        raise ConnectError(Code.INVALID_ARGUMENT, f"{message.name!r}: {' '.join(error.messages)}") from error
    except IntegrityError as error:
        raise ConnectError(Code.ALREADY_EXISTS, f"{message.name!r} is there already") from error
    return user


def to_message(user: User) -> pb.User:
    """Return a user as a message."""
    return pb.User(name=user.username, email=user.email, is_staff=user.is_staff)
