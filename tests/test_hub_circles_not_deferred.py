"""Tables that refer to each other by foreign keys which the hub checks with each statement (the default), not at the commit.

A program makes such rows in steps: the department, its employee, then the department's manager. What travels is the outcome. Method: such
steps on a device with foreign keys on; the hub takes them, and both hold the same.
"""

import pytest
from kit.hub import carry

DEVICE = """
CREATE TABLE departments (id TEXT NOT NULL PRIMARY KEY, name TEXT, manager TEXT REFERENCES employees);
CREATE TABLE employees (id TEXT NOT NULL PRIMARY KEY, department TEXT NOT NULL REFERENCES departments, name TEXT);
"""
NEW = """
INSERT INTO departments VALUES ('d', 'sales', NULL);
INSERT INTO employees VALUES ('e', 'd', 'Awa'), ('f', 'd', 'Oumar');
UPDATE departments SET manager = 'e';
"""
ROWS = {"departments": "id, name, manager", "employees": "id, department, name"}


@pytest.fixture(params=[("", ""), ("DEFERRABLE", ""), ("", "DEFERRABLE"), ("ON DELETE SET NULL", "ON DELETE CASCADE"), ("ON DELETE RESTRICT", "ON DELETE RESTRICT")],
                ids=["plain", "deferrable manager", "deferrable department", "that act", "that restrict"])
def made(hub, client, request):
    manager, department = request.param
    hub.script(f"""
        CREATE TABLE departments (id text PRIMARY KEY, name text, manager text);
        CREATE TABLE employees (id text PRIMARY KEY, department text NOT NULL REFERENCES departments {department}, name text CHECK (name <> ''));
        ALTER TABLE departments ADD CONSTRAINT departments_manager_fkey FOREIGN KEY (manager) REFERENCES employees {manager};
    """)
    for table in ROWS:
        hub.enable(table)
    return hub, client("tablet", DEVICE, *ROWS)


def rows(side):
    return {table: side.sql(f"SELECT {columns} FROM {table} ORDER BY id") for table, columns in ROWS.items()}


def taken(hub, device):
    before = rows(device)
    for report in carry(device, hub):
        assert (report["rejected"], report["conflicts"]) == (0, 0), device.conflicts()
    assert rows(hub) == rows(device) == before
    assert hub.conflicts("open") == device.conflicts() == []


def test_a_whole_circle_comes_and_goes(made):
    hub, device = made
    device.shell("PRAGMA foreign_keys = ON;" + NEW)
    taken(hub, device)
    device.shell("PRAGMA foreign_keys = ON; UPDATE departments SET manager = NULL; DELETE FROM employees; DELETE FROM departments;")
    taken(hub, device)
    assert rows(hub) == {"departments": [], "employees": []}


def test_a_new_row_for_one_that_the_hub_has(made):
    hub, device = made
    hub.sql("INSERT INTO departments VALUES ('d', 'sales', NULL)")
    carry(device, hub)
    device.shell("PRAGMA foreign_keys = ON; INSERT INTO employees VALUES ('e', 'd', 'Awa'); UPDATE departments SET manager = 'e';")
    taken(hub, device)
    device.shell("PRAGMA foreign_keys = ON; INSERT INTO employees VALUES ('g', 'd', 'Fanta'); UPDATE departments SET manager = 'g', name = 'sale';"
                 "DELETE FROM employees WHERE id = 'e';")
    taken(hub, device)


def test_a_circle_comes_back(made, client):
    """Deleted by one, edited by another: what is still in use comes back, whole."""
    hub, device = made
    device.shell("PRAGMA foreign_keys = ON;" + NEW)
    carry(device, hub)
    other = client("other", DEVICE, *ROWS)
    carry(other, hub)
    whole = rows(hub)
    other.shell("UPDATE departments SET name = 'SALES'; UPDATE employees SET name = upper(name);")
    device.shell("DELETE FROM employees; DELETE FROM departments;")
    carry(device, hub)
    assert [report["rejected"] for report in carry(other, hub)] == [0]
    carry(device, hub)
    assert rows(hub) == rows(device) == rows(other)
    assert [row[0] for row in rows(hub)["employees"]] == [row[0] for row in whole["employees"]]
    # ON DELETE SET NULL was first: the department was without a manager when it went.
    assert rows(hub)["departments"] in ([("d", "SALES", "e")], [("d", "SALES", None)])


@pytest.mark.parametrize("count", [3, 150])
def test_one_bad_row_takes_only_its_own_circle_with_it(made, count):
    hub, device = made
    device.sql("BEGIN")
    device.db.executemany("INSERT INTO departments VALUES (?, 'x', ?)", [(f"d{at:03}", f"e{at:03}") for at in range(count)])
    device.db.executemany("INSERT INTO employees VALUES (?, ?, ?)", [(f"e{at:03}", f"d{at:03}", "" if at == 1 else "x") for at in range(count)])
    device.sql("COMMIT")
    verdict = hub.prepare(device.export())
    assert (verdict["accepted"], verdict["rejected"]) == (2 * count - 2, 2)
    report = device.apply(hub.commit(verdict["batch"]))
    assert (report["acknowledged"], report["rejected"]) == (2 * count, 2)
    assert {(entry["row_id"], entry["rule"].split()[0]) for entry in hub.conflicts()} <= {("d001", "23514"), ("e001", "23514"), ("d001", "23503"), ("e001", "23503")}
    device.script("UPDATE employees SET name = 'y' WHERE id = 'e001'; UPDATE departments SET name = 'y' WHERE id = 'd001'")
    carry(device, hub)
    assert rows(hub) == rows(device)
    assert hub.conflicts("open") == device.conflicts() == []


def test_a_ring_in_one_table_of_new_rows_and_old_ones(hub, client):
    hub.sql("CREATE TABLE places (id text PRIMARY KEY, next text REFERENCES places, note text)")
    hub.enable("places")
    hub.sql("INSERT INTO places VALUES ('a', NULL, 'x')")
    device = client("tablet", "CREATE TABLE places (id TEXT NOT NULL PRIMARY KEY, next TEXT REFERENCES places, note TEXT)", "places")
    carry(device, hub)
    device.shell("PRAGMA foreign_keys = ON; INSERT INTO places VALUES ('c', 'a', 'z'), ('b', 'c', 'y'); UPDATE places SET next = 'b' WHERE id = 'a';")
    report = carry(device, hub)[-1]
    assert (report["rejected"], report["conflicts"]) == (0, 0)
    assert hub.sql("SELECT id, next FROM places ORDER BY id") == [("a", "b"), ("b", "c"), ("c", "a")]
    device.shell("PRAGMA foreign_keys = ON; UPDATE places SET next = NULL; DELETE FROM places WHERE id <> 'a';")
    report = carry(device, hub)[-1]
    assert (report["rejected"], report["conflicts"]) == (0, 0)
    assert hub.sql("SELECT id, next FROM places") == [("a", None)]
