from sqlalchemy import text
from store.database import Database
def test_x(database: Database) -> None:
    with database.transaction() as s:
        assert s.execute(text("select 1")).scalar() == 1
