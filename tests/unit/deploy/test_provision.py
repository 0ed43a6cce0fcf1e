import pytest
from psycopg.conninfo import conninfo_to_dict

from deploy.postgres.provision import service_url

PASSWORD = "a/b@c:d?e#f %+g"


@pytest.mark.parametrize(
    ("admin", "server"),
    [
        ("postgresql://root:pw@db:6000/postgres", {"host": "db", "port": "6000"}),
        ("postgresql:///postgres", {"host": "127.0.0.1", "port": "5432"}),
        ("postgresql://root@[2001:db8::1]:6000/x", {"host": "2001:db8::1", "port": "6000"}),
        ("postgresql://root@%2Frun%2Fpostgresql/x", {"host": "/run/postgresql", "port": "5432"}),
        (
            "postgresql://root:pw@db/x?sslmode=verify-full&sslrootcert=/etc/our%20ca.pem&passfile=/root/.pgpass",
            {"host": "db", "port": "5432", "sslmode": "verify-full", "sslrootcert": "/etc/our ca.pem"},
        ),
    ],
)
def test_a_service_logs_in_where_and_how_the_administrator_did(admin: str, server: dict[str, str]) -> None:
    url = service_url(admin, "auth", PASSWORD)
    assert conninfo_to_dict(url) == {"user": "auth", "password": PASSWORD, "dbname": "ollamamax", **server}
