//! Every error of the hub: what happened, to what, and what to do about it.
//!
//! One match gives each error its SQLSTATE and hint; a new variant does not build until it is there.

use crate::catch::{sqlstate_code, SqlError};
use fieldsync_core::wire::WireError;
use pgrx::pg_sys::panic::{ErrorReport, ErrorReportable};
use pgrx::PgSqlErrorCode;

/// What can go wrong on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HubError {
    /// The blob is no blob, damaged, or of another kind or format. The sender's or the carrier's fault.
    Blob(WireError),
    /// The blob is larger than a setting allows. The sender's fault, or the setting's.
    Limit(String),
    /// Nobody of that tag is registered.
    UnknownClient(u64),
    /// `client_state.sync_status` is `disabled`.
    DisabledClient(String),
    /// The client is bound to another login.
    WrongLogin {
        /// The client.
        client_id: String,
        /// Who tried.
        role: String,
    },
    /// The MAC does not fit, or there is none and there has to be one.
    BadSignature {
        /// The client.
        client_id: String,
        /// What is wrong with it.
        what: String,
    },
    /// The blob belongs to another hub.
    OtherHub(String),
    /// No staged batch of that number.
    UnknownBatch(String),
    /// A table has a filter, and filters are not built yet.
    FilterSet {
        /// The client.
        client_id: String,
        /// The table.
        table: String,
    },
    /// A table that is not enabled, or no table at all.
    NotTracked(String),
    /// More than one enabled table has that bare name.
    AmbiguousTable(String),
    /// A relation that cannot be tracked, and why.
    CannotTrack {
        /// The relation.
        table: String,
        /// Why not.
        why: String,
    },
    /// A table was altered between the moment when it was described and the one when it was locked. Nobody's fault; described anew
    /// it is as good as any.
    Altered(String),
    /// A sync column of the wrong type.
    SyncColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// Its type.
        found: String,
        /// The type it must have.
        wanted: String,
    },
    /// An option that `enable` does not know.
    BadOption(String),
    /// A rule holds a word that nobody knows.
    BadRule(String),
    /// The server is a standby or the transaction read-only.
    ReadOnly,
    /// Postgres' own error, passed on as it came.
    Sql(SqlError),
}

impl From<SqlError> for HubError {
    fn from(error: SqlError) -> Self {
        HubError::Sql(error)
    }
}

impl From<WireError> for HubError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Limit { .. } => HubError::Limit(error.to_string()),
            other => HubError::Blob(other),
        }
    }
}

/// Code, message, hint.
struct Shown {
    sqlstate: &'static str,
    message: String,
    hint: String,
}

impl HubError {
    fn shown(&self) -> Shown {
        let shown = |sqlstate, message: String, hint: &str| Shown { sqlstate, message, hint: hint.to_owned() };
        match self {
            HubError::Blob(error @ WireError::UnknownShape(_)) => shown(
                "22P03",
                format!("the blob cannot be read: {error}"),
                "The names travelled in an earlier blob of this client, which this hub has not committed.",
            ),
            HubError::Blob(error) => shown(
                "22P03",
                format!("the delta cannot be read: {error}"),
                "Send the blob again, as fs_export_delta() gave it; sync_control.inspect() shows what a good one holds.",
            ),
            HubError::Limit(what) => shown(
                "54000",
                format!("the delta is too large: {what}"),
                "Export smaller parts with fs_export_delta(max_bytes), or raise fieldsync.max_delta_bytes, \
                 fieldsync.max_expanded_bytes or fieldsync.max_rows.",
            ),
            HubError::UnknownClient(tag) => shown(
                "28000",
                format!("no client is registered under the tag {tag:016x}"),
                "Add the client with sync_control.register(client_id, client_name), using the id that fs_init() gave.",
            ),
            HubError::DisabledClient(client_id) => shown(
                "28000",
                format!("client \"{client_id}\" is disabled"),
                "Set sync_control.client_state.sync_status to 'active' to let it in again.",
            ),
            HubError::WrongLogin { client_id, role } => shown(
                "28000",
                format!("role \"{role}\" may not carry blobs of client \"{client_id}\""),
                "Log in as the role that sync_control.register() bound the client to.",
            ),
            HubError::BadSignature { client_id, what } => shown(
                "28000",
                format!("the signature of client \"{client_id}\" is refused: {what}"),
                "Run fs_init(client_id, enrolment) on the device with the text that sync_control.register() gave.",
            ),
            HubError::OtherHub(client_id) => shown(
                "55000",
                format!("the delta of client \"{client_id}\" is for another hub"),
                "Carry it to the hub that this device has synced with before, or set the device up anew for this one.",
            ),
            HubError::UnknownBatch(batch) => shown(
                "55000",
                format!("no batch {batch} is staged"),
                "Call sync_control.prepare(delta) first, and commit the batch that it gives.",
            ),
            HubError::FilterSet { client_id, table } => shown(
                "0A000",
                format!("a sync_filter is set for client \"{client_id}\" and table \"{table}\", and filters are not built yet"),
                "Set sync_control.table_sync_state.sync_filter to NULL; use row-level security to limit what a login sees.",
            ),
            HubError::NotTracked(table) => shown(
                "42P01",
                format!("table \"{table}\" is not enabled for sync"),
                "Enable it with SELECT sync_control.enable('schema.table').",
            ),
            HubError::AmbiguousTable(table) => shown(
                "42P07",
                format!("another table named \"{table}\" is enabled already, and the bare name is what travels"),
                "Disable or rename one of the two.",
            ),
            HubError::CannotTrack { table, why } => shown(
                "0A000",
                format!("{table} cannot be enabled for sync: {why}"),
                "Enable an ordinary, permanent table that has a primary key.",
            ),
            HubError::Altered(table) => shown(
                "40001",
                format!("table {table} is being altered"),
                "Send the blob again: nothing of it was taken.",
            ),
            HubError::SyncColumn { table, column, found, wanted } => shown(
                "42804",
                format!("column {column} of {table} is of type {found} and must be {wanted}"),
                "Change the column's type with ALTER TABLE … ALTER COLUMN … TYPE, then enable again.",
            ),
            HubError::BadOption(what) => shown(
                "22023",
                what.clone(),
                "The option is {\"delete\": \"hard\"} or {\"delete\": \"soft\"}.",
            ),
            HubError::BadRule(what) => shown("22023", what.clone(), "Correct sync_control.conflict_rules or field_rules."),
            HubError::ReadOnly => shown(
                "25006",
                "a standby or a read-only transaction cannot take changes".to_owned(),
                "Send the delta to the primary.",
            ),
            HubError::Sql(error) => Shown {
                sqlstate: "", // its own; see report
                message: error.message.clone(),
                hint: error.hint.clone().unwrap_or_default(),
            },
        }
    }

    /// The five characters.
    pub fn sqlstate(&self) -> String {
        match self {
            HubError::Sql(error) => error.sqlstate.clone(),
            other => other.shown().sqlstate.to_owned(),
        }
    }

    /// For Postgres.
    pub fn report(&self) -> ErrorReport {
        let shown = self.shown();
        let mut report =
            ErrorReport::new(PgSqlErrorCode::from(sqlstate_code(&self.sqlstate())), shown.message, "fieldsync");
        if !shown.hint.is_empty() {
            report = report.set_hint(shown.hint);
        }
        if let HubError::Sql(SqlError { detail: Some(detail), .. }) = self {
            report = report.set_detail(detail.clone());
        }
        report
    }
}

impl std::fmt::Display for HubError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.shown().message)
    }
}

/// Raises an error of Postgres' again.
pub fn report_sql(error: &SqlError) -> ! {
    let raised: Result<(), ErrorReport> = Err(HubError::Sql(error.clone()).report());
    raised.unwrap_or_report();
    unreachable!("an error was raised")
}
