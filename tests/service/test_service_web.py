"""The login of a browser, through either backend."""

from __future__ import annotations

import os

import pytest
from door import Door

from ugro.common.errors import InputError
from ugro.service.schemas.queries import Status
from ugro.service.schemas.web import Login, Role
from ugro.service.web_door import CODES_KEPT, NotServed, WebDoor


def test_gives_no_link_where_no_dashboard_is_served(door: Door) -> None:
    with pytest.raises(InputError, match="no dashboard is served") as caught:
        door.call(Login())
    assert caught.value.hint == "start the resident controller: ugro serve"


def test_says_why_the_resident_controller_serves_none(door: Door) -> None:
    assert door.call(Status()).no_dashboard == ""
    door.serve(NotServed("port 8470 is in use at 127.0.0.1", missed=True))
    assert door.call(Status()).no_dashboard == "port 8470 is in use at 127.0.0.1"
    with pytest.raises(InputError, match="without a dashboard: port 8470 is in use") as caught:
        door.call(Login())
    assert f"`kill {os.getpid()}`" in caught.value.hint and "ugro serve --listen 127.0.0.1:0" in caught.value.hint
    door.serve(NotServed("it was started with --no-http"))
    assert door.call(Status()).no_dashboard == "", "it was meant so"


def test_gives_a_link_that_logs_in_once(door: Door) -> None:
    web = WebDoor("http://127.0.0.1:8470", "127.0.0.1", 8470)
    door.serve(web)
    link = door.call(Login(role=Role.VIEW))
    assert link.url.startswith("http://127.0.0.1:8470/#t=") and (link.host, link.port) == ("127.0.0.1", 8470)
    code = link.url.partition("#t=")[2]
    assert web.redeem(code) == Role.VIEW and web.redeem(code) is None


def test_codes_are_few_and_short_lived() -> None:
    now = [0.0]
    web = WebDoor("", "", 0, lambda: now[0])
    codes = [web.mint(Role.OPERATE) for _ in range(CODES_KEPT + 1)]
    assert web.redeem(codes[0]) is None and web.redeem(codes[1]) == Role.OPERATE
    now[0] = 60.0
    assert web.redeem(codes[2]) is None and web.redeem("") is None
