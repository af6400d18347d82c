//! News for a device: its conflicts in their latest state.

use crate::catalog::{Column, Table};
use crate::catch::SqlError;
use crate::client::Client;
use crate::entry::{as_sent, SENT_AS};
use crate::guards::AsOwner;
use crate::keys::{self, Recorded};
use crate::schema::KeyOrders;
use crate::sql::{self, Cells, Param};
use fieldsync_core::reply::{ConflictNotice, Notice};
use fieldsync_core::value::Kind;
use fieldsync_core::{Hlc, Key, Snapshot, Value};
use serde_json::Value as Json;
use std::rc::Rc;

/// What there is to tell.
pub struct News {
    /// The notices.
    pub notices: Vec<Notice>,
    /// Rows whose entries were settled after they were raised: by table number and key. The device has values of its own
    /// there, seen by nobody's cursor; it gets the row as the hub has it, or drops it where the hub has none.
    pub settled: Vec<(i32, Key)>,
    /// The same, where the table's key has other types by now: the hub has none. And what is on the device under another spelling of
    /// such a key.
    pub gone: Vec<(i32, Key)>,
}

/// Conflicts of this client whose latest state its cursor has not seen. A device that has applied no answer yet (`no_answer_yet`)
/// hears of all: the first ones were lost. Another one without a cursor, whose history is another one, hears of what is open, of what
/// this transaction settled, and of what was settled after it was raised: it may hold it for open. A copy hears as well of what
/// was settled for those that it was copied from: it took their open entries along. The keys are in the device's own order.
pub fn conflicts(
    client: &Client,
    tables: &[Rc<Table>],
    orders: &KeyOrders,
    cursor: Option<&Snapshot>,
    no_answer_yet: bool,
    own: u64,
) -> Result<News, SqlError> {
    let rows = {
        let _owner = AsOwner::new();
        sql::read_set(
            "WITH RECURSIVE line(client_no) AS (
                 SELECT $1::integer
                 UNION
                 SELECT k.copied_from FROM line JOIN fieldsync.client k USING (client_no) WHERE k.copied_from IS NOT NULL)
             SELECT c.conflict_id, c.told, t.table_id, t.table_name::text, c.row_id, c.operation, c.base::text, c.client::text,
                    c.server::text, c.rule, c.outcome, c.detail, c.status, c.client_clock,
                    c.raised_version, c.client_no = $1, c.change ->> $5
             FROM fieldsync.conflict c JOIN fieldsync.tracked_table t USING (table_id)
             WHERE c.client_no IN (SELECT client_no FROM line)
               AND (c.client_no = $1 OR (c.status = 'resolved' AND c.told <> c.raised_version))
               AND (c.told >= $2 OR ($3 AND ($4 OR c.status = 'open' OR c.told <> c.raised_version)))
             ORDER BY c.conflict_id",
            &[
                Param::Int(i64::from(client.number)),
                Param::Int(cursor.map_or(own, |cursor| cursor.xmin) as i64),
                Param::Bool(cursor.is_none()),
                Param::Bool(no_answer_yet),
                Param::Text(SENT_AS),
            ],
        )?
    };
    let mut notices = Vec::new();
    let (mut settled, mut gone) = (Vec::new(), Vec::new());
    for row in &rows.rows {
        if cursor.is_some_and(|cursor| cursor.visible(row.int(1) as u64)) {
            continue;
        }
        // Of those before it, a copy knows what it had seen.
        if row.int(15) == 0 && cursor.is_some_and(|cursor| !cursor.visible(row.int(14) as u64)) {
            continue;
        }
        let table = tables.iter().find(|table| i64::from(table.table_id) == row.int(2));
        let row_id = row.text(4);
        let is_settled = row.text(12) == "resolved" && row.int(1) != row.int(14);
        let recorded = match table {
            Some(table) => keys::of_record(table, row_id)?,
            None => Recorded::Former(Key(vec![Value::Text(row_id.to_owned())])),
        };
        let key = match recorded {
            Recorded::Key(key) => {
                settled.extend(is_settled.then(|| (row.int(2) as i32, key.clone())));
                key
            }
            Recorded::Former(key) => {
                gone.extend(is_settled.then(|| (row.int(2) as i32, key.clone())));
                key
            }
        };
        // A record that was refused is on its device under its own spelling. Settled, it goes under that, and comes under the hub's.
        let key = match as_sent(row.text(16)) {
            Some(own) => {
                gone.extend(is_settled.then(|| (row.int(2) as i32, own.clone())));
                own
            }
            None => key,
        };
        let key = match orders.get(&(row.int(2) as i32)) {
            Some(order) => Key(order.iter().filter_map(|at| key.0.get(*at).cloned()).collect()),
            None => key,
        };
        notices.push(Notice::Conflict(Box::new(ConflictNotice {
            conflict_id: row.int(0) as u64,
            table: row.text(3).to_owned(),
            key,
            operation: row.text(5).to_owned(),
            base: as_held(table, row.text(6)),
            mine: as_held(table, row.text(7)),
            theirs: as_held(table, row.text(8)),
            rule: row.text(9).to_owned(),
            outcome: row.text(10).to_owned(),
            detail: row.text(11).to_owned(),
            status: row.text(12).to_owned(),
            clock: Hlc::from_i64(row.int(13)),
        })));
    }
    Ok(News { notices, settled, gone })
}

fn holds_json(column: &Column) -> bool {
    matches!(column.column_type.kind, Kind::Json | Kind::Jsonb)
}

/// Fields of an entry as the device holds them. It does not know which of its texts are documents: of one that is a single word, a truth
/// value or nothing, it would take the content for the value (`"7"` for `7`, `true` for 1), and a choice would send that.
fn as_held(table: Option<&Rc<Table>>, fields: &str) -> String {
    let Some(table) = table.filter(|table| table.travelling().any(|(_, column)| holds_json(column))) else {
        return fields.to_owned();
    };
    let Ok(Json::Object(mut held)) = serde_json::from_str(fields) else { return fields.to_owned() };
    let mut is_other = false;
    for (_, column) in table.travelling().filter(|(_, column)| holds_json(column)) {
        let Some(document) = held.get_mut(&column.name) else { continue };
        let is_misread = match document {
            Json::String(_) | Json::Bool(_) => true,
            Json::Null => column.not_null,
            Json::Number(_) | Json::Array(_) | Json::Object(_) => false,
        };
        if is_misread {
            *document = Json::String(document.to_string());
            is_other = true;
        }
    }
    match is_other {
        true => Json::Object(held).to_string(),
        false => fields.to_owned(),
    }
}
