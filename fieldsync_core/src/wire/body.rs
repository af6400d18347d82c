//! The body: what is in it, as bytes.

use super::error::WireError;
use crate::delta::DeltaBody;
use crate::limits::Limits;
use crate::reply::ReplyBody;
use serde::{de::DeserializeOwned, Serialize};

pub(super) fn write_delta(body: &DeltaBody) -> Vec<u8> {
    write(body)
}

pub(super) fn read_delta(bytes: &[u8], limits: &Limits) -> Result<DeltaBody, WireError> {
    let body: DeltaBody = read(bytes)?;
    if body.row_changes() > limits.rows_max {
        return Err(WireError::Limit { what: "rows", most: limits.rows_max });
    }
    for table in &body.tables {
        let columns = table.columns.len();
        if columns > limits.columns_max {
            return Err(WireError::Limit { what: "columns", most: limits.columns_max });
        }
        let key_len = usize::from(table.key_len);
        let fits = key_len > 0
            && key_len <= columns
            && table.changes.iter().all(|change| {
                change.key.0.len() == key_len
                    && change.fields.iter().all(|field| (key_len..columns).contains(&usize::from(field.column)))
                    && change.fields.windows(2).all(|pair| pair[0].column < pair[1].column)
            });
        if !fits {
            return Err(WireError::Damaged("a change does not fit its table"));
        }
    }
    Ok(body)
}

pub(super) fn write_reply(body: &ReplyBody) -> Vec<u8> {
    write(body)
}

pub(super) fn read_reply(bytes: &[u8], _limits: &Limits) -> Result<ReplyBody, WireError> {
    let body: ReplyBody = read(bytes)?;
    for table in &body.tables {
        let columns = table.columns.len();
        let key_len = usize::from(table.key_len);
        let fits = key_len > 0
            && key_len <= columns
            && table.kinds.len() == columns
            && table.rows.iter().all(|row| {
                row.key.0.len() == key_len
                    && row.fields.iter().all(|(column, _)| (key_len..columns).contains(&usize::from(*column)))
            });
        if !fits {
            return Err(WireError::Damaged("a row does not fit its table"));
        }
    }
    Ok(body)
}

fn write<T: Serialize>(body: &T) -> Vec<u8> {
    // Writing into a vector cannot fail for these types: every sequence knows its length.
    postcard::to_allocvec(body).unwrap_or_default()
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    match postcard::take_from_bytes(bytes) {
        Ok((body, [])) => Ok(body),
        Ok(_) => Err(WireError::Damaged("bytes are left over")),
        Err(_) => Err(WireError::Damaged("its body cannot be read")),
    }
}
