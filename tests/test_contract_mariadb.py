"""MariaDB keeps the contract over a driver for each door, and the parts about claims over an async one for both."""

from __future__ import annotations

from server_contract import OnServer
from sitq.testing import BackendContract
from sitq.testing.finishing import FinishingContract
from sitq.testing.opening import OpeningContract


class TestBothDrivers(OnServer, BackendContract):
    kind = "mariadb"
    driver = "mariadb"


class TestAsyncmy(OnServer, FinishingContract, OpeningContract):
    kind = "mariadb"
    driver = "mariadb+asyncmy"
