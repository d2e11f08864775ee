"""Paths of people, and of what they are in projects."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy import select

from tunesmith.service.auth.gate import Admin, Member, Operator
from tunesmith.service.context import InContext
from tunesmith.service.db.tables.accounts import USERS
from tunesmith.service.lists import listed as as_list
from tunesmith.service.lists import page
from tunesmith.service.projects import people
from tunesmith.service.projects.schema import (
    MemberChange,
    NewMember,
    NewUser,
    UserChange,
    member_answer,
    user_answer,
)

Limit = Annotated[int, Query(ge=1, le=1000)]


def users_router() -> APIRouter:
    """People who may sign in: the service's, and not any project's."""
    router = APIRouter(prefix="/users", tags=["users"])

    @router.post("")
    def create(body: NewUser, context: InContext, caller: Operator) -> dict[str, Any]:
        return user_answer(context.settings, people.create_user(context, caller, body.model_dump()))

    @router.get("")
    def listed(context: InContext, _: Operator, after: str | None = None, limit: Limit = 100) -> dict[str, Any]:
        told = partial(user_answer, context.settings)
        with context.database.read() as connection:
            return page(connection, select(USERS), USERS.c.id, told, after=after, limit=limit)

    @router.post("/{user_id}")
    def change(user_id: str, body: UserChange, context: InContext, caller: Operator) -> dict[str, Any]:
        changed = people.change_user(context, caller, user_id, body.model_dump(exclude_unset=True))
        return user_answer(context.settings, changed)

    return router


def members_router() -> APIRouter:
    """People in a project."""
    router = APIRouter(prefix="/projects/{project_id}/members", tags=["projects"])

    @router.get("")
    def listed(project_id: str, context: InContext, caller: Member) -> dict[str, Any]:
        with context.database.read() as connection:
            return as_list([member_answer(row) for row in people.members_of(connection, caller, project_id)])

    @router.post("")
    def add(project_id: str, body: NewMember, context: InContext, caller: Admin) -> dict[str, Any]:
        who = body.model_dump(include={"user_id", "email"}, exclude_none=True)
        return member_answer(people.add_member(context, caller, project_id, who, body.role))

    @router.post("/{user_id}")
    def change(project_id: str, user_id: str, body: MemberChange, context: InContext, caller: Admin) -> dict[str, Any]:
        return member_answer(people.change_member(context, caller, project_id, user_id, body.role))

    @router.delete("/{user_id}")
    def remove(project_id: str, user_id: str, context: InContext, caller: Admin) -> dict[str, Any]:
        people.remove_member(context, caller, project_id, user_id)
        return {"id": user_id, "object": "project.member.deleted", "deleted": True}

    return router
