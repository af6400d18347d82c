//! What a table of the application looks like: columns, key, and everything that makes rows unique.

use crate::error::{Error, Result};
use crate::sql::{bind, bind_as_text, quote, still_whole};
use fieldsync_core::{Key, Value};
use rusqlite::{Connection, OptionalExtension};

/// How SQLite's own modules (FTS3 to FTS5, R-tree) end the names of the tables behind a virtual table.
const SHADOW_PARTS: [&str; 11] =
    ["content", "data", "idx", "docsize", "config", "segments", "segdir", "stat", "node", "parent", "rowid"];

/// Of each column the log keeps two values side by side, and no SQLite table has more than 2000 columns.
const COLUMNS_MAX: usize = 950;

/// One column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name as declared.
    pub name: String,
    /// Its declared type, upper case.
    pub declared: String,
    /// NOT NULL.
    pub not_null: bool,
    /// 1 and up for the parts of the primary key, 0 otherwise.
    pub key_part: usize,
    /// Computed by SQLite: never logged, never sent.
    pub generated: bool,
    /// Its default as SQL text.
    pub default: Option<String>,
}

/// Something that makes rows unique besides the primary key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unique {
    /// Its terms, each as SQL over bare column names, with the collation that the index uses.
    pub terms: Vec<Term>,
    /// For a partial index: its condition as SQL over bare column names.
    pub condition: Option<String>,
}

/// One term of a unique index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// The column's name, or none for an expression.
    pub column: Option<String>,
    /// The expression's SQL, or none for a column.
    pub expression: Option<String>,
    /// The collation.
    pub collation: String,
}

/// How a row can be in the way of another.
#[derive(Debug, Clone)]
pub struct InTheWay {
    /// SQL over the columns of the row and the values of the new one.
    pub condition: String,
    /// The quoted columns that it looks at; none: possibly all.
    pub columns: Option<Vec<String>>,
}

/// One table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its name as declared.
    pub name: String,
    /// Its columns by position.
    pub columns: Vec<Column>,
    /// The key is the rowid (`INTEGER PRIMARY KEY`).
    pub key_is_rowid: bool,
    /// The collations by which the primary key's index tells keys apart, by column; none for a rowid. They need not be the columns' own.
    key_collations: Vec<(String, String)>,
    /// Unique indexes other than the primary key's.
    pub uniques: Vec<Unique>,
    /// A constraint in the schema itself replaces rows (`ON CONFLICT REPLACE`).
    pub replaces_by_itself: bool,
    /// Everything that triggers are made for, as text: two equal texts need no new triggers.
    pub signature: String,
}

/// Affinities as SQLite derives them from the declared type (section 3.1 of its page on datatypes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affinity {
    /// INT
    Integer,
    /// CHAR, CLOB, TEXT
    Text,
    /// BLOB or no type
    Blob,
    /// REAL, FLOA, DOUB
    Real,
    /// anything else
    Numeric,
}

impl Column {
    /// The column's affinity.
    pub fn affinity(&self) -> Affinity {
        let has = |part: &str| self.declared.contains(part);
        if has("INT") {
            Affinity::Integer
        } else if has("CHAR") || has("CLOB") || has("TEXT") {
            Affinity::Text
        } else if has("BLOB") || self.declared.is_empty() {
            Affinity::Blob
        } else if has("REAL") || has("FLOA") || has("DOUB") {
            Affinity::Real
        } else {
            Affinity::Numeric
        }
    }

    /// Its default as an expression that means the same anywhere. After DEFAULT a bare or quoted name is a text; elsewhere SQLite
    /// looks for a column of that name.
    pub fn default_value(&self) -> Option<String> {
        let default = self.default.as_deref()?;
        let known = |word: &str| {
            ["null", "true", "false", "current_time", "current_date", "current_timestamp"]
                .iter()
                .any(|known| word.eq_ignore_ascii_case(known))
        };
        let is_name = |word: &str| word.starts_with(|first: char| !first.is_ascii_digit() && first != '\'');
        Some(match tokens(default)[..] {
            [word] if is_name(word) && !known(word) => format!("'{}'", unquoted(word).replace('\'', "''")),
            _ => format!("({default}\n)"), // the line ends a comment that the default may end in
        })
    }
}

impl Column {
    /// The value as the column holds it, if that is another one: SQLite makes numbers of text, and text of numbers, as it stores.
    pub fn stored(&self, db: &Connection, value: &Value) -> Result<Option<Value>> {
        if self.declared == "ANY" {
            return Ok(None);
        }
        Ok(match (self.affinity(), value) {
            (Affinity::Text, Value::Int(number)) => Some(Value::Text(number.to_string())),
            (Affinity::Text, Value::Real(number)) => {
                Some(Value::Text(db.query_row("SELECT CAST(?1 AS TEXT)", [number], |row| row.get(0))?))
            }
            (Affinity::Real, Value::Int(number)) => Some(Value::Real(*number as f64)),
            (affinity @ (Affinity::Integer | Affinity::Numeric | Affinity::Real), Value::Text(text)) => {
                let plain = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E');
                let text = text.trim_matches(|c: char| c.is_ascii_whitespace());
                match (text.parse::<i64>(), text.parse::<f64>()) {
                    (Ok(number), _) if affinity != Affinity::Real => Some(Value::Int(number)),
                    (_, Ok(number)) if text.chars().all(plain) && affinity == Affinity::Real => {
                        Some(Value::Real(number))
                    }
                    (_, Ok(number)) if text.chars().all(plain) => Some(whole(number).unwrap_or(Value::Real(number))),
                    _ => None,
                }
            }
            (Affinity::Integer | Affinity::Numeric, Value::Real(number)) => whole(*number),
            _ => None,
        })
    }
}

/// A number without a fraction, as an integer.
fn whole(number: f64) -> Option<Value> {
    (number.fract() == 0.0 && number.abs() < 9.0e15).then_some(Value::Int(number as i64))
}

impl Table {
    /// Reads a table's schema. `None`: there is no such table in the main database.
    pub fn read(db: &Connection, name: &str) -> Result<Option<Table>> {
        let found: Option<(String, String, Option<String>)> = db
            .prepare_cached(
                "SELECT name, type, sql FROM main.sqlite_master WHERE type IN ('table', 'view') AND name = ?1 COLLATE NOCASE",
            )?
            .query_row([name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let Some((name, kind, sql)) = found else { return Ok(None) };
        let sql = sql.unwrap_or_default();
        let refuse = |reason: &str| Err(Error::Untrackable { table: name.clone(), reason: reason.into() });
        if kind == "view" {
            return refuse("it is a view; track the tables under it");
        }
        let words = tokens(&sql);
        if words.get(1).is_some_and(|word| word.eq_ignore_ascii_case("virtual")) {
            return refuse(
                "it is a virtual table, whose rows SQLite does not show to triggers; track the table that feeds it",
            );
        }
        if is_shadow(db, &name)? {
            return refuse("it is where a virtual table (a full-text index, say) keeps its own data; track the table that feeds it");
        }
        let mut columns = Vec::new();
        let mut statement = db.prepare_cached(
            "SELECT name, upper(type), \"notnull\", pk, hidden, dflt_value FROM pragma_table_xinfo(?1, 'main') ORDER BY cid",
        )?;
        let mut rows = statement.query([&name])?;
        while let Some(row) = rows.next()? {
            let hidden: i64 = row.get(4)?;
            columns.push(Column {
                name: row.get(0)?,
                declared: row.get(1)?,
                not_null: row.get(2)?,
                key_part: row.get::<_, i64>(3)? as usize,
                generated: hidden != 0,
                default: row.get(5)?,
            });
        }
        let mut table = Table {
            name,
            columns,
            key_is_rowid: true,
            key_collations: Vec::new(),
            uniques: Vec::new(),
            replaces_by_itself: words.windows(3).any(|w| {
                w[0].eq_ignore_ascii_case("on")
                    && w[1].eq_ignore_ascii_case("conflict")
                    && w[2].eq_ignore_ascii_case("replace")
            }),
            signature: sql,
        };
        table.read_uniques(db)?;
        still_whole(db)?;
        Ok(Some(table))
    }

    /// The same, where it does not matter why a table cannot be tracked: a view by that name, say, is no table. Other errors stay
    /// errors: one that is passed over may have taken the transaction back ([`still_whole`]).
    pub fn read_plain(db: &Connection, name: &str) -> Result<Option<Table>> {
        match Table::read(db, name) {
            Err(Error::Untrackable { .. }) => Ok(None),
            read => read,
        }
    }

    fn read_uniques(&mut self, db: &Connection) -> Result<()> {
        let mut statement = db.prepare_cached(
            "SELECT l.name, l.origin, l.partial, m.sql FROM pragma_index_list(?1, 'main') l
             LEFT JOIN main.sqlite_master m ON m.type = 'index' AND m.name = l.name
             WHERE l.\"unique\" ORDER BY l.name",
        )?;
        let mut rows = statement.query([&self.name])?;
        while let Some(row) = rows.next()? {
            let (index, origin, partial): (String, String, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let sql: Option<String> = row.get(3)?;
            if origin == "pk" {
                self.key_is_rowid = false;
                let mut columns = db
                    .prepare_cached("SELECT name, coll FROM pragma_index_xinfo(?1, 'main') WHERE key ORDER BY seqno")?;
                let parts = columns.query_map([&index], |part| Ok((part.get(0)?, part.get(1)?)))?;
                self.key_collations = parts.collect::<rusqlite::Result<_>>()?;
                continue;
            }
            let sql = sql.unwrap_or_default();
            let (expressions, condition) = index_parts(&sql);
            let mut terms = Vec::new();
            let mut columns = db.prepare_cached(
                "SELECT cid, name, coll, seqno FROM pragma_index_xinfo(?1, 'main') WHERE key ORDER BY seqno",
            )?;
            let mut parts = columns.query([&index])?;
            while let Some(part) = parts.next()? {
                let (cid, name): (i64, Option<String>) = (part.get(0)?, part.get(1)?);
                let collation: Option<String> = part.get(2)?;
                let place = part.get::<_, i64>(3)? as usize;
                let expression = if cid == -2 { expressions.get(place).cloned() } else { None };
                let name = if cid == -1 { Some("rowid".to_owned()) } else { name };
                terms.push(Term { column: name, expression, collation: collation.unwrap_or_else(|| "BINARY".into()) });
            }
            self.signature.push_str(";\n");
            self.signature.push_str(&sql);
            self.uniques.push(Unique { terms, condition: condition.filter(|_| partial) });
        }
        Ok(())
    }

    /// The key's columns, in the key's order.
    pub fn key(&self) -> Vec<&Column> {
        let mut key: Vec<&Column> = self.columns.iter().filter(|column| column.key_part > 0).collect();
        key.sort_by_key(|column| column.key_part);
        key
    }

    /// What is true of the row with a key whose parts are bound from 1 on.
    pub fn key_condition(&self, db: &Connection) -> Result<String> {
        let parts: Result<Vec<String>> = self
            .key()
            .iter()
            .enumerate()
            .map(|(at, part)| self.key_part_is(db, part, &format!("?{}", at + 1)))
            .collect();
        Ok(parts?.join(" AND "))
    }

    /// What is true of rows whose key has this value in one of its parts: as the key's index compares, or one key could name two rows, or a
    /// row in the way not be seen.
    pub fn key_part_is(&self, db: &Connection, part: &Column, value: &str) -> Result<String> {
        Ok(format!("{} = {value}{}", quote(db, &part.name)?, self.key_collation(db, part)?))
    }

    /// The collation of the key's index for a part of the key, as SQL after a value.
    pub fn key_collation(&self, db: &Connection, part: &Column) -> Result<String> {
        match self.key_collations.iter().find(|(column, _)| *column == part.name) {
            Some((_, collation)) => Ok(format!(" COLLATE {}", quote(db, collation)?)),
            None => Ok(String::new()),
        }
    }

    /// Whether it has a row of this key; none where its key is not what it was.
    pub fn has(&self, db: &Connection, key: &Key) -> Result<Option<bool>> {
        if self.key().len() != key.0.len() {
            return Ok(None);
        }
        let sql = format!("SELECT 1 FROM {} WHERE {}", self.qualified(db)?, self.key_condition(db)?);
        let mut statement = db.prepare_cached(&sql)?;
        bind(&mut statement, 1, &key.0)?;
        let found = statement.raw_query().next()?.is_some();
        Ok(Some(found || (bind_as_text(&mut statement, key)? && statement.raw_query().next()?.is_some())))
    }

    /// Refuses what cannot be tracked.
    pub fn check_trackable(&self) -> Result<()> {
        let refuse = |reason: &str| Err(Error::Untrackable { table: self.name.clone(), reason: reason.into() });
        let lower = self.name.to_ascii_lowercase();
        if lower.starts_with("sqlite_") || lower.starts_with("fs_") {
            return refuse("names that begin with sqlite_ or fs_ belong to SQLite and to fieldsync");
        }
        if self.key().is_empty() {
            return refuse("it has no PRIMARY KEY, so its rows have no identity that the hub could know; give it one");
        }
        if self.key().iter().any(|column| column.generated) {
            return refuse("its PRIMARY KEY is a generated column, which no other database can write");
        }
        if self.columns.len() > COLUMNS_MAX {
            let count = self.columns.len();
            return refuse(&format!("it has {count} columns, and at most {COLUMNS_MAX} can be followed; split it"));
        }
        Ok(())
    }

    /// Conditions under which a row of the table is in the way of a new one: by the primary key first, then by every other
    /// unique index. `new` gives the SQL of the new row's value of a (quoted) column.
    pub fn in_the_way(&self, db: &Connection, new: impl Fn(&str) -> String) -> Result<Vec<InTheWay>> {
        let key = self.key().iter().map(|part| quote(db, &part.name)).collect::<Result<Vec<_>>>()?;
        let same_key = self.key().into_iter().zip(&key).map(|(part, quoted)| self.key_part_is(db, part, &new(quoted)));
        let same_key = same_key.collect::<Result<Vec<_>>>()?;
        let mut found = vec![InTheWay { condition: same_key.join(" AND "), columns: Some(key) }];
        let all = self.columns.iter().map(|column| quote(db, &column.name)).collect::<Result<Vec<_>>>()?;
        let new_row: Vec<String> = all.iter().map(|column| format!("{} AS {column}", new(column))).collect();
        let table = quote(db, &self.name)?;
        // Expressions name columns without a row: in a subquery of the new row they mean its values.
        let of_new = |sql: &str| format!("(SELECT {sql} FROM (SELECT {}) AS {table})", new_row.join(", "));
        for unique in &self.uniques {
            let mut conditions = Vec::new();
            let mut columns = Some(Vec::new());
            for term in &unique.terms {
                let collation = quote(db, &term.collation)?;
                match (&term.column, &term.expression) {
                    (Some(name), _) => {
                        let column = quote(db, name)?;
                        conditions.push(format!("{column} = {} COLLATE {collation}", new(&column)));
                        if self.columns.iter().any(|known| known.generated && known.name == *name) {
                            columns = None; // no SET names it: it follows from others
                        } else if let Some(columns) = &mut columns {
                            columns.push(column);
                        }
                    }
                    (None, expression) => {
                        let expression = format!("({})", expression.as_deref().unwrap_or("NULL"));
                        conditions.push(format!("{expression} = {} COLLATE {collation}", of_new(&expression)));
                        columns = None;
                    }
                }
            }
            if let Some(condition) = &unique.condition {
                let condition = format!("({condition}\n)"); // the line ends a comment that the condition may end in
                conditions.push(condition.clone());
                conditions.push(of_new(&condition));
                columns = None;
            }
            found.push(InTheWay { condition: conditions.join(" AND "), columns });
        }
        Ok(found)
    }

    /// The table's name, qualified and quoted.
    pub fn qualified(&self, db: &Connection) -> Result<String> {
        Ok(format!("main.{}", quote(db, &self.name)?))
    }
}

/// Whether a virtual table keeps its data in the table. (SQLite tells only since 3.37, and not for modules that are not loaded.)
fn is_shadow(db: &Connection, name: &str) -> Result<bool> {
    let Some((owner, part)) = name.rsplit_once('_') else { return Ok(false) };
    if !SHADOW_PARTS.iter().any(|known| known.eq_ignore_ascii_case(part)) {
        return Ok(false);
    }
    let sql: Option<String> = db
        .prepare_cached("SELECT sql FROM main.sqlite_master WHERE type = 'table' AND name = ?1 COLLATE NOCASE")?
        .query_row([owner], |row| row.get(0))
        .optional()?
        .flatten();
    Ok(sql.is_some_and(|sql| tokens(&sql).get(1).is_some_and(|word| word.eq_ignore_ascii_case("virtual"))))
}

/// SQL as words and punctuation, without comments and white space. Quoted things stay one word, quotes included.
pub fn tokens(sql: &str) -> Vec<&str> {
    spans(sql).into_iter().map(|(from, to)| &sql[from..to]).collect()
}

/// A name as a word of SQL, without its quotes.
pub fn unquoted(name: &str) -> String {
    let mut inner = name.chars();
    match (inner.next(), inner.next_back()) {
        (Some('"'), Some('"')) => inner.as_str().replace("\"\"", "\""),
        (Some('`'), Some('`')) => inner.as_str().replace("``", "`"),
        (Some('\''), Some('\'')) => inner.as_str().replace("''", "'"),
        (Some('['), Some(']')) => inner.as_str().to_owned(),
        _ => name.to_owned(),
    }
}

fn spans(sql: &str) -> Vec<(usize, usize)> {
    let bytes = sql.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    let until = |from: usize, end: &str| sql[from..].find(end).map_or(sql.len(), |place| from + place + end.len());
    while at < bytes.len() {
        let from = at;
        match bytes[at] {
            b if b.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            b'-' if sql[at..].starts_with("--") => {
                at = until(at, "\n");
                continue;
            }
            b'/' if sql[at..].starts_with("/*") => {
                at = until(at + 2, "*/");
                continue;
            }
            quote @ (b'"' | b'\'' | b'`') => {
                at += 1;
                while at < bytes.len() {
                    if bytes[at] == quote {
                        if bytes.get(at + 1) == Some(&quote) {
                            at += 1;
                        } else {
                            break;
                        }
                    }
                    at += 1;
                }
                at = (at + 1).min(bytes.len());
            }
            b'[' => at = until(at, "]"),
            b if b == b'_' || b == b'$' || b >= 0x80 || b.is_ascii_alphanumeric() => {
                while at < bytes.len()
                    && (bytes[at] == b'_'
                        || bytes[at] == b'$'
                        || bytes[at] >= 0x80
                        || bytes[at].is_ascii_alphanumeric())
                {
                    at += 1;
                }
            }
            _ => at += 1,
        }
        found.push((from, at));
    }
    found
}

/// The terms and the condition of a `CREATE INDEX`, as SQL text.
fn index_parts(sql: &str) -> (Vec<String>, Option<String>) {
    let spans = spans(sql);
    let word = |place: usize| spans.get(place).map_or("", |(from, to)| &sql[*from..*to]);
    let Some(open) = (0..spans.len()).find(|place| word(*place) == "(") else { return (Vec::new(), None) };
    let mut terms = Vec::new();
    let mut depth = 0;
    let mut start = open + 1;
    let mut place = open;
    while place < spans.len() {
        match word(place) {
            "(" => depth += 1,
            ")" => depth -= 1,
            _ => {}
        }
        if (depth == 1 && word(place) == ",") || depth == 0 {
            terms.push(term_text(sql, &spans, start, place));
            start = place + 1;
        }
        if depth == 0 {
            break;
        }
        place += 1;
    }
    let condition = (place + 1 < spans.len() && word(place + 1).eq_ignore_ascii_case("where"))
        .then(|| spans.get(place + 2).map(|(from, _)| sql[*from..].trim().trim_end_matches(';').to_owned()))
        .flatten();
    (terms, condition)
}

/// A term without its ASC or DESC.
fn term_text(sql: &str, spans: &[(usize, usize)], from: usize, mut to: usize) -> String {
    if to > from {
        let last = &sql[spans[to - 1].0..spans[to - 1].1];
        if last.eq_ignore_ascii_case("asc") || last.eq_ignore_ascii_case("desc") {
            to -= 1;
        }
    }
    if to > from {
        sql[spans[from].0..spans[to - 1].1].to_owned()
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_an_index_are_found() {
        let (terms, condition) = index_parts(
            "CREATE UNIQUE INDEX \"i(,\" ON t(lower(a || ',') COLLATE NOCASE DESC, b /* ) */, [c d]) WHERE (a > 1) -- x\n AND b IS NOT ')'",
        );
        assert_eq!(terms, ["lower(a || ',') COLLATE NOCASE", "b", "[c d]"]);
        assert_eq!(condition.as_deref(), Some("(a > 1) -- x\n AND b IS NOT ')'"));
    }

    #[test]
    fn values_are_known_as_sqlite_stores_them() {
        let db = Connection::open_in_memory().unwrap();
        let values = ["1", " -2 ", "1.50", "1e3", "inf", "0x10", "x", ""].map(|text| Value::Text(text.into()));
        let numbers = [
            Value::Int(1),
            Value::Int(-7),
            Value::Real(2.0),
            Value::Real(0.1),
            Value::Real(1e20),
            Value::Blob(vec![49]),
        ];
        for declared in ["INTEGER", "TEXT", "REAL", "NUMERIC", "BLOB", ""] {
            db.execute_batch(&format!("DROP TABLE IF EXISTS t; CREATE TABLE t(v {declared}, k INTEGER PRIMARY KEY)"))
                .unwrap();
            let column = Table::read(&db, "t").unwrap().unwrap().columns.remove(0);
            for value in values.iter().chain(&numbers) {
                db.execute("DELETE FROM t", []).unwrap();
                db.execute("INSERT INTO t(v) VALUES (?1)", [crate::sql::Bound(value)]).unwrap();
                let held = db.query_row("SELECT v FROM t", [], |row| Ok(crate::sql::column(row, 0).unwrap())).unwrap();
                let stored = column.stored(&db, value).unwrap();
                assert_eq!(stored.unwrap_or_else(|| value.clone()), held, "{value:?} in {declared}");
            }
        }
    }

    #[test]
    fn a_table_is_read() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(
            "CREATE TABLE t(a INT, b TEXT COLLATE NOCASE UNIQUE ON /**/ CONFLICT REPLACE, c AS (a + 1), PRIMARY KEY(b, a)) WITHOUT ROWID;
             CREATE UNIQUE INDEX i ON t(a) WHERE b > 'x';",
        )
        .unwrap();
        let table = Table::read(&db, "T").unwrap().unwrap();
        assert_eq!(table.key().iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        assert!(table.columns[2].generated && table.replaces_by_itself && !table.key_is_rowid);
        assert_eq!(table.uniques.len(), 2);
        assert_eq!(table.uniques[0].condition.as_deref(), Some("b > 'x'"));
        assert_eq!(table.uniques[1].terms[0].collation, "NOCASE");
    }
}
