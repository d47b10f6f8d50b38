"""The URLs of the site: its pages, and the service."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path
from django.views.generic import TemplateView
from users.v1.users_connect import UserServiceWSGIApplication

from website.service import Authentication, Users
from wsgi_adapters.django import connect_path

urlpatterns = [
    path("", login_required(TemplateView.as_view(template_name="home.html")), name="home"),
    path("login/", LoginView.as_view(template_name="login.html"), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    connect_path(UserServiceWSGIApplication(Users(), interceptors=[Authentication()])),
]
