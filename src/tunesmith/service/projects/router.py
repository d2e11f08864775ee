"""Paths of projects, quotas and keys."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from tunesmith.service.auth.gate import Admin, Member, Operator
from tunesmith.service.context import InContext
from tunesmith.service.db.tables.accounts import API_KEYS, PROJECTS
from tunesmith.service.lists import page
from tunesmith.service.projects import keys, projects
from tunesmith.service.projects.schema import (
    NewKey,
    NewProject,
    ProjectChange,
    key_answer,
    project_answer,
    quotas_answer,
)

Limit = Annotated[int, Query(ge=1, le=1000)]
_PAGE = 100


def projects_router() -> APIRouter:
    """Projects: made and removed by whoever runs the service, changed in part by their owners."""
    router = APIRouter(prefix="/projects", tags=["projects"])

    @router.post("")
    def create(body: NewProject, context: InContext, caller: Operator) -> dict[str, Any]:
        return project_answer(projects.create_project(context, caller, body.model_dump()))

    @router.get("")
    def listed(context: InContext, caller: Member, after: str | None = None, limit: Limit = _PAGE) -> dict[str, Any]:
        with context.database.read() as connection:
            query = projects.projects_of(caller)
            return page(connection, query, PROJECTS.c.id, project_answer, after=after, limit=limit)

    @router.get("/{project_id}")
    def one(project_id: str, context: InContext, caller: Member) -> dict[str, Any]:
        with context.database.read() as connection:
            return project_answer(projects.find_project(connection, caller, project_id))

    @router.post("/{project_id}")
    def change(project_id: str, body: ProjectChange, context: InContext, caller: Admin) -> dict[str, Any]:
        given = body.model_dump(exclude_unset=True)
        # A project is never without these.
        values = {key: value for key, value in given.items() if value is not None or key != "name"}
        return project_answer(projects.change_project(context, caller, project_id, values))

    @router.post("/{project_id}/archive")
    def archive(project_id: str, context: InContext, caller: Operator) -> dict[str, Any]:
        return project_answer(projects.archive_project(context, caller, project_id, archived=True))

    @router.post("/{project_id}/restore")
    def restore(project_id: str, context: InContext, caller: Operator) -> dict[str, Any]:
        return project_answer(projects.archive_project(context, caller, project_id, archived=False))

    @router.delete("/{project_id}")
    def remove(project_id: str, context: InContext, caller: Operator) -> dict[str, Any]:
        projects.delete_project(context, caller, project_id)
        return {"id": project_id, "object": "project.deleted", "deleted": True}

    @router.get("/{project_id}/quotas")
    def quotas(project_id: str, context: InContext, caller: Member) -> dict[str, Any]:
        with context.database.read() as connection:
            row = projects.find_project(connection, caller, project_id)
            return quotas_answer(row, projects.use_of(context, connection, row))

    return router


def keys_router() -> APIRouter:
    """Keys of the project that the caller asks for."""
    router = APIRouter(prefix="/keys", tags=["keys"])

    @router.post("")
    def create(body: NewKey, context: InContext, caller: Member) -> dict[str, Any]:
        row, secret = keys.create_key(
            context,
            caller,
            body.name,
            body.scope,
            expires_seconds=body.expires_seconds,
            operator=body.operator,
        )
        return key_answer(row, secret)

    @router.get("")
    def listed(
        context: InContext,
        caller: Member,
        after: str | None = None,
        limit: Limit = _PAGE,
        operator: bool = False,
    ) -> dict[str, Any]:
        query = keys.keys_of(caller, of_operators=operator)
        with context.database.read() as connection:
            return page(connection, query, API_KEYS.c.id, key_answer, after=after, limit=limit)

    @router.delete("/{key_id}")
    def revoke(key_id: str, context: InContext, caller: Member) -> dict[str, Any]:
        return key_answer(keys.revoke_key(context, caller, key_id))

    return router
