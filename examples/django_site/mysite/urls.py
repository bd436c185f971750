"""The pages."""

from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from . import views

urlpatterns = [
    path("", views.home, name="home"),
    path("login", LoginView.as_view(), name="login"),
    path("logout", LogoutView.as_view(), name="logout"),
    path("start", views.start, name="start"),
    path("report", views.report, name="report"),
    path("progress/<int:job_id>", views.progress, name="progress"),
    path("status/<int:job_id>", views.status, name="status"),
]
